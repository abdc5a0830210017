"""Paths of data sets and runs under the root, and which of them a command uses by default.

<root>/<dataset>/dataset.h5  vocab.h5  features.h5  backbone-NAME.pt
<root>/<dataset>/runs/<run>/ config.json  metrics.csv  best.pt  last.pt  embeddings.h5  embeddings.index
<root>/<dataset>/runs/<run>/ tiles-SCENE.h5     of a large scene; under shipped/ likewise
<root>/<dataset>/runs/<group>/ group.json      lists its runs, which are in the same folder `runs`
<root>/<checkpoint>/ embeddings-NAME.h5        made with a checkpoint that is not in a run: `shipped`, or
                                               the name of its file and the start of its SHA-256
"""

from __future__ import annotations

import glob
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swancli.errors import SwanError
from swancli.store import DEMO
from swancli.store.text import read_json

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
LISTED = 10  # names of runs in an error
WITH_SWAN = "imagenet"  # in place of a backbone's file: the weights that come with swan
NO_WEIGHTS = "none"  # likewise: random ones
WEIGHTS_HINT = "check the path; imagenet and shipped come with swan"
SHIPPED = "shipped"  # also the folder of its embeddings, so neither a data set nor a run may have this name


def shipped_checkpoint() -> Path:
    """The checkpoint that comes with swan: in the package, or in `assets/` of a checkout."""
    package = Path(__file__).parent
    inside = package / "assets" / "shipped.pt"
    return inside if inside.exists() else package.parent / "assets" / "shipped.pt"


@dataclass
class Run:
    """A run's folder and the files in it."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)  # perhaps given as text
        self.name = self.folder.name
        self.dataset = self.folder.parent.parent.name
        self.config = self.folder / "config.json"
        self.metrics = self.folder / "metrics.csv"
        self.best = self.folder / "best.pt"
        self.last = self.folder / "last.pt"
        self.embeddings = self.folder / "embeddings.h5"


@dataclass
class Group:
    """Runs reported together, one per fold or variant, listed in order in the folder's `group.json`."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)  # perhaps given as text
        self.name = self.folder.name
        self.file = self.folder / "group.json"

    def run(self, name: str) -> Run:
        """A run of the group."""
        return Run(self.folder.parent / name)

    def members(self) -> list[dict[str, Any]]:
        """The runs, each with its name `run`, the `label` of its variant ("" if it is the only one), its
        `fold` (from 1; 0 for none) and its `config`.

        Raises:
            SwanError: the file is absent or damaged.
        """
        content = read_json(self.file, "start a new one")
        try:
            members = content["members"]
            if not (isinstance(members, list) and members):
                raise ValueError("its members are not a list, or an empty one")
            for row, member in enumerate(members):
                checked_name(member["run"], "run")
                kinds = {"run": str, "label": str, "fold": int, "config": dict}
                odd = [key for key, kind in kinds.items() if not isinstance(member[key], kind)]
                if odd:
                    raise ValueError(f"members[{row}].{odd[0]} is {member[odd[0]]!r}")
        except (ValueError, KeyError, TypeError, SwanError) as error:
            reason = error.problem if isinstance(error, SwanError) else error
            raise SwanError(f"{self.file}: not a group of runs ({reason})", "start a new one") from error
        return members


