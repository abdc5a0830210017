"""Bad scenes, annotations of them, lines of text, and requests to the page."""

from __future__ import annotations

import asyncio
import codecs
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlencode

import h5py
from cases import Case, Make, content, refuses
from image_inputs import half, noise, png_of, retagged, saved
from readers import png, read_scene, write_checkpoint, write_small_embeddings

from swancli.embed.embed import embed_texts, text_lines
from swancli.model.checkpoint import file_sha256
from swancli.model.encoder import Encoder
from swancli.query.search import open_search
from swancli.query.serve import LARGEST_UPLOAD, Service, application
from swancli.scene_image.annotations import read_annotations
from swancli.store.pictures import Pictures
from swancli.vocab.vocabulary import tokenize

# ---------------------------------------------------------------------------------------------------------
# annotations


def annotation(**changes: Any) -> dict[str, Any]:
    plain = {"jpg_name": "scene.png", "caption": "a river", "points": [[[0, 0], [9, 0], [9, 9]]]} | changes
    return {key: value for key, value in plain.items() if value is not ...}


def annotated(value: Any) -> Make:
    def make(folder: Path) -> Path:
        content("scene.png", png())(folder)
        return content("places.json", value)(folder)

    return make


def localize(path: Path) -> list[object]:
    return ["eval", "--localization", path, "--checkpoint", "shipped"]


SOUND = annotation()
ANNOTATIONS = {
    "no bytes": (b"", "line 1"),
    "cut in the middle": (json.dumps([SOUND])[:40], "line 1"),
    "NUL bytes": (b"[\0]", "NUL"),
    "UTF-16": (json.dumps([SOUND]).encode("utf-16"), "UTF-8"),
    "nested too deeply": ("[" * 200_000, "nested"),
    "an object": (SOUND, "list"),
    "an empty list": ([], "list"),
    "an annotation that is text": ([SOUND, "a"], "annotation 2"),
    "an annotation of null": ([SOUND, None], "annotation 2"),
    "no scene": ([annotation(jpg_name=...)], "annotation 1"),
    "a scene that is a number": ([annotation(jpg_name=1)], "annotation 1"),
    "a scene that is not there": ([annotation(jpg_name="none.png")], "none.png"),
    "a NUL in a scene's name": ([annotation(jpg_name="a\0b")], "annotation 1"),
    "an empty scene name": ([annotation(jpg_name="")], "annotation 1"),
    "no caption": ([annotation(caption=...)], "annotation 1"),
    "a caption that is a list": ([annotation(caption=["a"])], "annotation 1"),
    "a caption without a word": ([annotation(caption="?!")], "no word"),
    "no points": ([annotation(points=...)], "annotation 1"),
    "no polygon": ([annotation(points=[])], "annotation 1"),
    "points of null": ([annotation(points=None)], "annotation 1"),
    "a polygon of two points": ([annotation(points=[[[0, 0], [9, 9]]])], "annotation 1"),
    "a polygon of one point three times": ([annotation(points=[[[1, 1]] * 3])], "annotation 1"),
    "points of three numbers": ([annotation(points=[[[0, 0, 0]] * 3])], "annotation 1"),
    "ragged points": ([annotation(points=[[[0, 0], [9], [9, 9]]])], "annotation 1"),
    "points in words": ([annotation(points=[[["a", "b"]] * 3])], "annotation 1"),
    "points that are NaN": (
        '[{"jpg_name": "scene.png", "caption": "a", "points": [[[NaN, 0], [9, 0], [9, 9]]]}]',
        "annotation 1",
    ),
}
ANNOTATION_CASES = [
    Case("annotations", defect, annotated(value), localize, ("places.json", named))
    for defect, (value, named) in ANNOTATIONS.items()
]


def reads_one(path: Path) -> None:
    assert [row.caption for row in read_annotations(path)] == ["a river"]


ANNOTATION_CASES += [
    Case(
        "annotations",
        "a byte-order mark",
        annotated(codecs.BOM_UTF8 + json.dumps([SOUND]).encode()),
        check=reads_one,
    )
]

# ---------------------------------------------------------------------------------------------------------
# scenes, which GDAL reads


