"""The page live, and a JSON API: an embeddings file is searched by whoever opens the address.

swan serve

It serves images by the row of its embeddings, so no request names a path. One question is answered at a time;
others wait their turn in threads, and pictures are read meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import socket
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from threading import Lock
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import numpy as np
import uvicorn
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, StringConstraints
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from swancli import __version__
from swancli.errors import StoreError, SwanError
from swancli.images import decode_image
from swancli.query.page import SIDE, ResultCard, Section, render_page
from swancli.query.questions import Answer, Find, Question, Scope
from swancli.query.search import Searcher
from swancli.store.catalogue import different_names
from swancli.store.pictures import Pictures, jpeg

LOG = logging.getLogger("uvicorn.error")
LONGEST_TEXT = 2000  # characters of a question
LARGEST_UPLOAD = 20 * 2**20  # bytes of an image to search by
LARGEST_PICTURE = 75_000_000  # its pixels times its bands, three at least
UPLOADS = 8  # that are read at once, each held in memory; more are told to come later
UPLOAD_SECONDS = 60  # for the body of one
KEPT_UPLOADS = 200  # images to search by, the newest of which are remembered
OPENED_SIDE = 1600  # pixels, the longer side of an opened image at most
MOST_RESULTS = 1000
CONNECTIONS = 200  # at once; more are told to come later
HOST_HEADER = re.compile(r"(?:\[([\da-fA-F:.]+)\]|([\w.-]+))(?::\d+)?")
CHOICES = (12, 24, 48, 96)  # numbers of results to choose from on the page

Text = Annotated[str, StringConstraints(max_length=LONGEST_TEXT)]
Several = Annotated[list[Text], Query(default_factory=list, max_length=20)]


class SearchResult(BaseModel):
    """One result; `image` is the address of the picture, null for a caption without one."""

    rank: int
    score: float
    filename: str
    scene: str | None
    captions: list[str]
    image: str | None


class SearchResponse(BaseModel):
    """The results of one question, best first; scores are cosine similarities, from -1 to 1."""

    query: str
    unknown_words: list[str]
    results: list[SearchResult]


class Uploaded(BaseModel):
    """The name under which an uploaded image can be searched by, as `?image=`."""

    image: str


class Failure(BaseModel):
    """What is wrong with a request."""

    error: str


@dataclass(frozen=True)
class Asked:
    """The parameters of a request: what to look for, and in which scope.

    image: name of an uploaded image. like: row of an image that is searched.
    """

    text: tuple[str, ...]
    without: tuple[str, ...]
    image: str
    like: int | None
    threshold: float | Literal["auto"]
    scope: Scope

    @property
    def anything(self) -> bool:
        """Whether it asks for something."""
        return bool(self.text or self.image or self.like is not None)


def parameters(
    *,
    text: Annotated[Several, Query(description="What to look for; several texts are averaged.")],
    without: Annotated[Several, Query(alias="not", description="What to keep away from.")],
    image: Annotated[str, Query(max_length=64, description="An uploaded image, in place of a text.")] = "",
    like: Annotated[int | None, Query(ge=0, description="Row of an image, in place of a text.")] = None,
    find: Annotated[Find, Query(description="What is ranked.")] = "images",
    top_k: Annotated[int, Query(ge=1, le=MOST_RESULTS, description="Results.")] = 24,
    threshold: Annotated[
        float | Literal["auto"], Query(description="Least score, -1 to 1; auto: a match, as set in training.")
    ] = -1.0,
    scene: Annotated[Several, Query(description="Only images of these scenes.")],
    split: Annotated[Text, Query(description="Only images of this split.")] = "",
    files: Annotated[Text, Query(description="Only images with a name of this shell pattern.")] = "",
) -> Asked:
    """Reads the parameters that the page and the API share; empty fields of a form count as not given."""
    scope = Scope(
        find=find,
        top_k=top_k,
        scenes=tuple(filter(None, scene)),
        split=split or None,
        files=files or None,
    )
    texts, away = (tuple(given.strip() for given in several if given.strip()) for several in (text, without))
    return Asked(texts, away, image, like, threshold, scope)


@dataclass(frozen=True)
class UploadedImage:
    """An image to search by: its embedding float32 (1, D), its file's name, and a small JPEG of it."""

    vector: np.ndarray
    name: str
    preview: bytes


