"""Web page and JSON API for searching an embeddings file.

    swan serve

Images are addressed by their row in the embeddings, so no request names a path. One query is answered at a
time, and one picture is decoded at a time, whatever else waits: searches do not wait for pictures, and the
memory that a server takes does not grow with the number of requests.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import os
import re
import socket
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Literal
from urllib.parse import urlencode, urlsplit

import numpy as np
import uvicorn
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from swancli import __version__
from swancli.errors import StoreError, SwanError
from swancli.images import decode_image
from swancli.machine.device import release_freed_memory
from swancli.query.page import SIDE, ResultCard, Section, render_page
from swancli.query.questions import Answer, Find, Least, Question, Scope
from swancli.query.search import Searcher
from swancli.store.catalogue import different_names
from swancli.store.pictures import NO_IMAGE, Pictures, jpeg, why_not_shown
from swancli.store.text import printable

LOG = logging.getLogger("uvicorn.error")
LONGEST_TEXT = 2000  # characters of all texts of a query together
MOST_TEXTS = 20  # of a query, those to keep away from included
USUAL_TEXT = 200  # characters; a query of more waits for others of its kind, and not the others for it
LARGEST_UPLOAD = 20 * 2**20  # bytes of an image to search by
LARGEST_PICTURE = 75_000_000  # pixels times bands, at least three
UPLOADS_HELD = 2 * LARGEST_UPLOAD  # bytes of uploads in memory; those beyond it are answered with 503
UPLOAD_SECONDS = 60  # to receive one
UNDISTURBED = 5  # seconds; an upload that has taken longer gives way to others if memory runs out
KEPT_PICTURES = 200  # files of 30 to 300 kB, so that a large picture is decoded once
KEPT_UPLOADS = 200  # the newest images to search by
OPENED_SIDE = 1600  # pixels at most, the longer side of an opened image
MOST_RESULTS = 1000
LONGEST_PATTERN = 255  # characters of a pattern for file names
CONNECTIONS = 200  # at once; more are answered with 503
REPLACED = "these embeddings have been replaced since; to search the new ones, start swan serve again"
HOST_HEADER = re.compile(r"(?:\[([\da-fA-F:.]+)\]|([\w.-]+))(?::\d+)?")
CHOICES = (12, 24, 48, 96)  # numbers of results to choose from on the page

Text = Annotated[str, StringConstraints(max_length=LONGEST_TEXT)]
Several = Annotated[list[Text], Field(max_length=20)]
Words = Annotated[str, StringConstraints(max_length=LONGEST_TEXT, strip_whitespace=True)]
SeveralWords = Annotated[list[Words], Field(max_length=MOST_TEXTS)]
Pattern = Annotated[str, StringConstraints(max_length=LONGEST_PATTERN)]


class SearchRequest(BaseModel):
    """The parameters of a search, by the page or the API; an empty form field counts as not given."""

    model_config = ConfigDict(populate_by_name=True)  # FastAPI 0.115 passes `not` by the field's name

    text: SeveralWords = Field([], description="What to look for; several texts are averaged.")
    without: SeveralWords = Field([], alias="not", description="What results should not show.")
    image: str = Field("", max_length=64, description="Name of an uploaded image, instead of text.")
    like: int | None = Field(None, ge=0, description="Row of an image, instead of text.")
    find: Find = Field("images", description="What is ranked.")
    top_k: int = Field(24, ge=1, le=MOST_RESULTS, description="Number of results.")
    threshold: Least = Field(
        -1.0, description="Lowest score, -1 to 1; auto: that of a match among the images searched."
    )
    scene: Several = Field([], description="Only images of these scenes.")
    split: Text = Field("", description="Only images of this split.")
    files: Pattern = Field(
        "", description="Only images whose file name matches this pattern, as in harbor_*."
    )

    @field_validator("text", "without", "scene")
    @classmethod
    def filled_in(cls, texts: list[str]) -> list[str]:
        """The texts that are not empty."""
        return [text for text in texts if text]

    @model_validator(mode="after")
    def not_too_long(self) -> SearchRequest:
        """Refuses texts that together take seconds to encode."""
        if self.length > LONGEST_TEXT or len(self.text) + len(self.without) > MOST_TEXTS:
            raise ValueError(f"at most {MOST_TEXTS} texts, of {LONGEST_TEXT} characters together")
        return self

    @property
    def length(self) -> int:
        """Characters of all its texts."""
        return sum(map(len, (*self.text, *self.without)))

    @property
    def ways(self) -> int:
        """How many ways to ask it uses; a search needs one."""
        return bool(self.text) + bool(self.image) + (self.like is not None)


class SearchResult(BaseModel):
    """One result. image: address of the picture, null for a caption without one."""

    rank: int
    score: float
    filename: str
    scene: str | None
    captions: list[str]
    image: str | None


class SearchResponse(BaseModel):
    """The results of one query, best first. Scores are cosine similarities, from -1 to 1."""

    query: str
    unknown_words: list[str]
    results: list[SearchResult]


class Uploaded(BaseModel):
    """The name of an uploaded image, for searching by it: `?image=NAME`."""

    image: str


class Failure(BaseModel):
    """Why a request failed."""

    error: str


@dataclass(frozen=True)
class UploadedImage:
    """An image to search by.

    vector: its embedding, float32 (1, D).
    name: of its file.
    preview: a small JPEG of it.
    """

    vector: np.ndarray
    name: str
    preview: bytes


class Service:
    """Answers requests from one searcher."""

    def __init__(self, searcher: Searcher, pictures: Pictures) -> None:
        self.searcher = searcher
        self.pictures = pictures
        self._uploads: OrderedDict[str, UploadedImage] = OrderedDict()
        self._asking = Lock()  # one query uses all cores
        self._jpeg = lru_cache(KEPT_PICTURES)(self._decoded_picture)
        names = "\n".join([searcher.checkpoint.sha256, *searcher.catalogue.filename])
        self._tag = hashlib.sha256(printable(names).encode()).hexdigest()[:12]
        try:
            self._match = searcher.match_threshold
        except StoreError:  # it is damaged
            raise
        except SwanError:  # there is none
            self._match = None
        catalogue = searcher.catalogue
        self._choices = {
            "scene": _names_or_any(catalogue.scene),
            "split": _names_or_any(catalogue.split),
            "find": [("images", "images"), *([("captions", "captions")] if len(catalogue.text) else [])],
            "threshold": [("-1.0", "any"), *([("auto", "a match")] if self._match else [])],
        }
        release_freed_memory()  # what loading took

    def ask(self, asked: SearchRequest) -> Answer:
        """The answer to a request.

        Raises:
            SwanError: it cannot be answered.
        """
        scope = self._scope(asked)
        if asked.ways > 1:
            raise SwanError("more than one way to ask", "give one of text, image and like")
        if asked.without and not asked.text:
            raise SwanError("not: needs a text", "give text too")
        with self._asking:
            if asked.text:
                question = Question(tuple(asked.text), tuple(asked.without))
                (answer,) = self.searcher.ask_texts([question], scope)
            elif asked.image:
                upload = self.upload(asked.image)
                answer = self.searcher.ask_vector(upload.vector, upload.name, scope)
            elif asked.like is not None:
                answer = self.searcher.ask_row(self.checked_row(asked.like), scope)
            else:
                raise SwanError("nothing to search for", "give text, image or like")
        if answer.error:
            raise answer.error
        return answer

    def _scope(self, asked: SearchRequest) -> Scope:
        least = asked.threshold
        if least == "auto":
            if not self._match:
                raise SwanError("threshold=auto: this model has no match score", "give a number")
        elif not -1 <= least <= 1:
            raise SwanError(f"threshold={least}: not from -1 to 1", "give a number from -1 to 1, or auto")
        scenes, split, files = tuple(asked.scene), asked.split or None, asked.files or None
        return Scope(asked.find, asked.top_k, least, scenes, split, files)

    def keep(self, data: bytes, name: str) -> str:
        """Stores an image to search by; returns its name for requests.

        Raises:
            SwanError: it is not an image, or too large.
        """
        try:
            pixels = decode_image(data, name, self.searcher.rendering, most_samples=LARGEST_PICTURE)
            key, preview = hashlib.sha256(data).hexdigest()[:32], jpeg(pixels, SIDE)
            with self._asking:
                self._uploads[key] = UploadedImage(self.searcher.encoder.images([pixels]), name, preview)
                self._uploads.move_to_end(key)
                while len(self._uploads) > KEPT_UPLOADS:
                    self._uploads.popitem(last=False)
        finally:
            release_freed_memory()
        return key

    def upload(self, key: str) -> UploadedImage:
        """An uploaded image.

        Raises:
            SwanError: there is none of that name, or it has been dropped.
        """
        try:
            return self._uploads[key]
        except KeyError:
            raise SwanError("the image to search by is no longer kept", "upload it again") from None

    def checked_row(self, row: int) -> int:
        """The row.

        Raises:
            SwanError: there is no such row.
        """
        if not 0 <= row < len(self.searcher.catalogue.filename):
            raise SwanError(f"there is no image {row}")
        return row

    def picture(self, row: int, side: int) -> bytes:
        """An image of the embeddings as JPEG; its `SwanError` names no path of this machine."""
        name = self.searcher.catalogue.filename[self.checked_row(row)]
        try:
            return self._jpeg(row, side)
        except SwanError as error:
            raise SwanError(f"{name}: {why_not_shown(error)}") from error

    def _decoded_picture(self, row: int, side: int) -> bytes:
        try:
            pixels = self.pictures.pixels(row)
            release_freed_memory()
            return jpeg(pixels, side)
        finally:
            release_freed_memory()

    @property
    def replaced(self) -> bool:
        """Whether the embeddings file was written again, or removed, since it was opened. It stays open."""
        file = self.searcher.embeddings.image.file
        opened = os.fstat(file.id.get_vfd_handle())
        try:
            now = Path(file.filename).stat()
        except OSError:
            return True
        return (now.st_dev, now.st_ino) != (opened.st_dev, opened.st_ino)

    def found(self, answer: Answer) -> SearchResponse:
        """An answer in the form of the API."""
        results = []
        for hit in answer.hits:
            shown = hit.record() | {"filename": printable(hit.filename)}
            results.append(SearchResult(**shown, image=self._address(hit.row) or None))
        question = printable(answer.question)  # a file name, in a search for similar images
        return SearchResponse(query=question, unknown_words=list(answer.unknown), results=results)

    def _address(self, row: int, size: str = "small") -> str:
        # The tag keeps browsers from caching pictures across different embeddings.
        return f"/image/{row}?size={size}&of={self._tag}" if row >= 0 else ""

    def _similar(self, row: int, asked: SearchRequest) -> str:
        """Address of a search for similar images, with the filters of the current search."""
        filters = {name: getattr(asked, name) for name in ("scene", "split", "files")}
        wanted = {"like": row, "top_k": asked.top_k} | {name: of for name, of in filters.items() if of}
        return f"/?{urlencode(wanted, doseq=True)}" if row >= 0 else ""

    def page(self, asked: SearchRequest, answer: Answer | None, message: str = "") -> str:
        """The page: the form as it was filled in, and the answer if there is one."""
        sections = []
        if answer:
            cards = [
                ResultCard(
                    f"r{hit.rank}",
                    hit,
                    picture=self._address(hit.row),
                    absent="" if hit.row >= 0 else NO_IMAGE,
                    whole=self._address(hit.row, "large"),
                    similar=self._similar(hit.row, asked),
                )
                for hit in answer.hits
            ]
            asked_with = f"/upload/{asked.image}" if asked.image else ""
            if asked.like is not None:
                asked_with = self._address(asked.like)
            sections = [Section(answer, cards, asked_with)]
        title = f"{answer.question} · swan" if answer else "swan"
        if self.replaced:
            message = f"{message}; {REPLACED}" if message else REPLACED
        return render_page(title, sections, form=self._form(asked), message=message)

    def _form(self, asked: SearchRequest) -> Mapping[str, Any]:
        counts = [(str(number), str(number)) for number in sorted({*CHOICES, asked.top_k})]
        chosen = {name: str(getattr(asked, name)) for name in ("split", "find", "threshold", "top_k")}
        return {
            "asked": asked,
            "longest": LONGEST_TEXT,
            "choices": {**self._choices, "top_k": counts},
            "chosen": {**chosen, "scene": next(iter(asked.scene), "")},
        }


def _names_or_any(column: np.ndarray) -> list[tuple[str, str]]:
    return [("", "any"), *((name, name) for name in different_names(column))]


class Uploads:
    """The uploads that are received or waiting, all in memory, together at most `UPLOADS_HELD` bytes."""

    def __init__(self) -> None:
        self._held = 0
        self._coming: dict[asyncio.Timeout, float] = {}  # when each began, the oldest first

    @asynccontextmanager
    async def received(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a request, which counts as held until the block ends.

        Raises:
            HTTPException: it is larger than the largest upload, takes too long, or memory has run out.
        """
        parts, size = [], 0
        try:
            async with asyncio.timeout(UPLOAD_SECONDS) as limit:
                self._coming[limit] = time.monotonic()
                async for part in request.stream():
                    size, self._held = size + len(part), self._held + len(part)
                    if size > LARGEST_UPLOAD:
                        raise HTTPException(413, f"larger than {LARGEST_UPLOAD // 2**20} MB; make it smaller")
                    if self._held > UPLOADS_HELD:
                        self._drop_oldest()
                    parts.append(part)
            self._coming.pop(limit, None)
            data = b"".join(parts)
            parts.clear()
            yield data
        except TimeoutError as error:
            raise HTTPException(408, "the image did not come in time") from error
        finally:
            self._coming.pop(limit, None)
            self._held -= size

    def _drop_oldest(self) -> None:
        """Ends the upload that has taken longest, so that slow ones do not keep others waiting.

        Raises:
            HTTPException: none has taken long.
        """
        oldest, began = next(iter(self._coming.items()), (None, math.inf))
        if time.monotonic() - began < UNDISTURBED:
            raise HTTPException(503, "too many uploads at once; try again")
        oldest.reschedule(0)
        del self._coming[oldest]


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost"
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _asked_host(header: str) -> str:
    """The host name in a Host header, without port and brackets."""
    parts = HOST_HEADER.fullmatch(header)
    return (parts[1] or parts[2]).lower() if parts else ""


