"""Bad and odd sources: JSON lists, text lists, tables and folders, all read by `swan vocab --source`."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pyarrow.parquet
from cases import Case, Make, content, contents
from readers import KARPATHY, NWPU, TABLE, png

from swancli.prepare.entries import Entry
from swancli.prepare.sources import read_source

LATIN = "a caf\xe9".encode("latin-1")
DEEP = "[" * 200_000
HEBREW, GLOBE = "\u05e0\u05d4\u05e8 \u202eabc\u202c", "a \U0001f30d seen from \U0001f6f0\ufe0f"
LONG = "word " * 50_000


def count_words_of(format: str) -> Callable[[Path], list[object]]:
    """Arguments that read a source and write a vocabulary, which must not come into being."""
    return lambda path: [
        *("vocab", "--source", path, "--format", format, "--splits", "all"),
        *("--output", path.parent / "never" / "vocab.h5"),
    ]


def refused(format: str, table: dict[str, tuple[Make, tuple[str, ...]]]) -> list[Case]:
    return [
        Case(format, defect, make, count_words_of(format), named) for defect, (make, named) in table.items()
    ]


def read_as(format: str, *entries: Entry) -> Callable[[Path], None]:
    """A check that a source has these entries."""

    def check(path: Path) -> None:
        assert read_source(path, format).entries == list(entries)

    return check


# ---------------------------------------------------------------------------------------------------------
# karpathy


def karpathy(value: Any, *named: str) -> tuple[Make, tuple[str, ...]]:
    return content("dataset.json", value), ("dataset.json", *named)


def image(**changes: Any) -> dict[str, Any]:
    """An image of a Karpathy list; a value of Ellipsis takes the key out."""
    plain = {"filename": "1.jpg", "split": "train", "sentences": [{"raw": "a river"}]} | changes
    return {key: value for key, value in plain.items() if value is not ...}


def images(*rows: Any) -> dict[str, Any]:
    return {"images": [image(filename="0.jpg"), *rows]}


def one(raw: Any) -> dict[str, Any]:
    return images(image(sentences=[{"raw": "fine"}, {"raw": raw}]))


SOUND_JSON = json.dumps(KARPATHY)

KARPATHY_CASES = refused(
    "karpathy",
    {
        "no bytes": karpathy(b"", "not valid JSON", "line 1"),
        "cut in the middle": karpathy(SOUND_JSON[: len(SOUND_JSON) // 2], "not valid JSON", "line 1"),
        "NUL bytes": karpathy(b'{"images": \0\0}', "NUL"),
        "UTF-16": karpathy(SOUND_JSON.encode("utf-16"), "UTF-8"),
        "UTF-32 without a mark": karpathy(SOUND_JSON.encode("utf-32-le"), "UTF-8"),
        "Latin-1 letters": karpathy(b'{"images":\n[{"filename": "' + LATIN + b'"}]}', "line 2", "UTF-8"),
        "two byte-order marks": karpathy(codecs.BOM_UTF8 * 2 + SOUND_JSON.encode(), "not valid JSON"),
        "nested too deeply": karpathy(DEEP, "nested"),
        "a number of too many digits": karpathy('{"images": ' + "9" * 5000 + "}", "digits"),
        "text after the end": karpathy(SOUND_JSON + "\n{}", "line 2"),
        "a trailing comma": karpathy('{"images": [1,]}', "not valid JSON"),
        "single quotes": karpathy("{'images': []}", "not valid JSON"),
        "comments": karpathy("{} // a comment", "not valid JSON"),
        "JSON lines": karpathy(json.dumps(image()) + "\n" + json.dumps(image()), "line 2"),
        "a web page": karpathy("<!DOCTYPE html><html>404</html>", "not valid JSON"),
        "a PNG picture": karpathy(png(), "dataset.json"),
        "null": karpathy(None, "images"),
        "a number": karpathy(3, "images"),
        "text": karpathy('"images"', "images"),
        "a list": karpathy([image()], "images"),
        "an empty object": karpathy({}, "images"),
        "images of null": karpathy({"images": None}, "images"),
        "images as an object": karpathy({"images": {"1.jpg": image()}}, "images"),
        "images as text": karpathy({"images": "1.jpg"}, "images"),
        "no image": karpathy({"images": []}, "no images"),
        "a key in other letters": karpathy({"Images": [image()]}, "images"),
        "an image that is text": karpathy(images("1.jpg"), "images[1]", "str"),
        "an image that is null": karpathy(images(None), "images[1]", "NoneType"),
        "an image that is a list": karpathy(images([]), "images[1]", "list"),
        "an image without file name": karpathy(images(image(filename=...)), "images[1]", "filename"),
        "a file name of null": karpathy(images(image(filename=None)), "images[1].filename"),
        "a file name that is a number": karpathy(images(image(filename=7)), "images[1].filename", "int"),
        "a file name that is a list": karpathy(images(image(filename=["1.jpg"])), "images[1].filename"),
        "an empty file name": karpathy(images(image(filename="")), "images[1].filename"),
        "a blank file name": karpathy(images(image(filename=" \t")), "images[1].filename"),
        "a file name that is a folder's": karpathy(images(image(filename="./.")), "images[1].filename"),
        "an absolute file name": karpathy(images(image(filename="/etc/passwd")), "images[1].filename"),
        "a file name with a drive": karpathy(images(image(filename="C:\\a.jpg")), "images[1].filename"),
        "a file name that leads out": karpathy(images(image(filename="a/../../b.jpg")), "images[1].filename"),
        "a NUL in a file name": karpathy(images(image(filename="a\0.jpg")), "images[1].filename"),
        "half a surrogate in a file name": karpathy(images(image(filename="\ud800")), "images[1].filename"),
        "a file name of 5,000 letters": karpathy(images(image(filename="a" * 5000)), "images[1].filename"),
        "the same file name twice": karpathy(images(image(), image()), "images[2]", "images[1]", "1.jpg"),
        "a folder that leads out": karpathy(images(image(filepath="../b")), "images[1].filepath"),
        "a folder that is a number": karpathy(images(image(filepath=3)), "images[1].filepath"),
        "no sentences": karpathy(images(image(sentences=...)), "images[1]", "sentences"),
        "sentences of null": karpathy(images(image(sentences=None)), "images[1].sentences"),
        "sentences as text": karpathy(images(image(sentences="a")), "images[1].sentences"),
        "sentences as an object": karpathy(images(image(sentences={"raw": "a"})), "images[1].sentences"),
        "a sentence that is text": karpathy(images(image(sentences=["a"])), "images[1].sentences[0]"),
        "a sentence without raw": karpathy(
            images(image(sentences=[{"tokens": ["a"]}])), "images[1].sentences[0]", "raw", "tokens"
        ),
        "a caption of null": karpathy(one(None), "images[1].sentences[1].raw"),
        "a caption that is a number": karpathy(one(5), "images[1].sentences[1].raw", "int"),
        "a caption that is a list of words": karpathy(one(["a", "b"]), "images[1].sentences[1].raw"),
        "a caption of true": karpathy(one(True), "images[1].sentences[1].raw", "bool"),
        "an empty caption": karpathy(one(""), "images[1].sentences[1].raw", "1.jpg"),
        "a caption of wide spaces": karpathy(one("\u3000\u2003"), "images[1].sentences[1].raw"),
        "a NUL in a caption": karpathy(one("a\0b"), "images[1].sentences[1].raw"),
        "half a surrogate in a caption": karpathy(one("a \udc00"), "images[1].sentences[1].raw"),
        "an unknown split": karpathy(images(image(split="holdout")), "images[1].split", "holdout"),
        "a split that is a number": karpathy(images(image(split=0)), "images[1].split", "int"),
        "a split that is a list": karpathy(images(image(split=["train"])), "images[1].split"),
        "a scene that is a number": karpathy(images(image(scene=4)), "images[1].scene"),
        "a scene that is an object": karpathy(images(image(scene={})), "images[1].scene"),
        "a NUL in a scene": karpathy(images(image(scene="a\0")), "images[1].scene"),
        "a scene that is NaN": karpathy(
            '{"images": [{"filename": "1", "sentences": [], "scene": [NaN]}]}', "scene"
        ),
        "of another format": karpathy(NWPU, "images"),
    },
)


KARPATHY_CASES += [
    Case("karpathy", defect, content("dataset.json", value), check=read_as("karpathy", *entries))
    for defect, value, entries in (
        (
            "a byte-order mark",
            codecs.BOM_UTF8 + json.dumps({"images": [image()]}).encode(),
            [Entry("1.jpg", ("a river",), "train")],
        ),
        (
            "right-to-left text",
            {"images": [image(sentences=[{"raw": HEBREW}])]},
            [Entry("1.jpg", (HEBREW,), "train")],
        ),
        ("emoji", {"images": [image(sentences=[{"raw": GLOBE}])]}, [Entry("1.jpg", (GLOBE,), "train")]),
        (
            "a caption of 250,000 letters",
            {"images": [image(sentences=[{"raw": LONG}])]},
            [Entry("1.jpg", (LONG.strip(),), "train")],
        ),
        ("an image without captions", {"images": [image(sentences=[])]}, [Entry("1.jpg", (), "train")]),
        (
            "a backslash between folders",
            {"images": [image(filename="a\\1.jpg")]},
            [Entry("a\\1.jpg", ("a river",), "train")],
        ),
        (
            "keys that nobody knows",
            {"images": [image(imgid=0, sentids=[0])], "info": [None]},
            [Entry("1.jpg", ("a river",), "train")],
        ),
        (
            "a key that comes twice, of which the last counts",
            '{"images": 3, "images": [{"filename": "1.jpg", "sentences": []}]}',
            [Entry("1.jpg")],
        ),
        (
            "Windows line ends",
            json.dumps({"images": [image()]}, indent=1).replace("\n", "\r\n"),
            [Entry("1.jpg", ("a river",), "train")],
        ),
    )
]

# ---------------------------------------------------------------------------------------------------------
# nwpu


def nwpu(value: Any, *named: str) -> tuple[Make, tuple[str, ...]]:
    return content("dataset.json", value), ("dataset.json", *named)


def picture(**changes: Any) -> dict[str, Any]:
    plain = {"filename": "river_1.jpg", "split": "train", "raw": "a river", "raw_1": "a road"} | changes
    return {key: value for key, value in plain.items() if value is not ...}


NWPU_CASES = refused(
    "nwpu",
    {
        "cut in the middle": nwpu(json.dumps(NWPU)[:90], "not valid JSON"),
        "of another format": nwpu(KARPATHY, "NWPU"),
        "a scene that is no list": nwpu({"river": picture()}, "NWPU"),
        "an empty object": nwpu({}, "NWPU"),
        "no image in any scene": nwpu({"river": [], "road": []}, "no images"),
        "an empty scene name": nwpu({"": [picture()]}, "scene name"),
        "a NUL in a scene name": nwpu({"a\0b": [picture()]}, "scene name"),
        "half a surrogate in a scene name": nwpu(
            '{"\\ud800": [{"filename": "a", "raw": "b"}]}', "scene name"
        ),
        "an image that is text": nwpu({"river": ["1.jpg"]}, "river[0]", "str"),
        "an image that is null": nwpu({"river": [picture(), None]}, "river[1]"),
        "no file name": nwpu({"river": [picture(filename=...)]}, "river[0]", "filename"),
        "a file name that is a number": nwpu({"river": [picture(filename=1)]}, "river[0].filename"),
        "a file name that leads out": nwpu({"river": [picture(filename="../1.jpg")]}, "river[0].filename"),
        "the same file name in two scenes": nwpu(
            {"river": [picture()], "road": [picture()]}, "road[0]", "river[0]"
        ),
        "no caption": nwpu({"river": [picture(raw=...)]}, "river[0]", "raw"),
        "a caption of null": nwpu({"river": [picture(raw_1=None)]}, "river[0].raw_1"),
        "an empty caption": nwpu({"river": [picture(raw_1=" ")]}, "river[0].raw_1"),
        "captions in a list": nwpu({"river": [picture(raw=["a", "b"])]}, "river[0].raw"),
        "an unknown split": nwpu({"river": [picture(split="evaluation")]}, "river[0].split"),
        "a split of false": nwpu({"river": [picture(split=False)]}, "river[0].split"),
    },
)
NWPU_CASES += [
    Case(
        "nwpu",
        "eleven captions, in the order of their numbers",
        content("dataset.json", {"river": [picture(**{f"raw_{n}": f"caption {n}" for n in (10, 9, 2, 1)})]}),
        check=read_as(
            "nwpu",
            Entry(
                "river_1.jpg",
                ("a river", "caption 1", "caption 2", "caption 9", "caption 10"),
                "train",
                "river",
            ),
        ),
    ),
    Case(
        "nwpu",
        "a scene in Arabic letters",
        content("dataset.json", {"\u0646\u0647\u0631": [picture(raw_1=...)]}),
        check=read_as("nwpu", Entry("river_1.jpg", ("a river",), "train", "\u0646\u0647\u0631")),
    ),
]

# ---------------------------------------------------------------------------------------------------------
# precomp


def precomp(names: Any, captions: Any, *named: str, **more: Any) -> tuple[Make, tuple[str, ...]]:
    files = {"train_filename": names, "train_caps": captions, **more}
    return contents("", **{name: value for name, value in files.items() if value is not None}), named


PRECOMP_CASES = refused(
    "precomp",
    {
        "no list of file names": precomp(None, "a\n", "train_filename.txt"),
        "no list of captions": precomp("1.jpg\n", None, "precomp"),
        "an empty list of file names": precomp("", "a\n", "train_filename.txt", "train_caps.txt"),
        "an empty list of captions": precomp("1.jpg\n", "", "train_caps.txt", "0"),
        "captions that are no multiple of the images": precomp(
            "1\n2\n", "a\nb\nc\n", "train_caps.txt", "3", "2"
        ),
        "an empty caption among others": precomp("1\n2\n", "a\n\nb\nc\n", "train_caps.txt", "line 2"),
        "a caption of spaces among others": precomp("1\n2\n", "a\n  \nb\nc\n", "train_caps.txt", "line 2"),
        "NUL bytes in the captions": precomp("1\n", b"a\0b\n", "train_caps.txt", "NUL"),
        "NUL bytes in the file names": precomp(b"1\0\n", "a\n", "train_filename.txt", "NUL"),
        "captions in Latin-1": precomp("1\n2\n", b"a\n" + LATIN + b"\n", "train_caps.txt", "line 2"),
        "file names in Latin-1": precomp(LATIN + b"\n", "a\n", "train_filename.txt", "line 1"),
        "captions in UTF-16": precomp("1\n", "a\n".encode("utf-16"), "train_caps.txt"),
        "a file name that leads out": precomp("1\n../2\n", "a\nb\n", "train_filename.txt", "line 2"),
        "an absolute file name": precomp("/1\n", "a\n", "train_filename.txt", "line 1"),
        "the same file name twice, with several captions each": precomp(
            "1\n1\n", "a\nb\nc\nd\n", "train_filename.txt", "line 2"
        ),
        "an image that is in train and in test": precomp(
            "1\n", "a\n", "1", "test_filename.txt", test_filename="1\n", test_caps="a\n"
        ),
        "an image in both verify lists": precomp(
            "1\n2\n",
            "a\nb\n",
            "val_filename_verify.txt",
            train_filename_verify="1\n2\n",
            val_filename_verify="2\n",
        ),
        "an image in no verify list": precomp(
            "1\n2\n",
            "a\nb\n",
            "verify",
            "2",
            train_filename_verify="1\n",
        ),
        "an image that only a verify list has": precomp(
            "1\n",
            "a\n",
            "verify",
            "9",
            train_filename_verify="1\n9\n",
        ),
        "test captions without their file names": precomp("1\n", "a\n", "test_filename.txt", test_caps="a\n"),
    },
)
PRECOMP_CASES += [
    Case("precomp", defect, precomp(names, captions)[0], check=read_as("precomp", *entries))
    for defect, names, captions, entries in (
        ("a byte-order mark in both lists", "\ufeff1.jpg\n", "\ufeffa\n", [Entry("1.jpg", ("a",), "train")]),
        (
            "Windows line ends",
            "1.jpg\r\n2.jpg\r\n",
            "a\r\nb\r\n",
            [Entry("1.jpg", ("a",), "train"), Entry("2.jpg", ("b",), "train")],
        ),
        ("no line end at the end", "1.jpg", "a\nb", [Entry("1.jpg", ("a", "b"), "train")]),
        (
            "a form feed and a line separator inside of a caption",
            "1.jpg\n",
            "a\x0cb\u2028c\n",
            [Entry("1.jpg", ("a\x0cb\u2028c",), "train")],
        ),
        ("right-to-left text", "1.jpg\n", HEBREW + "\n", [Entry("1.jpg", (HEBREW,), "train")]),
        (
            "an image of blank captions alone",
            "1.jpg\n2.jpg\n",
            "\n\na\nb\n",
            [Entry("1.jpg", (), "train"), Entry("2.jpg", ("a", "b"), "train")],
        ),
    )
]

# ---------------------------------------------------------------------------------------------------------
# ucm


def ucm(descriptions: Any, *named: str, **names: Any) -> tuple[Make, tuple[str, ...]]:
    files = {"filenames_train": "1.tif\n2.tif\n", **names}
    if descriptions is not None:
        files["descriptions_small"] = descriptions
    return contents("", **{name: value for name, value in files.items() if value is not None}), named


DESCRIBED = "1 a river\n2 a road\n"
UCM_CASES = refused(
    "ucm",
    {
        "no list of captions": ucm(None, "ucm"),
        "two lists of captions": ucm(DESCRIBED, "descriptions_other.txt", descriptions_other=DESCRIBED),
        "no list of file names": ucm(DESCRIBED, "filenames_train.txt", filenames_train=None),
        "an empty list of file names": ucm(DESCRIBED, "filenames_train.txt", filenames_train=""),
        "an empty list of captions": ucm("", "descriptions_small.txt", "1.tif"),
        "a line without number": ucm(DESCRIBED + "a roof\n", "descriptions_small.txt", "line 3"),
        "a line of a number alone": ucm(DESCRIBED + "2\n", "descriptions_small.txt", "line 3"),
        "a negative number": ucm(DESCRIBED + "-1 a\n", "descriptions_small.txt", "line 3"),
        "a number with a point": ucm(DESCRIBED + "1.0 a\n", "descriptions_small.txt", "line 3"),
        "a tab after the number": ucm(DESCRIBED + "1\ta\n", "descriptions_small.txt", "line 3"),
        "a number of 5,000 digits": ucm("9" * 5000 + " a\n", "descriptions_small.txt", "line 1"),
        "an image that no list names": ucm(DESCRIBED + "3 a\n", "descriptions_small.txt", "line 3"),
        "an image without caption": ucm("1 a\n", "descriptions_small.txt", "2.tif"),
        "NUL bytes": ucm(b"1 a\0\n", "descriptions_small.txt", "NUL"),
        "captions in Latin-1": ucm(b"1 a\n2 " + LATIN + b"\n", "descriptions_small.txt", "line 2"),
        "a file name without number": ucm(
            DESCRIBED, "filenames_train.txt", "line 1", filenames_train="a.tif\n"
        ),
        "a file name of 5,000 digits": ucm(
            DESCRIBED, "filenames_train.txt", "line 1", filenames_train="9" * 5000 + ".tif\n"
        ),
        "a file name that leads out": ucm(
            DESCRIBED, "filenames_train.txt", "line 2", filenames_train="1.tif\n../2.tif\n"
        ),
        "the same number twice": ucm(
            DESCRIBED, "filenames_train.txt", "line 3", filenames_train="1.tif\n2.tif\n01.tif\n"
        ),
        "an image in two splits": ucm(DESCRIBED, "filenames_test.txt", "line 1", filenames_test="2.tif\n"),
        "file names in UTF-16": ucm(
            DESCRIBED, "filenames_train.txt", filenames_train="1.tif".encode("utf-16")
        ),
    },
)
UCM_CASES += [
    Case(
        "ucm",
        defect,
        ucm(text)[0],
        check=read_as("ucm", *(Entry(f"{n}.tif", texts, "train") for n, texts in entries)),
    )
    for defect, text, entries in (
        ("a byte-order mark", "\ufeff1 a\n2 b\n", [(1, ("a",)), (2, ("b",))]),
        ("blank lines between captions", "1 a\n\n2 b\n", [(1, ("a",)), (2, ("b",))]),
        ("numbers in Arabic digits", "\u0661 a\n2 b\n", [(1, ("a",)), (2, ("b",))]),
        ("captions out of order", "2 b\n1 a\n2 c\n", [(2, ("b", "c")), (1, ("a",))]),
        ("emoji", f"1 {GLOBE}\n2 b\n", [(1, (GLOBE,)), (2, ("b",))]),
    )
]

# ---------------------------------------------------------------------------------------------------------
# tables


def csv(value: Any, *named: str) -> tuple[Make, tuple[str, ...]]:
    return content("table.csv", value), ("table.csv", *named)


HEAD = "filename,caption,split,scene\n"


def table_arguments(path: Path) -> list[object]:
    return count_words_of("table")(path)


CSV_REFUSED = {
    "no bytes": csv(b""),
    "a header alone": csv(HEAD, "no images"),
    "blank lines alone": csv("\n\n\n"),
    "no caption column": csv("filename,text\n1.jpg,a\n", "caption", "text"),
    "no file name column": csv("image,caption\n1.jpg,a\n", "filename", "image"),
    "two columns of one name": csv("filename,caption,Caption\n1.jpg,a,b\n", "caption"),
    "semicolons": csv("filename;caption\n1.jpg;a\n", "filename;caption"),
    "tabs": csv("filename\tcaption\n1.jpg\ta\n", "filename"),
    "more values than the header": csv("filename,caption\n1.jpg,a,b\n", "quotes"),
    "one row with more values": csv("filename,caption\n1.jpg,a\n2.jpg,a,b\n", "line 3"),
    "one row with fewer values": csv("filename,caption\n1.jpg,a\n2.jpg\n", "row 3", "caption"),
    "a quote that does not end": csv('filename,caption\n1.jpg,"a\n2.jpg,b\n', "table.csv"),
    "an empty file name": csv(HEAD + ",a,train,\n", "row 2", "filename"),
    "an empty caption": csv(HEAD + "1.jpg,a,train,\n1.jpg,,train,\n", "row 3", "caption"),
    "a blank caption": csv(HEAD + '1.jpg,"  ",train,\n', "row 2", "caption"),
    "a file name that leads out": csv(HEAD + "../1.jpg,a,train,\n", "row 2", "filename"),
    "an absolute file name": csv(HEAD + "/1.jpg,a,train,\n", "row 2", "filename"),
    "an unknown split": csv(HEAD + "1.jpg,a,train,\n2.jpg,a,later,\n", "row 3", "split", "later"),
    "two splits of one image": csv(HEAD + "1.jpg,a,train,\n1.jpg,b,test,\n", "row 3", "1.jpg", "split"),
    "two scenes of one image": csv(HEAD + "1.jpg,a,train,x\n1.jpg,b,train,y\n", "row 3", "1.jpg", "scene"),
    "NUL bytes": csv(b"filename,caption\n1.jpg,a\0b\n", "NUL"),
    "UTF-16": csv(TABLE.encode("utf-16"), "UTF-8"),
    "captions in Latin-1": csv(b"filename,caption\n1.jpg," + LATIN + b"\n", "line 2"),
    "a workbook of Excel": csv(b"PK\x03\x04" + b"\0" * 60, "table.csv"),
    "an index in front of the header's columns": csv("filename,caption\n0,1.jpg,a\n1,2.jpg,b\n", "quotes"),
}
CSV_CASES = [
    Case("csv", defect, make, table_arguments, named) for defect, (make, named) in CSV_REFUSED.items()
]
CSV_CASES += [
    Case("csv", defect, content("table.csv", text), check=read_as("table", *entries))
    for defect, text, entries in (
        ("a byte-order mark", codecs.BOM_UTF8 + b"filename,caption\n1.jpg,a\n", [Entry("1.jpg", ("a",))]),
        ("Windows line ends", "filename,caption\r\n1.jpg,a\r\n", [Entry("1.jpg", ("a",))]),
        ("old Macintosh line ends", "filename,caption\r1.jpg,a\r", [Entry("1.jpg", ("a",))]),
        ("a line break within quotes", 'filename,caption\n1.jpg,"a\nb"\n', [Entry("1.jpg", ("a\nb",))]),
        (
            "the words NA and null as captions",
            "filename,caption\n1.jpg,NA\n1.jpg,null\n",
            [Entry("1.jpg", ("NA", "null"))],
        ),
        ("numbers as captions", "filename,caption\n1.jpg,007\n", [Entry("1.jpg", ("007",))]),
        ("blanks around the names of columns", " FileName , CAPTION \n1.jpg,a\n", [Entry("1.jpg", ("a",))]),
        ("right-to-left text", f"filename,caption\n1.jpg,{HEBREW}\n", [Entry("1.jpg", (HEBREW,))]),
        (
            "a caption of 250,000 letters",
            f"filename,caption\n1.jpg,{LONG}\n",
            [Entry("1.jpg", (LONG.strip(),))],
        ),
        ("blank lines between rows", "filename,caption\n\n1.jpg,a\n\n", [Entry("1.jpg", ("a",))]),
    )
]

TSV_CASES = [
    Case("tsv", defect, content("table.tsv", text), table_arguments, ("table.tsv", *named))
    for defect, text, named in (
        ("commas", TABLE, ("filename,caption",)),
        ("a tab in a caption", "filename\tcaption\n1.jpg\ta\n2.jpg\ta\tb\n", ("line 3",)),
        ("an empty caption", "filename\tcaption\n1.jpg\t\n", ("row 2", "caption")),
        ("NUL bytes", b"filename\tcaption\n\0", ("NUL",)),
    )
]


def parquet(**columns: Any) -> Make:
    """A Parquet file of columns; a caption column unless there is one."""

    def make(folder: Path) -> Path:
        table = pyarrow.table({"filename": ["1.jpg"], "caption": ["a"]} | columns)
        pyarrow.parquet.write_table(table, folder / "table.parquet")
        return folder / "table.parquet"

    return make


def parquet_bytes(change: Callable[[bytes], bytes]) -> Make:
    def make(folder: Path) -> Path:
        path = parquet()(folder)
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


def scribbled(data: bytes) -> bytes:
    """With other bytes in the middle, where the columns' description is."""
    return data[:40] + bytes(255 - byte for byte in data[40:-8]) + data[-8:]