PLAIN = saved(noise(), "TIFF")
SCENE_CASES = [
    Case("scene", defect, content(name, data), check=refuses(read_scene, name, *named))
    for defect, name, data, named in (
        ("no bytes", "scene.tif", b"", ()),
        ("text", "scene.tif", b"hello", ()),
        ("NUL bytes", "scene.tif", bytes(999), ()),
        ("cut in the middle", "scene.tif", half(PLAIN), ()),
        ("cut within its header", "scene.tif", PLAIN[:6], ()),
        ("no width", "scene.png", png_of(0, 9, b""), ()),
        ("an unknown compression", "scene.tif", retagged(PLAIN, 259, 60_001), ()),
        ("strips that lie outside of it", "scene.tif", retagged(PLAIN, 273, 2**31), ()),
        ("a directory that is itself", "scene.tif", b"II*\0\x08\0\0\0\0\0\x08\0\0\0", ()),
    )
]
SCENE_CASES += [
    Case(
        "scene",
        "not there",
        lambda folder: folder / "scene.tif",
        lambda path: ["query", "a", "--scene-image", path],
        ("scene.tif", "no such file"),
    ),
    Case(
        "scene",
        "a folder of that name",
        lambda folder: folder,
        lambda path: ["query", "a", "--scene-image", path],
        ("no such file",),
    ),
]

# ---------------------------------------------------------------------------------------------------------
# lines of text


def embed_lines(path: Path) -> Any:
    checkpoint = path.with_name("best.pt")
    write_checkpoint(checkpoint)
    return embed_texts(Encoder(checkpoint, "cpu", captions_only=True), text_lines(path), str(path))


def lines_are(*texts: str) -> Callable[[Path], None]:
    def check(path: Path) -> None:
        assert embed_lines(path).catalogue.text.tolist() == list(texts)

    return check


LINE_CASES = [
    Case(
        "lines of --texts",
        defect,
        content("lines.txt", data),
        check=refuses(embed_lines, "lines.txt", *named),
    )
    for defect, data, named in (
        ("no bytes", b"", ("no lines",)),
        ("blank lines alone", "\n \n\t\n", ("no lines",)),
        ("Latin-1 letters", b"a\nb\n\xe9\n", ("line 3", "UTF-8")),
        ("UTF-16", "a river\n".encode("utf-16"), ("line 1", "UTF-8")),
        ("NUL bytes", b"a\nb\0c\n", ("line 2", "NUL")),
        ("a PNG picture", png(), ("line 1",)),
    )
]
LINE_CASES += [
    Case(
        "lines of --texts",
        "not there",
        lambda folder: folder / "lines.txt",
        check=refuses(embed_lines, "lines.txt", "No such file"),
    ),
    Case(
        "lines of --texts",
        "a folder",
        lambda folder: folder,
        check=refuses(lambda path: list(text_lines(path)), "directory"),
    ),
]
LINE_CASES += [
    Case("lines of --texts", defect, content("lines.txt", data), check=check)
    for defect, data, check in (
        ("a byte-order mark", codecs.BOM_UTF8 + b"a river\n", lines_are("a river")),
        ("Windows line ends", b"a\r\nb\r\n", lines_are("a", "b")),
        ("no line end at the end", b"a\nb", lines_are("a", "b")),
        ("right-to-left text", "\u05e0\u05d4\u05e8\n", lines_are("\u05e0\u05d4\u05e8")),
        ("emoji", "\U0001f30d\n", lines_are("\U0001f30d")),
        ("punctuation alone", "...\n", lines_are("...")),
        ("a line of 48,000 letters", "river " * 8_000 + "\n", lines_are(("river " * 8_000).strip())),
    )
]


def tokens_are(*words: str) -> Callable[[Path], None]:
    def check(path: Path) -> None:
        assert tokenize(path.read_text(encoding="utf-8")) == list(words)

    return check


LINE_CASES += [
    Case("tokenizer", defect, content("text.txt", text), check=tokens_are(*words))
    for defect, text, words in (
        ("nothing", "", ()),
        ("marks alone", "?!...,;", ("...",)),
        ("a NUL", "a\0b", ("a", "b")),
        ("right-to-left marks", "\u202ariver", ("\u202ariver",)),
        ("emoji between words", "a \U0001f30d b", ("a", "\U0001f30d", "b")),
        ("capital letters with a dot", "\u0130", ("i\u0307",)),
    )
]

# ---------------------------------------------------------------------------------------------------------
# requests to `swan serve`


@cache
def served() -> tuple[TemporaryDirectory, Any]:
    """The application on six images, asked by words alone."""
    folder = TemporaryDirectory()
    path = Path(folder.name) / "embeddings.h5"
    write_small_embeddings(path)
    write_checkpoint(path.with_name("best.pt"))
    with h5py.File(path, "r+") as file:
        file.attrs["checkpoint_sha256"] = file_sha256(path.with_name("best.pt"))
    searcher = open_search(path, "cpu", texts_only=True)
    pictures = Pictures(path.parent, searcher.catalogue.filename)
    return folder, application(Service(searcher, pictures), "127.0.0.1")


