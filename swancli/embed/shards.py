"""What one process, or one job of an array, has of a long embedding, and what stands of it on the disk.

swan embed --shard 3/8
torchrun --nproc-per-node 8 -m swancli embed

<output>.shards/manifest.json            what is embedded with what, in which pieces, in how many shards
<output>.shards/3-of-8/piece-000017.h5   a finished piece of shard 3
<output>.shards/3-of-8.h5                shard 3, when all its pieces stand, in their place
<output>.shards/3-of-8.json              how far shard 3 is
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swancli.errors import SwanError
from swancli.machine.processes import Processes, launched
from swancli.store.atomic import atomic_path, only_writer
from swancli.store.hdf5 import CREATED_BY
from swancli.store.text import read_json

FORMAT, VERSION = "swan-manifest", 1
# What all shards of an archive agree on, and how it is told that another shard was begun with something else.
AGREED = {
    "images": "other images",
    "checkpoint_sha256": "another checkpoint",
    "precision": "--precision {}",
    "batch_size": "--batch-size {}",
    "shards": "--shard I/{}",
    "pieces": "other pieces",
}


@dataclass(frozen=True)
class Shard:
    """One of several parts of an archive, from 1 on.

    follows: that of a process of a launch which is not the first one, and leaves it to that one to speak.
    """

    number: int
    count: int
    follows: bool = field(default=False, compare=False)

    @property
    def name(self) -> str:
        return f"{self.number}-of-{self.count}"

    @property
    def whole(self) -> bool:
        """Whether it is all of the archive."""
        return self.count == 1

    def share(self, pieces: int) -> range:
        """Its pieces: the shards' follow each other, as evenly as can be."""
        return range(pieces)[Processes(self.number - 1, self.count).share(pieces)]


WHOLE = Shard(1, 1)


def chosen_shard(given: str | None, resume: bool) -> tuple[Shard, bool]:
    """The shard of this process, and whether it goes on: as given, else of torchrun's launch, else all.

    A launch that torchrun has started again goes on by itself.

    Raises:
        SwanError: what is given is no shard, or torchrun has given another one.
    """
    rank, count, attempt = launched() or (0, 1, 0)
    resume = resume or attempt > 0
    if count > 1:
        if given:
            raise SwanError(f"--shard {given}: torchrun gives each process its shard", "leave --shard out")
        return Shard(rank + 1, count, follows=rank > 0), resume
    if given is None:
        return WHOLE, resume
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", given)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise SwanError(f"--shard {given}: no shard", "give its number and how many there are, as 1/8 to 8/8")
    return Shard(int(match[1]), int(match[2])), resume