@dataclass(frozen=True)
class Workspace:
    """The root that everything is written under."""

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))  # given as text

    def dataset(self, name: str) -> Path:
        """Path of a data set's `dataset.h5`."""
        return self.root / checked_name(name, "--dataset") / "dataset.h5"

    def vocab(self, name: str) -> Path:
        """Path of a data set's `vocab.h5`."""
        return self.dataset(name).with_name("vocab.h5")

    def features(self, name: str) -> Path:
        """Path of a data set's `features.h5`."""
        return self.dataset(name).with_name("features.h5")

    def run(self, dataset: str, name: str) -> Run:
        """A run of a data set, whether or not it exists yet."""
        return Run(self.root / checked_name(dataset, "--dataset") / "runs" / checked_name(name, "--run"))

    def group(self, dataset: str, name: str) -> Group:
        """A group of runs of a data set, whether or not it exists yet."""
        return Group(self.run(dataset, name).folder)

    def newest_dataset(self, hint: str = "make one: swan prepare --dataset NAME --source PATH") -> str:
        """Name of the data set that was prepared last; `hint` says what to do if there is none.

        Raises:
            SwanError: there is none.
        """
        found = _newest(self.root, "*/dataset.h5")
        if not found:
            raise SwanError(f"no data set under {self.root}", hint)
        return found.parent.name

    def find_run(self, name: str | None = None, dataset: str | None = None, having: str = "best.pt") -> Run:
        """The newest run of a name and data set.

        Args:
            name: of the run; None for any.
            dataset: of the run; None for any.
            having: a file that the run must have; its age counts as the run's.

        Raises:
            SwanError: there is none.
        """
        found = self._of_runs(having, name, dataset)
        if found:
            return Run(found[0].parent)
        which = f"run {name!r}" if name else "finished run" if having == "best.pt" else "run to resume"
        where = self.root / dataset if dataset else self.root
        others = [path.parent.name for path in self._of_runs(having, None, dataset)] if name else []
        there = f"there are: {', '.join(others[:LISTED])}" + (" and more" if len(others) > LISTED else "")
        hint = there if others else f"train one: swan train --dataset {dataset or 'NAME'}"
        raise SwanError(f"no {which} under {where}", hint)

    def has_run(self, name: str, dataset: str | None = None) -> bool:
        """Whether a run or a group of that name exists, finished or not."""
        return bool(self._of_runs("config.json", name, dataset) or self._of_runs("group.json", name, dataset))

    def run_in_place_of(self, file: Path) -> Run | None:
        """The newest finished run whose name was given in place of a file; None if there is none."""
        name = str(file)
        if file.exists() or name == SHIPPED or not NAME.fullmatch(name):
            return None
        found = self._of_runs("best.pt", name)
        return Run(found[0].parent) if found else None

    def find_run_for(self, name: str | None = None, dataset: str | None = None) -> Run:
        """The newest run of a data set, or of another one if it has none.

        Raises:
            SwanError: there is none.
        """
        return self.find_run(name, dataset if self._of_runs("best.pt", name, dataset) else None)

    def find_encoder(
        self, name: str | None = None, dataset: str | None = None, foreign: bool = False
    ) -> Path:
        """The checkpoint to encode with: that of `find_run_for`, else the shipped one.

        Args:
            name: of a run; None for the newest.
            dataset: that is encoded.
            foreign: something other than a data set is encoded, for which runs on the demo do not count.

        Raises:
            SwanError: there is no run of that name, or nothing to encode.
        """
        if not name:
            runs = [Run(path.parent) for path in self._of_runs("best.pt")]
            runs = [run for run in runs if not (foreign and run.dataset == DEMO)]
            if not runs and not foreign and not _newest(self.root, "*/dataset.h5"):
                raise SwanError(
                    f"no run and no data set under {self.root}",
                    "search a folder: swan embed --images DIR; or start with swan prepare and swan train",
                )
            if not runs and shipped_checkpoint().exists():
                return shipped_checkpoint()
            if foreign and runs:
                return runs[0].best
        return self.find_run_for(name, dataset).best

    def find_group(
        self, name: str | None = None, dataset: str | None = None, folds: bool = False
    ) -> Group | None:
        """The newest group of a name and data set; None if there is none.

        Args:
            name: of the group; None for any.
            dataset: of the group; None for any.
            folds: only groups that have folds.
        """
        groups = [Group(path.parent) for path in self._of_runs("group.json", name, dataset)]
        wanted = (group for group in groups if not folds or any(row["fold"] for row in group.members()))
        return next(wanted, None)

    def find_checkpoint(self, run_or_file: str) -> Path:
        """The checkpoint named by a file, a run's folder, a run's name or `shipped`.

        Raises:
            SwanError: there is none.
        """
        path = named_checkpoint(Path(run_or_file))
        if path.is_file():
            return path
        if (path / "best.pt").is_file():
            return path / "best.pt"
        if not NAME.fullmatch(run_or_file) or path.suffix:
            raise SwanError(f"{run_or_file}: no such checkpoint", "check the path, or give a run's name")
        return self.find_run(run_or_file).best

    def find_embeddings(self) -> Path:
        """The newest embeddings file under the root.

        Raises:
            SwanError: there is none.
        """
        found = _newest(self.root, "*/runs/*/embeddings*.h5", "*/embeddings*.h5")
        if not found:
            raise SwanError(
                f"no embeddings under {self.root}",
                "make one: swan embed, or swan embed --images DIR for a folder of images",
            )
        return found

    def find_tiles(self, scene: Path) -> Path | None:
        """The newest file with the tiles of a large scene; None if there is none."""
        name = glob.escape(tiles_name(scene))
        return _newest(self.root, f"*/runs/*/{name}", f"*/{name}")

    def folder_of(self, checkpoint: Path, sha256: str) -> Path:
        """The folder for what a checkpoint makes: that of its run, if the run is under the root.

        Args:
            checkpoint: path of its file, or of its folder.
            sha256: of it, since files of one name would write over each other's results.
        """
        places = checkpoint.absolute().parents  # run, runs, data set, root
        if len(places) > 3 and places[1].name == "runs" and places[3].resolve() == self.root.resolve():
            return checkpoint.parent
        if is_shipped(checkpoint):
            return self.root / SHIPPED
        name = checkpoint.name if checkpoint.is_dir() else checkpoint.stem
        return self.root / f"{name}-{sha256[:8]}"

    def _of_runs(self, file: str, name: str | None = None, dataset: str | None = None) -> list[Path]:
        """A file of each run or group of a name and data set, the newest first; None for any."""
        dataset = checked_name(dataset, "--dataset") if dataset else "*"
        name = checked_name(name, "--run") if name else "*"
        return _newest_first(self.root, f"{dataset}/runs/{name}/{file}")


