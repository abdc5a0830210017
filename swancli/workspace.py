"""Where data sets and runs live under the root, and which of them a command means when none is named.

<root>/<dataset>/dataset.h5  vocab.h5
<root>/<dataset>/runs/<run>/ config.json  metrics.csv  best.pt  last.pt  embeddings.h5  figures/
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from swancli.errors import SwanError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Run:
    """A run's folder and the files in it."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def dataset(self) -> str:
        return self.folder.parent.parent.name

    @property
    def config(self) -> Path:
        return self.folder / "config.json"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.csv"

    @property
    def best(self) -> Path:
        return self.folder / "best.pt"

    @property
    def last(self) -> Path:
        return self.folder / "last.pt"

    @property
    def embeddings(self) -> Path:
        return self.folder / "embeddings.h5"


@dataclass(frozen=True)
class Workspace:
    """The root that everything is written under."""

    root: Path

    def dataset(self, name: str) -> Path:
        """Path of a data set's `dataset.h5`."""
        return self.root / checked_name(name, "--dataset") / "dataset.h5"

    def vocab(self, name: str) -> Path:
        """Path of a data set's `vocab.h5`."""
        return self.root / checked_name(name, "--dataset") / "vocab.h5"

    def run(self, dataset: str, name: str) -> Run:
        """A run of a data set, whether or not it exists yet."""
        return Run(self.root / checked_name(dataset, "--dataset") / "runs" / checked_name(name, "--run"))

    def newest_dataset(self) -> str:
        """Name of the data set prepared last.

        Raises:
            SwanError: there is none.
        """
        found = _newest(self.root, "*/dataset.h5")
        if not found:
            raise SwanError(
                f"{self.root}: no data set below it", "make one: swan prepare --dataset NAME --source DIR"
            )
        return found.parent.name

    def find_run(self, name: str | None = None, dataset: str | None = None, having: str = "best.pt") -> Run:
        """The newest run among those of the given name and data set.

        Args:
            having: the file that makes it count, whose age is the run's.

        Raises:
            SwanError: there is none.
        """
        pattern = f"{_only(dataset, '--dataset')}/runs/{_only(name, '--run')}/{having}"
        found = _newest(self.root, pattern)
        if found:
            return Run(found.parent)
        which = f"run {name!r}" if name else "finished run"
        where = self.root / dataset if dataset else self.root
        mend = f"train one: swan train --dataset {dataset or 'NAME'}"
        raise SwanError(f"{where}: no {which} there", mend)

    def find_run_for(self, name: str | None = None, dataset: str | None = None) -> Run:
        """The run to use on a data set: one of its own when there is one, else one of another data set.

        Raises:
            SwanError: there is none.
        """
        own = f"{_only(dataset, '--dataset')}/runs/{_only(name, '--run')}/best.pt"
        return self.find_run(name, dataset if _newest(self.root, own) else None)

    def find_embeddings(self) -> Path:
        """The newest embeddings file under the root.

        Raises:
            SwanError: there is none.
        """
        found = _newest(self.root, "*/runs/*/embeddings*.h5")
        if not found:
            raise SwanError(f"{self.root}: no embeddings.h5 below it", "make one: swan embed")
        return found


def checked_name(name: str, option: str) -> str:
    """The name, when it can be a folder of its own.

    Raises:
        SwanError: it holds something other than letters, digits, `.`, `_` and `-`.
    """
    if not NAME.fullmatch(name):
        raise SwanError(f"{option} {name!r}: letters, digits, '.', '_' and '-' only, no path")
    return name


def _only(name: str | None, option: str) -> str:
    return checked_name(name, option) if name else "*"


def _newest(root: Path, pattern: str) -> Path | None:
    return max(root.glob(pattern), key=lambda path: (path.stat().st_mtime_ns, str(path)), default=None)