def _is_foreign(request: Request) -> bool:
    """Whether a page of another site sent a request. Links from there may lead to ours.

    Browsers say so; to an address without https some say it only of what is sent, not of what is got. Other
    programs say nothing, and may ask.
    """
    told = request.headers.get("Sec-Fetch-Site")
    if told:
        link = request.method == "GET" and request.headers.get("Sec-Fetch-Dest") == "document"
        return told not in ("none", "same-origin") and not link
    origin = request.headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc.lower() != request.headers.get("Host", "").lower()


class Turns:
    """What waits for what. Who waits takes no thread, so those who need not wait find one.

    asking: searches; one computes while the page of another is made.
    long: searches of much text, which take their turn in `asking` one by one, with others in between.
    decoding: pictures, of the embeddings and uploaded: one may take much of a gigabyte of memory.
    glancing: pictures of the embeddings that are small, which do not wait for large ones.
    uploading: uploads, which take their turn in `decoding` one after the other, with pictures in between.
    """

    def __init__(self) -> None:
        self.asking = asyncio.Semaphore(2)
        self.long = asyncio.Semaphore(1)
        self.decoding = asyncio.Semaphore(1)
        self.glancing = asyncio.Semaphore(2)
        self.uploading = asyncio.Semaphore(1)

    @asynccontextmanager
    async def of(self, asked: SearchRequest) -> AsyncIterator[None]:
        """The turn of a search."""
        async with self.long if asked.length > USUAL_TEXT else nullcontext(), self.asking:
            yield