class ShardFolder:
    """The files of one shard, and those that the shards of its archive share.

    Args:
        output: the embeddings file that the shards are for.
    """

    def __init__(self, output: Path, shard: Shard) -> None:
        self.output = output
        stem = output.stem if output.suffix == ".h5" else output.name
        self.folder = output.with_name(f"{stem}.shards")
        self.shard = shard
        self.manifest = self.folder / "manifest.json"
        self.own = self.folder / shard.name
        self.file = self.folder / f"{shard.name}.h5"
        self.state = self.folder / f"{shard.name}.json"

    def alone_in_shard(self) -> AbstractContextManager[None]:
        """Keeps other processes from this shard; raises as `only_writer`."""
        return only_writer(self.own)

    def alone_in_archive(self) -> AbstractContextManager[None]:
        """Waits for the other shards to let go of what they share."""
        return only_writer(self.folder, wait=True)

    def agree(
        self, manifest: dict[str, Any], anew: bool, joined: Callable[[str], bool] = lambda identity: False
    ) -> str:
        """Writes the manifest, when no shard has; identity of the archive.

        Args:
            manifest: a value for each of `AGREED`, and more. anew: begin anew where no other shard is, or
                where all are joined. joined: whether the embeddings of an archive of this identity stand.

        Raises:
            SwanError: another archive was begun here; says what differs.
        """
        with self.alone_in_archive():
            standing = self._standing()
            differing = [
                said.format(str(standing.get(key))[:40])
                for key, said in AGREED.items()
                if standing.get(key) != manifest[key]
            ]
            if standing and differing:
                done = standing.get("shards") != 1 and joined(_identity(standing))
                if not (anew and self.shard.whole and (standing.get("shards") == 1 or done)):
                    raise SwanError(
                        f"{self.folder}: begun with {', '.join(differing)}", self._resume_hint(standing, done)
                    )
            if differing:
                self.remove_pieces()
                head = {"format": FORMAT, "version": VERSION, "created_by": CREATED_BY}
                _write_json(self.manifest, head | manifest)
        return _identity(manifest)

    def _resume_hint(self, standing: dict[str, Any], done: bool) -> str:
        """What to do where another archive was begun, and perhaps done."""
        if standing.get("shards") == 1:
            return (
                "finish that one: the same command, without --shard, and --resume; or give another --output"
            )
        if done:
            return (
                f"its embeddings stand in {self.output}; to make others: swan embed without --shard and "
                "--resume replaces them, or remove both first; or give another --output"
            )
        return f"give what it was begun with; or another --output; or remove {self.folder}"

    def _standing(self) -> dict[str, Any]:
        """The manifest; empty when there is none."""
        if not self.manifest.exists():
            return {}
        mend = "give another --output, or remove the folder"
        content = read_json(self.manifest, mend)
        found = content.get("format") if isinstance(content, dict) else None
        if found != FORMAT or content.get("version") != VERSION:
            raise SwanError(f"{self.manifest}: no manifest that this swan reads", mend)
        return content

    def piece(self, number: int) -> Path:
        """The file of a piece."""
        return self.own / f"piece-{number:06}.h5"

    def begun(self) -> list[Path]:
        """The pieces that stand, in order."""
        return sorted(self.own.glob("piece-*.h5"), key=lambda path: (len(path.name), path.name))

    def finished(self) -> bool:
        """Whether the shard stands, and nothing newer was begun."""
        return self.file.exists() and not self.begun()

    def write_state(self, pieces: int, done: int, images: int, skipped: int, finished: bool = False) -> None:
        """Writes how far the shard is: of how many pieces how many are done, with how many images."""
        counts = {"images": images, "skipped": skipped, "finished": finished}
        _write_json(self.state, {"pieces": pieces, "done": done, **counts})

    def others(self) -> list[Path]:
        """The files of all shards, in order, whether or not they stand."""
        count = self.shard.count
        return [self.folder / f"{Shard(number, count).name}.h5" for number in range(1, count + 1)]

    def missing(self) -> list[int]:
        """The shards that do not stand."""
        return [number for number, path in enumerate(self.others(), start=1) if not path.exists()]

    def remove_pieces(self) -> None:
        """Takes away its pieces, and what a killed process left of one."""
        for pattern in ("piece-*.h5", ".piece-*.tmp"):
            for path in self.own.glob(pattern):
                path.unlink()

    def remove_all(self) -> None:
        """Takes away what an archive of one shard has no more use for."""
        self.remove_pieces()
        for path in (self.manifest, self.state):
            path.unlink(missing_ok=True)

    def remove_shards(self) -> None:
        """Takes away the shards that earlier embeddings lay in, and what is told of them."""
        for pattern in ("*-of-*.h5", "*-of-*.json"):
            for path in self.folder.glob(pattern):
                path.unlink()

    def remove_empty(self) -> None:
        """Takes away the folders that nothing is in."""
        with suppress(OSError):  # which a folder raises that something is in
            self.own.rmdir()
            self.folder.rmdir()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _identity(manifest: dict[str, Any]) -> str:
    agreed = json.dumps({key: manifest.get(key) for key in AGREED})
    return hashlib.blake2b(agreed.encode(), digest_size=16).hexdigest()
