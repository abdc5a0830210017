"""The command line: the app, its commands one by one, and the executable.

Heavy imports (torch, pandas, h5py) stand inside the commands, so that `swan --help` answers at once.
"""

from __future__ import annotations

import gc
import os
import sys
import warnings
from typing import Annotated

import typer

from swancli.commands.demo import demo
from swancli.commands.embed import embed
from swancli.commands.evaluate import evaluate
from swancli.commands.prepare import prepare
from swancli.commands.pretrain import pretrain
from swancli.commands.query import query
from swancli.commands.serve import serve
from swancli.commands.train import train
from swancli.commands.vocab import vocab
from swancli.console import Boundary
from swancli.errors import SwanError

app = typer.Typer(
    cls=Boundary,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find the overhead image that a sentence describes, and the sentence for an image.",
    epilog="The way through: prepare, vocab, train, eval, embed, query. `swan demo` shows all of it.",
)


def _version(asked: bool) -> None:
    if asked:
        from swancli import __version__

        typer.echo(f"swan {__version__}")
        raise typer.Exit


SHARED = ("train", "embed")  # commands that several processes of a launch work on together


@app.callback()
def swan(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Find the overhead image that a sentence describes, and the sentence for an image."""
    if "WORLD_SIZE" in os.environ and context.invoked_subcommand not in SHARED:
        from swancli.machine.processes import launched

        launch = launched()
        if launch and launch[1] > 1:
            raise SwanError(f"torchrun: {context.invoked_subcommand} is for one process", "run it alone")


for command in (prepare, vocab, pretrain, train):
    app.command()(command)
app.command(name="eval")(evaluate)
for command in (embed, query, serve, demo):
    app.command()(command)


def main() -> None:
    """The executable `swan`."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # of libraries, which would end up between our own lines
    # A million objects come and go with torch. Looking through them for garbage every 700, and once more at
    # the end, takes longer than a query does.
    gc.set_threshold(10_000)
    try:
        app(prog_name="swan")
    finally:
        gc.freeze()
