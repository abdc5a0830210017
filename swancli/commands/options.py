"""Options that several commands share, and checks of options that depend on each other."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from swancli.errors import SwanError
from swancli.workspace import Workspace, named_checkpoint

if TYPE_CHECKING:
    from swancli.images import Rendering

Missing = Literal["error", "skip"]
Augmentation = Literal["paper", "overhead", "none"]
Precision = Literal["fp32", "bf16"]
IndexKind = Literal["flat", "hnsw", "ivf-pq"]
SceneFrom = Literal["name", "folder", "none"]
SourceFormat = Literal["karpathy", "precomp", "ucm", "nwpu", "table", "folder"]


PATHS = ("FILE", "DIR", "PATH")  # metavars
OPEN_CLIP = "open_clip:"


def option_in(panel: str | None) -> Callable[..., Any]:
    """A function that declares an option in one panel of a command's help.

    It takes the default, the metavar, the help text and, as keywords, whatever else `typer.Option` takes. The
    option is named after its parameter, unless names precede the metavar: `-k, --top-k N`, or `--quiet` for a
    flag. In the value of an option with one of the metavars `PATHS`, or with `path=True`, `~` is expanded.
    """

    def option(default: Any, signature: str, help: str, path: bool = False, **rules: Any) -> Any:
        words = signature.replace(", ", " ").split()  # a metavar may hold commas
        names = [word for word in words if word.startswith("-")]
        metavar = " ".join(words[len(names) :])
        if path or metavar in PATHS:
            rules["callback"] = _at_home(rules.get("callback"))
        rules |= {"metavar": metavar, "help": help, "rich_help_panel": panel}
        return typer.Option(default, *names, **rules)

    return option


def _at_home(callback: Callable[[Any, Any], Any] | None) -> Callable[[Any, Any], Any]:
    """A callback that expands `~`, which shells leave alone in `--root=~/x`, before the option's own."""

    def expand(context: typer.Context, value: Any) -> Any:
        value = [expanded(one) for one in value] if isinstance(value, list | tuple) else expanded(value)
        return callback(context, value) if callback else value

    return expand


def expanded(path: Any) -> Any:
    """A path, as text or `Path`, with `~` expanded, also in open_clip:NAME:~/FILE; all else as it is."""
    if not isinstance(path, str | Path):
        return path
    ahead, colon, file = str(path).rpartition(":") if str(path).startswith(OPEN_CLIP) else ("", "", str(path))
    return type(path)(f"{ahead}{colon}{os.path.expanduser(file)}")  # noqa: PTH111 - that of Path fails on ~x.tif


def _checkpoint_given(context: typer.Context, path: Path | None) -> Path | None:
    """The file of --checkpoint.

    Raises:
        SwanError: it is the name of a run instead.
    """
    if not path:
        return None
    file = named_checkpoint(path)
    run = Workspace(context.params["root"]).run_in_place_of(file)
    if run:
        has_option = any(parameter.name == "run" for parameter in context.command.params)
        other = f"--run {run.name}" if has_option else f"--checkpoint {run.best}"
        raise SwanError(f"--checkpoint {path}: no such file", f"for the run of this name: {other}")
    return file


# Panels that several commands have.
option = option_in(None)
rare = option_in("Rarely needed")
general = option_in("General")
large_scene = option_in("One large scene")

ROOT = general(
    Path("swan-data"),
    "DIR",
    "Folder for everything swan writes; also $SWAN_ROOT.",
    envvar="SWAN_ROOT",
    file_okay=False,
    is_eager=True,  # --checkpoint looks for runs in it
)
QUIET = general(False, "-q, --quiet", "Do not print progress or notes.")
DEVICE = general("auto", "NAME", "cpu, cuda, cuda:1 or mps; auto: a GPU if there is one.")
JSON = general(False, "--json", "Print one JSON document on standard output.")
DATASET = option(None, "NAME", "Name of the data set. Default: the newest.")
RUN = option(None, "NAME", "Name of the run. Default: the newest.")
CHECKPOINT = option(
    None,
    "FILE",
    "A checkpoint instead of a run; `shipped` comes with swan; open_clip:NAME:FILE.",
    callback=_checkpoint_given,
)
FORMAT = option(None, "NAME", "karpathy, precomp, ucm, nwpu, table or folder. Default: detected.")
CHECKPOINT_VOCAB = rare(None, "FILE", "Vocabulary for a checkpoint of the published code (vocab.h5 or JSON).")
BATCH_SIZE = rare(None, "N", "Images encoded at a time. Default: 32, or 256 on a GPU.", min=1)
BANDS = rare(
    None, "N,N,N", "Bands to show as red, green and blue, from 1, or one. Default: as the files say."
)
STRETCH = rare(
    None,
    "MIN,MAX|folder",
    "Values that become black and white, for more than 8 bits; folder: one scale for all images. "
    "Default: one per image.",
)
SCENE_IMAGE = large_scene(None, "FILE", "GeoTIFF or another large image, read in windows (extra `geo`).")
TILE_SIZES = large_scene(None, "N", "Tile side in pixels; repeatable. Default: 256, 384.", min=16, max=2048)


def exclusive(**options: object) -> None:
    """Refuses options that exclude each other."""
    named = [f"--{name.replace('_', '-')}" for name, value in options.items() if value]
    if len(named) > 1:
        raise SwanError(f"{' and '.join(named)} cannot be combined", "give one of them")


def alone(name: str, value: object, **others: object) -> None:
    """Refuses each of the others beside an option that does not use them."""
    for other, given in others.items():
        exclusive(**{name: value, other: given})


def scene_only(hint: str, **options: object) -> None:
    """Refuses options of a large scene when no scene is given; `hint` says how to give it."""
    for name, value in options.items():
        if value:
            raise SwanError(f"--{name.replace('_', '-')} needs a large scene", hint)


def rendering_of(bands: str | None, stretch: str | None = None) -> tuple[Rendering, bool]:
    """What --bands and --stretch give, and whether one scale for all images is wanted."""
    from swancli.images.rule import FOLDER, parse_rendering

    folder = stretch == FOLDER
    return parse_rendering(bands, None if folder else stretch), folder


def given_options(context: typer.Context) -> set[str]:
    """The options that were given on the command line."""
    return {name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"}


def chosen(context: typer.Context, *names: str) -> dict[str, Any]:
    """The values of some options, by the names of their parameters."""
    return {name: context.params[name] for name in names}


def prepared_dataset(workspace: Workspace, name: str | None) -> str:
    """The name, or that of the newest data set. If a published one is absent, the error says where to get it.

    Raises:
        SwanError: there is no such data set.
    """
    if name and not workspace.dataset(name).exists():
        from swancli.prepare.known import where_to_get

        where = where_to_get(name)
        if where:
            raise SwanError(f"{workspace.dataset(name)}: no such file", where)
    return name or workspace.newest_dataset()


def checkpoint_named(workspace: Workspace, name: str) -> str:
    """A checkpoint by the name of its run or its file; a name of open_clip as it is.

    Raises:
        SwanError: there is none.
    """
    from swancli.model.open_clip import is_open_clip

    return name if is_open_clip(name) else str(workspace.find_checkpoint(name))