class Service:
    """Answers the requests of all clients from one searcher."""

    def __init__(self, searcher: Searcher, pictures: Pictures) -> None:
        self.searcher = searcher
        self.pictures = pictures
        self._uploads: OrderedDict[str, UploadedImage] = OrderedDict()
        self._asking = Lock()  # one question has all cores
        self._decoding = Lock()
        names = "\n".join([searcher.checkpoint.sha256, *searcher.catalogue.filename])
        self._tag = hashlib.sha256(names.encode()).hexdigest()[:12]
        try:
            self._match = searcher.match_threshold().threshold
        except SwanError:
            self._match = None
        catalogue = searcher.catalogue
        self._choices = {
            "scene": _names_or_any(catalogue.scene),
            "split": _names_or_any(catalogue.split),
            "find": [("images", "images"), *([("captions", "captions")] if len(catalogue.text) else [])],
            "threshold": [("-1", "any"), *([("auto", "a match")] if self._match is not None else [])],
        }

    def ask(self, asked: Asked) -> Answer:
        """The answer to a request.

        Raises:
            SwanError: it cannot be answered; says why.
        """
        scope = self._scope(asked)
        if sum((bool(asked.text), bool(asked.image), asked.like is not None)) > 1:
            raise SwanError("more than one way to ask", "give text, image or like, one of them")
        if asked.without and not asked.text:
            raise SwanError("not: is taken from a text, and there is none")
        with self._asking:
            if asked.text:
                (answer,) = self.searcher.ask_texts([Question(asked.text, asked.without)], scope)
            elif asked.image:
                upload = self.upload(asked.image)
                answer = self.searcher.ask_vector(upload.vector, upload.name, scope)
            elif asked.like is not None:
                answer = self.searcher.ask_row(self.checked_row(asked.like), scope)
            else:
                raise SwanError("nothing to look for", "give text, image or like")
        if answer.error:
            raise answer.error
        return answer

    def _scope(self, asked: Asked) -> Scope:
        least = self._match if asked.threshold == "auto" else asked.threshold
        if least is None:
            raise SwanError("threshold=auto: this model knows none", "give a number")
        if not -1 <= least <= 1:
            raise SwanError(f"threshold={least}: a number from -1 to 1, or auto")
        return replace(asked.scope, threshold=least)

    def keep(self, data: bytes, name: str) -> str:
        """Takes an image to search by; returns the name it can be asked with.

        Raises:
            SwanError: it is no image, or too large a one.
        """
        with self._decoding:  # one at a time, since a small file may be a large picture
            pixels = decode_image(data, name, LARGEST_PICTURE)
        key, preview = hashlib.sha256(data).hexdigest()[:32], jpeg(pixels, SIDE)
        with self._asking:
            self._uploads[key] = UploadedImage(self.searcher.encoder.images([pixels]), name, preview)
            self._uploads.move_to_end(key)
            while len(self._uploads) > KEPT_UPLOADS:
                self._uploads.popitem(last=False)
        return key

    def upload(self, key: str) -> UploadedImage:
        """An image that was uploaded.

        Raises:
            SwanError: there is none of that name, or not any more.
        """
        try:
            return self._uploads[key]
        except KeyError:
            raise SwanError("the image to search by is not here any more", "upload it again") from None

    def checked_row(self, row: int) -> int:
        """The row, when there is such an image.

        Raises:
            SwanError: there is none.
        """
        if not 0 <= row < len(self.searcher.catalogue.filename):
            raise SwanError(f"there is no image {row}")
        return row

    def picture(self, row: int, side: int) -> bytes:
        """A JPEG file of an image that is searched; raises a SwanError that tells no path of this machine."""
        name = self.searcher.catalogue.filename[self.checked_row(row)]
        try:
            return self.pictures.jpeg(row, side)
        except SwanError as error:
            raise SwanError(f"{name}: its picture is not there any more, or cannot be read") from error

    def found(self, answer: Answer) -> SearchResponse:
        """An answer as the API gives it."""
        results = [SearchResult(**hit.record(), image=self._address(hit.row) or None) for hit in answer.hits]
        return SearchResponse(query=answer.question, unknown_words=list(answer.unknown), results=results)

    def _address(self, row: int, size: str = "small") -> str:
        # The tag lets browsers keep pictures without mixing up those of other embeddings.
        return f"/image/{row}?size={size}&of={self._tag}" if row >= 0 else ""

    def _similar(self, row: int, scope: Scope) -> str:
        """Address of a search for images like one, as narrow as the search that found it."""
        narrowed = {"scene": scope.scenes, "split": scope.split or "", "files": scope.files or ""}
        wanted = {"like": row, "top_k": scope.top_k} | {
            name: value for name, value in narrowed.items() if value
        }
        return f"/?{urlencode(wanted, doseq=True)}" if row >= 0 else ""

    def page(self, asked: Asked, answer: Answer | None, message: str = "") -> str:
        """The page with the form as it was asked, and the answer if there is one."""
        sections = []
        if answer:
            cards = [
                ResultCard(
                    f"r{hit.rank}",
                    hit,
                    picture=self._address(hit.row),
                    absent="" if hit.row >= 0 else "a text without an image",
                    whole=self._address(hit.row, "large"),
                    similar=self._similar(hit.row, asked.scope),
                )
                for hit in answer.hits
            ]
            asked_with = f"/upload/{asked.image}" if asked.image else ""
            if asked.like is not None:
                asked_with = self._address(asked.like)
            sections = [Section(answer, cards, asked_with)]
        title = f"{answer.question} · swan" if answer else "swan"
        return render_page(title, sections, form=self._form(asked), message=message)

    def _form(self, asked: Asked) -> Mapping[str, Any]:
        scope = asked.scope
        counts = [(str(number), str(number)) for number in sorted({*CHOICES, scope.top_k})]
        chosen = {
            "scene": scope.scenes[0] if scope.scenes else "",
            "split": scope.split or "",
            "find": scope.find,
            "threshold": "auto" if asked.threshold == "auto" else "-1",
            "top_k": str(scope.top_k),
        }
        kept = {"image": asked.image, "like": "" if asked.like is None else str(asked.like)}  # hidden fields
        return {
            "text": " ".join(asked.text),
            "without": " ".join(asked.without),
            "files": scope.files or "",
            "longest": LONGEST_TEXT,
            "labels": {"find": "find", "threshold": "least score", "top_k": "results"},
            "choices": {**self._choices, "top_k": counts},
            "chosen": chosen,
            "kept": {name: value for name, value in kept.items() if value},
            "narrowed": bool(asked.without or scope.files or scope.scenes or scope.split),
        }


