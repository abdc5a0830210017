"""Options that several commands share, and the checks of options beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from swancli.errors import SwanError
from swancli.workspace import named_checkpoint

Missing = Literal["error", "skip"]
BackboneName = Literal["resnet18", "resnet34", "resnet50"]
Augmentation = Literal["paper", "overhead", "none"]
Precision = Literal["fp32", "bf16"]
IndexKind = Literal["flat", "hnsw", "ivf-pq"]
SourceFormat = Literal["karpathy", "precomp", "ucm", "nwpu", "table", "folder"]

Root = Annotated[
    Path, typer.Option(envvar="SWAN_ROOT", help="Folder that everything is written under.", file_okay=False)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes on standard error.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps; auto takes a GPU when there is one.")]
DatasetName = Annotated[str | None, typer.Option(help="Name of the data set. Default: the newest one.")]
RunName = Annotated[str | None, typer.Option("--run", help="Name of the run. Default: the newest one.")]
CheckpointFile = Annotated[
    Path | None,
    typer.Option(
        help="A checkpoint file, in place of a run; `shipped` is the one that comes with swan.",
        callback=lambda path: named_checkpoint(path) if path else None,
    ),
]
Format = Annotated[SourceFormat | None, typer.Option(help="Layout of the source. Default: recognised.")]
CheckpointVocab = Annotated[
    Path | None,
    typer.Option(
        "--vocab", help="Vocabulary of a published checkpoint, which carries none: JSON or vocab.h5."
    ),
]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Images encoded at a time. Default: 32, on a GPU 256.")
]
LARGE_SCENE = "One large scene"
SceneImage = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="One large scene, GeoTIFF or any picture, read by windows (extra: geo).",
        rich_help_panel=LARGE_SCENE,
    ),
]
TileSizes = Annotated[
    list[int] | None,
    typer.Option(
        "--tile-size",
        min=16,
        max=2048,
        help="Width in pixels of a scene's tiles; may be given several times. Default: 256 and 384.",
        rich_help_panel=LARGE_SCENE,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]

DEFAULT_ROOT = Path("swan-data")


def exclusive(**options: object) -> None:
    """Refuses options that would overrule each other."""
    named = [f"--{name.replace('_', '-')}" for name, value in options.items() if value]
    if len(named) > 1:
        raise SwanError(f"{' and '.join(named)} cannot go together", "give one of them")


def alone(option: str, value: object, **others: object) -> None:
    """Refuses each of the others beside an option that has no use for them."""
    for name, other in others.items():
        exclusive(**{option: value, name: other})


def scene_only(mend: str, **options: object) -> None:
    """Refuses options of a large scene where none is given; `mend` says how to give it."""
    for name, value in options.items():
        if value:
            raise SwanError(f"--{name.replace('_', '-')} is of a large scene", mend)


def given_options(context: typer.Context | None) -> set[str]:
    """The options that stand on the command line; none for a command that another one calls."""
    if context is None:
        return set()
    return {name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"}