def tiles_name(scene: Path) -> str:
    """Name of the file with a large scene's tiles."""
    return f"tiles-{scene.name}.h5"


def relocated_checkpoint(path: Path) -> Path:
    """The file, or this installation's shipped checkpoint in place of one that no longer exists."""
    moved = not path.exists() and path.name == shipped_checkpoint().name
    return shipped_checkpoint() if moved else path


def is_shipped(path: Path) -> bool:
    """Whether a file is the shipped checkpoint, by whatever path."""
    return path.resolve() == shipped_checkpoint().resolve()


def named_checkpoint(path: Path) -> Path:
    """The file itself, or the shipped checkpoint for `shipped` if no file has that name."""
    return shipped_checkpoint() if str(path) == SHIPPED and not path.is_file() else path


def checked_name(name: str, option: str) -> str:
    """The name, if it can be that of a folder.

    Args:
        name: returned unchanged.
        option: the option that gave it, for the error.

    Raises:
        SwanError: it contains something other than letters, digits, `.`, `_` and `-`.
    """
    if name == SHIPPED:
        raise SwanError(
            f"{option} {SHIPPED}: the name means the checkpoint that comes with swan", "choose another name"
        )
    if not NAME.fullmatch(name):
        allowed = "use letters, digits, '.', '_' and '-' only, and no path"
        raise SwanError(f"{option} {name!r}: not a name", allowed)
    return name


def _newest(root: Path, *patterns: str) -> Path | None:
    return next(iter(_newest_first(root, *patterns)), None)


def _newest_first(root: Path, *patterns: str) -> list[Path]:
    found = []
    for path in (path for pattern in patterns for path in root.glob(pattern)):
        with suppress(OSError):  # a link that leads nowhere, or a file that was just removed
            found.append((path.stat().st_mtime_ns, str(path), path))
    return [path for _, _, path in sorted(found, reverse=True)]
