"""Which part of a long embedding a process, or a job of an array, has, and its files until all are joined.

swan embed --shard 3/8
torchrun --nproc-per-node 8 -m swancli embed

<output>.shards/manifest.json            what is embedded with what, in which pieces, in how many shards
<output>.shards/3-of-8/piece-000017.h5   a finished piece of shard 3
<output>.shards/3-of-8.json              how far shard 3 is

The folder is gone once the embeddings file is whole.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swancli.errors import SwanError
from swancli.machine.processes import Processes, launched
from swancli.store.atomic import only_writer
from swancli.store.digest import content_digest
from swancli.store.hdf5 import CREATED_BY
from swancli.store.text import read_json, write_json

FORMAT, VERSION = "swan-manifest", 1
# What all shards of an archive agree on, and what the error says where another one was begun.
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

    A folder without a manifest is one where nothing is begun: all is in the embeddings file, or nothing is.

    Args:
        output: the embeddings file that the shards are for.
        shard: this process's.
    """

    def __init__(self, output: Path, shard: Shard) -> None:
        self.output = output
        stem = output.stem if output.suffix == ".h5" else output.name
        self.folder = output.with_name(f"{stem}.shards")
        self.shard = shard
        self.manifest = self.folder / "manifest.json"
        self.own = self.folder / shard.name
        self.state = self.folder / f"{shard.name}.json"

    def alone_in_shard(self) -> AbstractContextManager[None]:
        """Keeps other processes from this shard; raises as `only_writer`."""
        return only_writer(self.own)

    def alone_in_archive(self) -> AbstractContextManager[None]:
        """Waits for the other shards to release what they share."""
        return only_writer(self.folder, wait=True)

    def agree(self, manifest: dict[str, Any], replace: bool) -> None:
        """Writes the manifest, unless another shard has; to be called alone in the archive.

        Args:
            manifest: a value for each of `AGREED`, and more.
            replace: another archive's, where this shard is all of it and that one had one shard too.

        Raises:
            SwanError: another archive was begun here; names what differs.
        """
        found = self.read_manifest()
        differing = [
            said.format(str(found.get(key))[:40])
            for key, said in AGREED.items()
            if found.get(key) != manifest[key]
        ]
        if found and differing and not (replace and self.shard.whole and found.get("shards") == 1):
            same = "the same command, without --shard, and --resume"
            raise SwanError(
                f"{self.folder}: begun with {', '.join(differing)}",
                f"finish that one: {same}; or give another --output"
                if found.get("shards") == 1
                else f"give what it was begun with; or another --output; or remove {self.folder}",
            )
        if differing:
            self.remove_all()
            head = {"format": FORMAT, "version": VERSION, "created_by": CREATED_BY}
            write_json(self.manifest, head | manifest)

    def read_manifest(self) -> dict[str, Any]:
        """The manifest; empty when there is none.

        Raises:
            SwanError: it is damaged, or of another version.
        """
        if not self.manifest.exists():
            return {}
        hint = "give another --output, or remove the folder"
        content = read_json(self.manifest, hint)
        found = content.get("format") if isinstance(content, dict) else None
        if found != FORMAT or content.get("version") != VERSION:
            raise SwanError(f"{self.manifest}: no manifest that this swan reads", hint)
        return content

    def shards(self) -> list[Shard]:
        """All shards of the archive."""
        return [Shard(number, self.shard.count) for number in range(1, self.shard.count + 1)]

    def pieces(self, shard: Shard, count: int) -> dict[int, Path]:
        """The files of a shard's pieces by their numbers, whether or not they exist.

        Args:
            shard: one of the archive.
            count: pieces of the archive.
        """
        return {piece: self.folder / shard.name / f"piece-{piece:06}.h5" for piece in shard.share(count)}

    def begun(self) -> bool:
        """Whether this shard has a piece."""
        return any(self.own.glob("piece-*.h5"))

    def write_state(self, pieces: int, done: int, images: int, skipped: int) -> None:
        """Writes how far the shard is: of how many pieces how many are done, with how many images."""
        write_json(self.state, {"pieces": pieces, "done": done, "images": images, "skipped": skipped})

    def remove_own(self) -> None:
        """Removes what there is of this shard; to be called alone in it."""
        _remove(self.own, "piece-*.h5", ".piece-*.tmp")
        _remove(self.folder, f"{self.shard.name}.json", f".{self.shard.name}.json.*.tmp")

    def remove_all(self) -> None:
        """Removes what there is of all shards; to be called alone in the archive.

        The manifest goes first, so that nothing that a kill leaves is resumed. A shard whose process is still
        there is left to it.
        """
        self.manifest.unlink(missing_ok=True)
        _remove(self.folder, ".manifest.json.*.tmp")
        self.remove_own()
        names = [re.match(r"\.?(\d+)-of-(\d+)", path.name) for path in self.folder.glob("*-of-*")]
        for shard in {Shard(int(name[1]), int(name[2])) for name in names if name} - {self.shard}:
            other = ShardFolder(self.output, shard)
            with suppress(SwanError):  # another process is in it
                with other.alone_in_shard():
                    other.remove_own()
                other.remove_empty()

    def remove_unbegun(self) -> None:
        """Removes what one process for all of an archive has left when it ends before its first piece."""
        if self.shard.whole and not self.begun():
            with self.alone_in_archive():
                self.remove_all()

    def remove_empty(self) -> None:
        """Removes the folders that nothing is in."""
        for folder in (self.own, self.folder):
            with suppress(OSError):  # which a folder raises that something is in
                folder.rmdir()


def _remove(folder: Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()


def archive_identity(manifest: dict[str, Any]) -> str:
    """A digest of what the embeddings of an archive depend on: all that is agreed on but the shards."""
    return content_digest([key, manifest.get(key)] for key in AGREED if key != "shards")