def _names_or_any(column: np.ndarray) -> list[tuple[str, str]]:
    return [("", "any"), *((name, name) for name in different_names(column))]


async def _body(request: Request) -> bytes:
    """The body of a request, read no further than the largest upload.

    Raises:
        SwanError: it is larger.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > LARGEST_UPLOAD:
            raise TooLarge(f"larger than {LARGEST_UPLOAD // 2**20} MB", "make it smaller")
        parts.append(part)
    return b"".join(parts)


class TooLarge(SwanError):
    """A request's body is larger than is taken."""


class TooSlow(SwanError):
    """A request's body does not come."""


class TooMany(SwanError):
    """Too many bodies come at once."""


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _asked_host(header: str) -> str:
    """The name in a Host header, without its port and an IPv6 address's brackets."""
    parts = HOST_HEADER.fullmatch(header)
    return (parts[1] or parts[2]).lower() if parts else ""


def application(service: Service, host: str) -> FastAPI:
    """The web application.

    Args:
        host: that it listens on; on a loopback address no other host name is answered to, so that a page from
            elsewhere cannot ask under a name of its own.
    """
    app = FastAPI(
        title="swan", version=__version__, docs_url=None, redoc_url=None, openapi_url="/api/openapi.json"
    )
    failures = {status: {"model": Failure} for status in (400, 408, 413, 500, 503)}
    uploads = asyncio.Semaphore(UPLOADS)

    @app.middleware("http")
    async def guard(request: Request, answer: Any) -> Response:
        if is_loopback(host) and not is_loopback(_asked_host(request.headers.get("Host", ""))):
            response = JSONResponse({"error": "not the name of this machine"}, 400)
        else:
            response = await answer(request)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["X-Frame-Options"] = "DENY"
        return response

    @app.exception_handler(SwanError)
    async def refuse(request: Request, error: SwanError) -> Response:
        if isinstance(error, StoreError):  # which names a file of this machine
            LOG.error("%s", error)
            return JSONResponse({"error": "the embeddings that are searched are damaged"}, 500)
        status = {TooLarge: 413, TooSlow: 408, TooMany: 503}.get(type(error), 400)
        problem = f"{error.problem}; {error.mend}" if error.mend else error.problem
        return JSONResponse({"error": problem}, status)

    @app.exception_handler(HTTPException)
    async def not_here(request: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def misunderstand(request: Request, error: RequestValidationError) -> Response:
        wrong = (f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors())
        problem = "; ".join(wrong)
        if request.url.path == "/":
            return HTMLResponse(service.page(Asked((), (), "", None, -1.0, Scope()), None, problem), 422)
        return JSONResponse({"error": problem}, 422)

    @app.get("/", include_in_schema=False)
    def page(asked: Annotated[Asked, Depends(parameters)]) -> HTMLResponse:
        if asked.text:  # typed after a search by image, which the form keeps for narrowing it down
            asked = replace(asked, image="", like=None)
        try:
            answer = service.ask(asked) if asked.anything else None
        except SwanError as error:
            return HTMLResponse(service.page(asked, None, str(error)), 400)
        count = len(service.searcher.catalogue.filename)
        return HTMLResponse(service.page(asked, answer, "" if answer else f"{count:,} images to search"))

    @app.get("/api/search", responses=failures)
    def search(asked: Annotated[Asked, Depends(parameters)]) -> SearchResponse:
        """Ranks images, or captions, by how well a text or an image describes them."""
        return service.found(service.ask(asked))

    @app.post("/api/image", responses=failures)
    async def upload(request: Request, name: Text = "image") -> Uploaded:
        """Takes the bytes of an image file as its body, to be searched by as `image` of `/api/search`."""
        if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise SwanError("an upload from another site's page")
        if uploads.locked():
            raise TooMany("too many images come at once", "try again")
        async with uploads:
            try:
                data = await asyncio.wait_for(_body(request), UPLOAD_SECONDS)
            except TimeoutError as error:
                raise TooSlow(f"the image did not come within {UPLOAD_SECONDS} seconds") from error
            return Uploaded(image=await run_in_threadpool(service.keep, data, name))

    @app.get("/upload/{key}", include_in_schema=False)
    def uploaded(key: str) -> Response:
        return Response(service.upload(key).preview, media_type="image/jpeg")

    @app.get("/image/{row}", responses=failures, response_class=Response)
    def image(row: int, size: Literal["small", "large"] = "small") -> Response:
        """The picture of an image that is searched, as JPEG."""
        side = SIDE if size == "small" else OPENED_SIDE
        picture = service.picture(row, side)
        return Response(picture, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    return app


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        SwanError: the address cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        mend = "choose another --host or --port; --port 0 takes a free one"
        raise SwanError(f"--host {host} --port {port}: {error}", mend) from error


def serve(app: FastAPI, listening: socket.socket) -> None:
    """Answers requests until a signal ends the process."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=2,  # seconds, for whoever is still being answered
    )
    uvicorn.Server(config).run(sockets=[listening])