def parquet_of(columns: dict[str, Any]) -> Make:
    """A Parquet file of these columns alone."""

    def make(folder: Path) -> Path:
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / "table.parquet")
        return folder / "table.parquet"

    return make


def repeated_column(folder: Path) -> Path:
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 3, names=["filename", "caption", "caption"])
    pyarrow.parquet.write_table(table, folder / "table.parquet")
    return folder / "table.parquet"


PARQUET_CASES = [
    Case("parquet", defect, make, table_arguments, ("table.parquet", *named))
    for defect, make, named in (
        ("no bytes", content("table.parquet", b""), ()),
        ("text", content("table.parquet", TABLE), ("Parquet",)),
        ("cut in the middle", parquet_bytes(lambda data: data[: len(data) // 2]), ("Parquet",)),
        ("without its end", parquet_bytes(lambda data: data[:-4]), ("Parquet",)),
        ("scribbled over", parquet_bytes(scribbled), ("Parquet",)),
        ("no caption column", parquet_of({"filename": ["1.jpg"]}), ("caption",)),
        ("two columns of one name", repeated_column, ("caption",)),
        (
            "no row",
            parquet_of({"filename": pyarrow.array([], "string"), "caption": pyarrow.array([], "string")}),
            ("no images",),
        ),
        ("captions that are numbers", parquet(caption=[3]), ("row 2", "caption")),
        ("captions that are fractions", parquet(caption=[0.5]), ("row 2", "caption")),
        ("captions that are lists", parquet(caption=[["a", "b"]]), ("row 2", "caption")),
        ("captions that are objects", parquet(caption=[{"raw": "a"}]), ("row 2", "caption")),
        ("captions that are bytes", parquet(caption=[b"a"]), ("row 2", "caption")),
        ("a caption of null", parquet(caption=pyarrow.array([None], "string")), ("row 2", "caption")),
        ("a NUL in a caption", parquet(caption=["a\0b"]), ("row 2", "caption")),
        ("file names that are numbers", parquet(filename=[1]), ("row 2", "filename")),
        ("a file name of null", parquet(filename=pyarrow.array([None], "string")), ("row 2", "filename")),
        ("splits that are numbers", parquet(split=[0]), ("row 2", "split")),
        ("scenes that are dates", parquet(scene=[pandas.Timestamp(0)]), ("row 2", "scene")),
        ("splits that are lists", parquet(split=[["train"]]), ("row 2", "split")),
    )
]
PARQUET_CASES += [
    Case(
        "parquet",
        "null splits and scenes",
        parquet(split=pyarrow.array([None], "string"), scene=pyarrow.array([None], "string")),
        check=read_as("table", Entry("1.jpg", ("a",))),
    ),
    Case(
        "parquet",
        "categories in place of text",
        parquet(split=pyarrow.array(["train"]).dictionary_encode()),
        check=read_as("table", Entry("1.jpg", ("a",), "train")),
    ),
    Case("parquet", "emoji", parquet(caption=[GLOBE]), check=read_as("table", Entry("1.jpg", (GLOBE,)))),
]

# ---------------------------------------------------------------------------------------------------------
# folders, and which source is meant


def folder_with(*names: str) -> Make:
    def make(folder: Path) -> Path:
        for name in names:
            path = folder / "source" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png())
        (folder / "source").mkdir(exist_ok=True)
        return folder / "source"

    return make


def unnamed_format(path: Path) -> list[object]:
    """As `count_words_of`, where the format is to be recognised."""
    return ["vocab", "--source", path, "--splits", "all", "--output", path.parent / "never" / "vocab.h5"]


def both_lists(folder: Path) -> Path:
    content("source/dataset_a.json", {"images": []})(folder)
    content("source/dataset_b.json", {"images": []})(folder)
    return folder / "source"


def list_and_table(folder: Path) -> Path:
    content("source/dataset.json", {"images": []})(folder)
    content("source/table.csv", HEAD)(folder)
    return folder / "source"


def list_that_is_a_folder(folder: Path) -> Path:
    (folder / "source" / "dataset.json").mkdir(parents=True)
    return folder / "source"


FOLDER_CASES = [
    Case(
        "folder", "nothing there", lambda folder: folder / "nowhere", unnamed_format, ("nowhere", "no such")
    ),
    Case("folder", "no file in it", folder_with(), unnamed_format, ("source",)),
    Case("folder", "no image among its files", folder_with("notes.doc"), unnamed_format, ("source",)),
    Case("folder", "hidden images alone", folder_with("._1.jpg"), unnamed_format, ("source",)),
    Case("folder", "two JSON lists", both_lists, unnamed_format, ("dataset_a.json", "dataset_b.json")),
    Case("folder", "a JSON list and a table", list_and_table, unnamed_format, ("dataset.json", "table.csv")),
    Case("folder", "a folder named like a list", list_that_is_a_folder, unnamed_format, ("dataset.json",)),
    Case("folder", "images alone to count words in", folder_with("1.jpg"), unnamed_format, ("no captions",)),
    Case(
        "folder", "a file of an unknown kind", content("source.xlsx", b"PK"), unnamed_format, ("source.xlsx",)
    ),
    Case(
        "folder",
        "a file in place of a folder of images",
        content("a.png", png()),
        count_words_of("folder"),
        ("a.png",),
    ),
    Case(
        "folder",
        "a caption list in place of its folder",
        lambda folder: precomp("1\n", "a\n")[0](folder) / "train_caps.txt",
        count_words_of("precomp"),
        ("train_caps.txt",),
    ),
    Case(
        "folder",
        "file names in natural order, in upper and lower case",
        folder_with("10.JPG", "2.jpg", "a/1.PNG"),
        check=read_as("folder", Entry("2.jpg"), Entry("10.JPG"), Entry("a/1.PNG")),
    ),
    Case(
        "folder",
        "a file name in Chinese",
        folder_with("\u6cb3\u6d41.jpg"),
        check=read_as("folder", Entry("\u6cb3\u6d41.jpg")),
    ),
]

CASES = [
    *KARPATHY_CASES,
    *NWPU_CASES,
    *PRECOMP_CASES,
    *UCM_CASES,
    *CSV_CASES,
    *TSV_CASES,
    *PARQUET_CASES,
    *FOLDER_CASES,
]
