"""`swan serve`: embeddings.h5 -> a web page for searching it, and a JSON API."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from swancli.commands import options
from swancli.commands.options import option, rendering_of
from swancli.console import Display, deliver, warn
from swancli.errors import import_error
from swancli.workspace import Workspace


def serve(
    embeddings: Path | None = option(None, "FILE", "Embeddings to search. Default: the newest."),
    checkpoint: Path | None = options.CHECKPOINT,
    pictures: Path | None = option(
        None, "PATH", "Where the images are now: a folder or a dataset.h5. Default: where they were embedded."
    ),
    host: str = option(
        "127.0.0.1", "ADDRESS", "Address to listen on; by default, only this machine can connect."
    ),
    port: int = option(8000, "N", "Port; 0 picks a free one.", min=0, max=65535),
    bands: str | None = option(
        None, "N,N,N", "Bands of uploaded images to show as red, green and blue, from 1, or one."
    ),
    vocab: Path | None = options.CHECKPOINT_VOCAB,
    device: str = options.DEVICE,
    root: Path = options.ROOT,
    quiet: bool = options.QUIET,
) -> None:
    """Serve a web page for searching an embeddings file, and a JSON API under /api/search (extra `serve`).

    Examples:
        swan serve
        swan serve --embeddings embeddings-PHOTOS.h5 --port 8080
    """
    try:
        from swancli.query import serve as web
    except ImportError as error:
        raise import_error(error, "serving", "serve") from error
    from swancli.query.search import open_search
    from swancli.store.embeddings import changed_since
    from swancli.store.pictures import pictures_of

    display = Display(quiet)
    path = embeddings or Workspace(root).find_embeddings()
    rendering, _ = rendering_of(bands)
    searcher = open_search(path, device, checkpoint=checkpoint, vocab=vocab)
    if bands:
        searcher.rendering = replace(searcher.rendering, bands=rendering.bands, lenient=False)
    if changed := changed_since(searcher.embeddings):
        warn(changed)
    shown = pictures_of(searcher.embeddings, pictures)
    service = web.Service(searcher, shown)
    listening = web.listen(host, port)
    bound = listening.getsockname()[0]
    if not web.is_loopback(bound):
        warn(f"--host {host}: everyone who can reach this address can search and see the images")
    display.note(f"searching {len(searcher.catalogue.filename)} images of {path}; stop with Ctrl-C")
    address = f"[{host}]" if ":" in host else host
    print(f"http://{address}:{listening.getsockname()[1]}")
    deliver()
    web.serve(web.application(service, bound, host), listening)
