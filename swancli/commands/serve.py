"""`swan serve`: embeddings.h5 -> a page to search it with, and a JSON API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from swancli.commands.options import DEFAULT_ROOT, CheckpointFile, CheckpointVocab, Device, Quiet, Root
from swancli.console import Display, warn
from swancli.errors import SwanError
from swancli.workspace import Workspace


def serve(
    embeddings: Annotated[
        Path | None, typer.Option(help="Embeddings to search. Default: the newest.")
    ] = None,
    checkpoint: CheckpointFile = None,
    vocab: CheckpointVocab = None,
    pictures: Annotated[
        Path | None,
        typer.Option(
            help="Where the images are now: a folder or a dataset.h5. Default: where they were embedded from."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. The default can be reached from this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    device: Device = "auto",
    root: Root = DEFAULT_ROOT,
    quiet: Quiet = False,
) -> None:
    """Show a page to search an embeddings file with, and a JSON API under /api/search."""
    try:
        from swancli.query import serve as web
    except ImportError as error:
        raise SwanError(
            f"serving needs {error.name}", "install the extra: pip install 'swancli[serve]'"
        ) from error
    from swancli.query.search import open_search
    from swancli.store.embeddings import changed_since
    from swancli.store.pictures import pictures_of

    display = Display(quiet)
    path = embeddings or Workspace(root).find_embeddings()
    searcher = open_search(path, device, checkpoint=checkpoint, vocab=vocab)
    if changed := changed_since(searcher.embeddings):
        warn(changed)
    shown = pictures_of(searcher.embeddings, pictures)
    listening = web.listen(host, port)
    if not web.is_loopback(host):
        warn(f"--host {host}: whoever can reach it can search, and see the images")
    display.note(f"searching {len(searcher.catalogue.filename)} images of {path}; Ctrl-C ends")
    address = f"[{host}]" if ":" in host else host
    print(f"http://{address}:{listening.getsockname()[1]}", flush=True)
    web.serve(web.application(web.Service(searcher, shown), host), listening)
