"""The command line: the app, its commands, and the executable.

Heavy imports (torch, pandas, h5py) are made inside the commands, so that `swan --help` answers at once.
"""

from __future__ import annotations

import gc
import os
import sys
import warnings
from functools import cache
from typing import Annotated

import typer

from swancli.commands.demo import demo
from swancli.commands.embed import embed
from swancli.commands.evaluate import evaluate
from swancli.commands.help import Command, Panels
from swancli.commands.prepare import prepare
from swancli.commands.pretrain import pretrain
from swancli.commands.query import query
from swancli.commands.serve import serve
from swancli.commands.train import train
from swancli.commands.vocab import vocab
from swancli.console import Boundary, warn
from swancli.errors import SwanError, SwanWarning


class App(Panels, Boundary):
    """The group of all commands."""


app = typer.Typer(
    cls=App,
    no_args_is_help=True,
    rich_markup_mode=None,  # else `swan` alone would print nothing: Typer expects its own help
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from swancli import __version__

        typer.echo(f"swan {__version__}")
        raise typer.Exit


SHARED = ("train", "embed")  # commands that several processes started by torchrun can share
MAIN, EXTRAS = "Main commands, in this order", "More commands"


@app.callback()
def swan(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Find the overhead image that a sentence describes, and the sentence that describes an image.

    The six main commands run in this order. Each uses the output of the one before it, so later
    commands need no paths.

    Examples:
        swan demo
        swan embed --images PHOTOS
        swan query "two tennis courts beside a road"
        swan train --help
    """
    if "WORLD_SIZE" in os.environ and context.invoked_subcommand not in SHARED:
        from swancli.machine.processes import launched

        launch = launched()
        if launch and launch[1] > 1:
            name = context.invoked_subcommand
            raise SwanError(f"torchrun: {name} runs in one process", "run it without torchrun")


for panel, commands in (
    (MAIN, (prepare, vocab, train, evaluate, embed, query)),
    (EXTRAS, (pretrain, serve, demo)),
):
    for command in commands:
        name = "eval" if command is evaluate else command.__name__
        app.command(name, cls=Command, rich_help_panel=panel)(command)


def main() -> None:
    """The executable `swan`."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # those of libraries, which would appear among our own lines
        warnings.simplefilter("always", SwanWarning)
        warn_once = cache(warn)  # one command may meet the same texts in several places
        warnings.showwarning = lambda message, *_: warn_once(str(message))
    # Importing torch creates a million objects. Collecting garbage after every 700 of them, and once more at
    # the end, takes longer than a query does.
    gc.set_threshold(10_000)
    try:
        app(prog_name="swan")
    finally:
        gc.freeze()