FAILURES = {status: {"model": Failure} for status in (400, 403, 408, 413, 500, 503)}
SearchParameters = Annotated[SearchRequest, Query()]


def application(service: Service, address: str, host: str = "") -> FastAPI:
    """The web application.

    Args:
        service: answers the requests.
        address: it listens on. On a loopback address requests under any other host name are refused, so that
            a page from elsewhere cannot reach it under a name of its own.
        host: the name by which the user gave that address, under which requests are answered too.
    """
    app = FastAPI(
        title="swan", version=__version__, docs_url=None, redoc_url=None, openapi_url="/api/openapi.json"
    )

    @app.middleware("http")
    async def guard(request: Request, answer: Any) -> Response:
        asked = _asked_host(request.headers.get("Host", ""))
        if is_loopback(address) and not (is_loopback(asked) or asked == host.lower() != ""):
            response = JSONResponse({"error": "not the name of this machine"}, 400)
        elif _is_foreign(request):
            response = JSONResponse({"error": "a request from another site's page"}, 403)
        else:
            response = await answer(request)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"  # no other page can show a picture
        return response

    turns = Turns()
    _answer_errors(app, service)
    _add_search(app, service, turns)
    _add_images(app, service, turns)
    return app


def _answer_errors(app: FastAPI, service: Service) -> None:
    @app.exception_handler(SwanError)
    async def refuse(request: Request, error: SwanError) -> Response:
        if isinstance(error, StoreError):  # names a file of this machine
            LOG.error("%s", error)
            return JSONResponse({"error": "the embeddings are damaged"}, 500)
        problem = f"{error.problem}; {error.hint}" if error.hint else error.problem
        return JSONResponse({"error": printable(problem)}, 400)

    @app.exception_handler(HTTPException)
    async def refuse_status(request: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        problem = "; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors())
        if request.url.path == "/":
            return HTMLResponse(service.page(SearchRequest(), None, problem), 422)
        return JSONResponse({"error": problem}, 422)


def _add_search(app: FastAPI, service: Service, turns: Turns) -> None:
    @app.get("/", include_in_schema=False)
    async def page(asked: SearchParameters) -> HTMLResponse:
        if asked.text:  # typed after a search by image, which the form keeps for its filters
            asked = asked.model_copy(update={"image": "", "like": None})
        async with turns.of(asked):
            return await run_in_threadpool(answered, asked)

    def answered(asked: SearchRequest) -> HTMLResponse:
        try:
            answer = service.ask(asked) if asked.ways else None
        except SwanError as error:
            return HTMLResponse(service.page(asked, None, str(error)), 400)
        count = len(service.searcher.catalogue.filename)
        return HTMLResponse(service.page(asked, answer, "" if answer else f"{count:,} images to search"))

    @app.get("/api/search", responses=FAILURES)
    async def search(asked: SearchParameters) -> SearchResponse:
        """Ranks images, or captions, by how well they match a text or an image."""
        async with turns.of(asked):
            return service.found(await run_in_threadpool(service.ask, asked))


def _add_images(app: FastAPI, service: Service, turns: Turns) -> None:
    uploads = Uploads()

    @app.post("/api/image", responses=FAILURES)
    async def upload(request: Request, name: Text = "image") -> Uploaded:
        """Stores an image file, the request's body, for searches by `image` of `/api/search`."""
        async with uploads.received(request) as data, turns.uploading, turns.decoding:
            return Uploaded(image=await run_in_threadpool(service.keep, data, name))

    @app.get("/upload/{key}", include_in_schema=False)
    async def uploaded(key: str) -> Response:
        return Response(service.upload(key).preview, media_type="image/jpeg")

    @app.get("/image/{row}", responses=FAILURES, response_class=Response)
    async def image(row: int, size: Literal["small", "large"] = "small") -> Response:
        """An image of the embeddings, as JPEG."""
        small = await run_in_threadpool(service.pictures.is_small, service.checked_row(row))
        async with turns.glancing if small else turns.decoding:
            picture = await run_in_threadpool(service.picture, row, SIDE if size == "small" else OPENED_SIDE)
        return Response(picture, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        SwanError: the address is not available.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        hint = "choose another --host or --port; --port 0 takes a free one"
        raise SwanError(f"--host {host} --port {port}: {error}", hint) from error


def serve(app: FastAPI, listening: socket.socket) -> None:
    """Answers requests until a signal ends the process."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=2,  # seconds, for requests still being answered
    )
    uvicorn.Server(config).run(sockets=[listening])