def ask(method: str, address: str, body: bytes = b"", host: str = "localhost") -> tuple[int, str]:
    """Status and text of the answer to one request, without a network."""
    path, _, query = address.partition("?")
    answer: dict[str, Any] = {"status": 0, "body": b""}
    sent = iter([{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}])

    async def receive() -> dict[str, Any]:
        return next(sent)

    async def send(message: dict[str, Any]) -> None:
        answer["status"] = message.get("status", answer["status"])
        answer["body"] += message.get("body", b"")

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(b"host", host.encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    asyncio.run(served()[1](scope, receive, send))
    return answer["status"], answer["body"].decode("utf-8", "replace")


def answers(status: int, *named: str, method: str = "GET") -> Callable[[Path], None]:
    """A check of what is answered to the request that a file holds: its address, and a body after a line."""

    def check(path: Path) -> None:
        address, _, body = path.read_bytes().partition(b"\n")
        found, text = ask(method, address.decode(), body)
        assert found == status, text[:300]
        for name in named:
            assert name in text

    return check


def searched(**parameters: Any) -> str:
    return "/api/search?" + urlencode(parameters, doseq=True)


def requested(defect: str, address: str | bytes, check: Callable[[Path], None]) -> Case:
    return Case("serve", defect, content("request", address), check=check)


UPLOAD = b"/api/image?name=mine.png\n"
SERVE_CASES = [
    requested("nothing to search for", searched(), answers(400, "nothing to search for")),
    requested("a text without words", searched(text="?!"), answers(400, "no word")),
    requested("a blank text", searched(text="  "), answers(400, "nothing to search for")),
    requested("a text that is too long", searched(text="a" * 3000), answers(422, "text")),
    requested("too many texts", searched(text=["a"] * 30), answers(422, "text")),
    requested("texts to keep away from alone", searched(**{"not": "a"}), answers(400, "not")),
    requested("two ways to ask", searched(text="a", like=1), answers(400, "more than one")),
    requested("a number of results in words", searched(text="a", top_k="many"), answers(422, "top_k")),
    requested("no result", searched(text="a", top_k=0), answers(422, "top_k")),
    requested("too many results", searched(text="a", top_k=10**9), answers(422, "top_k")),
    requested("a threshold in words", searched(text="a", threshold="high"), answers(422, "threshold")),
    requested("a threshold of NaN", searched(text="a", threshold="nan"), answers(400, "threshold")),
    requested("a threshold beyond 1", searched(text="a", threshold=7), answers(400, "threshold")),
    requested("a scene that is not there", searched(text="a", scene="moon"), answers(400, "moon")),
    requested("a split that is not there", searched(text="a", split="later"), answers(400, "later")),
    requested("a name that no image has", searched(text="a", files="none*"), answers(400, "none*")),
    requested("an unfinished pattern of names", searched(text="a", files="[z-a"), answers(400, "[z-a")),
    requested("something else to find", searched(text="a", find="videos"), answers(422, "find")),
    requested("a row that is not there", searched(like=99), answers(400, "99")),
    requested("a negative row", searched(like=-1), answers(422, "like")),
    requested("a row beyond all numbers", searched(like=10**40), answers(400, "1000")),
    requested("a row in words", searched(like="first"), answers(422, "like")),
    requested("an upload that is not there", searched(image="0" * 32), answers(400, "upload")),
    requested("the picture of a row in words", "/image/first", answers(422)),
    requested("the picture of a row that is not there", "/image/99", answers(400, "99")),
    requested("a picture that is gone", "/image/0", answers(400, "river_0.png")),
    requested("a picture of another size", "/image/0?size=huge", answers(422, "size")),
    requested("an upload's picture that is not there", "/upload/none", answers(400, "no longer kept")),
    requested("an address that is not there", "/api/none", answers(404)),
    requested("a page with a number in words", "/?text=a&top_k=many", answers(422, "top_k")),
    requested("a page about what is not there", "/?text=a&scene=moon", answers(400, "moon")),
    requested("an upload of no bytes", UPLOAD, answers(400, "mine.png", method="POST")),
    requested("an upload that is text", UPLOAD + b"hello", answers(400, "mine.png", method="POST")),
    requested(
        "an upload cut in the middle",
        UPLOAD + half(saved(noise(), "PNG")),
        answers(400, "mine.png", method="POST"),
    ),
    requested(
        "an upload that is a bomb",
        UPLOAD + png_of(60_000, 60_000, b"0"),
        answers(400, "mine.png", method="POST"),
    ),
    requested(
        "an upload that is too large", UPLOAD + bytes(LARGEST_UPLOAD + 1), answers(413, "MB", method="POST")
    ),
    requested(
        "emoji and right-to-left text",
        searched(text="\U0001f30d \u05e0\u05d4\u05e8 river"),
        answers(200, "results"),
    ),
    requested("a text with a NUL", searched(text="a\0river"), answers(200, "results")),
    requested("bytes that are no UTF-8", "/api/search?text=%ff%fe%20river", answers(200, "results")),
]

CASES = [*ANNOTATION_CASES, *SCENE_CASES, *LINE_CASES, *SERVE_CASES]
