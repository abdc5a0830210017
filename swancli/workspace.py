"""Paths of data sets and runs under the root, and which of them a command uses by default.

<root>/<dataset>/dataset.h5  vocab.h5  features.h5  backbone-NAME.pt
<root>/<dataset>/runs/<run>/ config.json  metrics.csv  best.pt  last.pt  embeddings.h5  embeddings.index
<root>/<dataset>/runs/<run>/ tiles-SCENE.h5     of a large scene; under shipped/ likewise
<root>/<dataset>/runs/<group>/ group.json      lists its runs, which are in the same folder `runs`
<root>/<checkpoint>/ embeddings-NAME.h5        made with a checkpoint that is not in a run: `shipped`, or
                                               the name of its file and the start of its SHA-256

NAME and SCENE are the last part of a path or address, with more of it if another source has that name there.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swancli.errors import SwanError
from swancli.store import DEMO
from swancli.store.digest import content_digest
from swancli.store.text import read_json

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
LONGEST_PART = 80  # bytes of a source's name in that of a file, which has more to it while it is written
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
        """The newest file with the tiles of a large scene; None if there is none.

        A file whose scene was moved counts if the name fits: whoever opens it compares the rest.
        """
        from swancli.store.hdf5 import recorded_source

        found = _newest_first(self.root, "*/runs/*/tiles-*.h5", "*/tiles-*.h5")
        sources = {path: recorded_source(path) for path in found}
        own = [path for path in found if _is_same(sources[path], str(scene))]
        unknown = [path for path in found if not (sources[path] and Path(sources[path]).exists())]
        moved = [path for path in unknown if path.name == tiles_name(scene)]
        return next(iter(own or moved), None)

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
    """Name of the file with a large scene's tiles, unless one of another scene has it."""
    return f"tiles-{file_part(scene.name)}.h5"


def own_file(folder: Path, start: str, name: str, source: str) -> tuple[Path, str]:
    """The file in a folder for what is made from one source: no two sources share one.

    Its name is `name`; if something from another source has it, the folder that the source is in comes before
    it, or a hash behind it.

    Args:
        folder: of the file.
        start: of the name, such as "embeddings-".
        name: of the source, its last part.
        source: path or address, in full.

    Returns:
        The file, and the other source whose name was avoided; "" if there is none.
    """
    parts = [part for part in re.split(r"[/\\]", source) if part]
    longer = f"{parts[-2]}-{name}" if len(parts) > 1 else name
    stems = [name, longer, f"{file_part(name)}-{content_digest([source])[:8]}"]
    paths = [folder / f"{start}{file_part(stem)}.h5" for stem in stems]
    owners = [_owner(path) for path in paths]
    place = next((place for place, owner in enumerate(owners) if owner and _is_same(owner, source)), None)
    if place is None:
        place = next((place for place, owner in enumerate(owners) if not owner), len(paths) - 1)
    return paths[place], owners[0] if place else ""


def file_part(name: str) -> str:
    """A name as part of a file's name: without odd characters, and not too long."""
    plain = re.sub(r"[^\w.-]+", "-", name).strip("-") or "images"
    return plain.encode()[:LONGEST_PART].decode(errors="ignore")


def _owner(path: Path) -> str:
    """What a file is made from, or is being made from; "" if there is none, or it is damaged."""
    from swancli.store.hdf5 import recorded_source

    if path.exists():
        return recorded_source(path)
    manifest = path.with_suffix(".shards") / "manifest.json"
    with suppress(SwanError, KeyError, TypeError):
        return str(read_json(manifest, "")["source"])
    return ""


def _is_same(one: str, other: str) -> bool:
    """Whether two paths, or addresses, name the same place."""
    if "://" in one or "://" in other:
        return one == other
    return os.path.realpath(one) == os.path.realpath(other)


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
