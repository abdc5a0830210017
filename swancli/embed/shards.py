"""The shard of a long embedding that each process or job works on, and its files until all are joined.

swan embed --shard 3/8
torchrun --nproc-per-node 8 -m swancli embed

<output>.shards/manifest.json            the images, checkpoint, settings, pieces and number of shards
<output>.shards/3-of-8/piece-000017.h5   a finished piece of shard 3
<output>.shards/3-of-8.json              how far shard 3 is

The folder is removed when the embeddings file is whole.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swancli.errors import SwanError
from swancli.machine.processes import Processes, launched
from swancli.store.digest import content_digest
from swancli.store.hdf5 import CREATED_BY
from swancli.store.lock import only_writer
from swancli.store.text import read_json, write_json

FORMAT, VERSION = "swan-manifest", 1
# What must be the same for all shards of an archive, and what the error says if it differs.
AGREED = {
    "images": "other images",
    "checkpoint_sha256": "another checkpoint",
    "configuration": "another configuration of the checkpoint",
    "rendering": "other --bands or --stretch",
    "precision": "--precision {}",
    "batch_size": "--batch-size {}",
    "shards": "--shard I/{}",
    "pieces": "other pieces",
    "scene_from": "--scene-from {}",
    "missing": "--missing {}",
    "created_by": "{}",
}


@dataclass(frozen=True)
class Shard:
    """One of several parts of an archive.

    number: from 1.
    count: of shards.
    follows: it belongs to a process started by torchrun that is not the first, and so prints nothing.
    """

    number: int
    count: int
    follows: bool = field(default=False, compare=False)

    @property
    def name(self) -> str:
        return f"{self.number}-of-{self.count}"

    @property
    def whole(self) -> bool:
        """Whether it is the whole archive."""
        return self.count == 1

    def share(self, pieces: int) -> range:
        """The numbers of its pieces, of n: in order, as evenly as possible."""
        return range(pieces)[Processes(self.number - 1, self.count).share(pieces)]


WHOLE = Shard(1, 1)


def chosen_shard(given: str | None, resume: bool) -> tuple[Shard, bool]:
    """The shard of this process, and whether it resumes.

    The shard is the one given, else the one for this process under torchrun, else the whole archive.
    Processes that torchrun has restarted always resume.

    Args:
        given: such as "3/8"; None if none is given.
        resume: whether the user asks to resume.

    Raises:
        SwanError: `given` is not a shard, or is given under torchrun.
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
        raise SwanError(f"--shard {given}: not a shard", "give its number and how many there are: 1/8 to 8/8")
    return Shard(int(match[1]), int(match[2])), resume


class ShardFolder:
    """The files of one shard, and those that all shards of an archive share.

    Without a manifest nothing is begun: either the embeddings file is whole, or nothing was done.

    Args:
        output: the embeddings file.
        shard: of this process.
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
        """Locks this shard; raises a SwanError if another process works on it."""
        return only_writer(self.own)

    def alone_in_archive(self) -> AbstractContextManager[None]:
        """Locks the files that all shards share, once no other process has locked them."""
        return only_writer(self.folder, wait=True)

    def agree(self, manifest: dict[str, Any], replace: bool) -> None:
        """Writes the manifest, unless another shard has; call it under `alone_in_archive`.

        What was begun with --missing error may be finished with skip: the finished pieces leave nothing out.

        Args:
            manifest: a value for each of `AGREED` but `created_by`, and more.
            replace: replace the manifest of another archive, if it and this one have one shard each.

        Raises:
            SwanError: another archive was begun here; names what differs.
        """
        found = self.read_manifest()
        manifest = manifest | {"created_by": CREATED_BY}
        keys = [key for key in AGREED if found.get(key) != manifest[key]]
        alone = found.get("shards") == 1
        if keys == ["missing"] and found["missing"] == "error":
            self._write_manifest(manifest)
            return
        if found and keys and not (replace and self.shard.whole and alone):
            hint = f"use the same options, or another --output, or remove {self.folder}"
            if "created_by" in keys:
                keys = ["created_by"]  # the rest may follow from it
                hint = f"finish it with that version, or start again: remove {self.folder}"
            elif alone:
                hint = "finish it: the same command, without --shard, with --resume; or give another --output"
            differing = ", ".join(AGREED[key].format(str(found.get(key))[:40]) for key in keys)
            raise SwanError(f"{self.folder}: begun with {differing}", hint)
        if keys:
            self.remove_all()
            self._write_manifest(manifest)

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        write_json(self.manifest, {"format": FORMAT, "version": VERSION} | manifest)

    def read_manifest(self) -> dict[str, Any]:
        """The manifest; empty if there is none.

        Raises:
            SwanError: it is damaged, or of another version.
        """
        if not self.manifest.exists():
            return {}
        hint = "give another --output, or remove the folder"
        content = read_json(self.manifest, hint)
        found = content.get("format") if isinstance(content, dict) else None
        if found != FORMAT or content.get("version") != VERSION:
            raise SwanError(f"{self.manifest}: not a manifest that this swan reads", hint)
        return content

    def shards(self) -> list[Shard]:
        """All shards of the archive."""
        return [Shard(number, self.shard.count) for number in range(1, self.shard.count + 1)]

    def pieces(self, shard: Shard, count: int) -> dict[int, Path]:
        """The file of each piece of a shard, by number, whether or not it exists.

        Args:
            shard: one of the archive.
            count: number of pieces of the archive.
        """
        return {piece: self.folder / shard.name / f"piece-{piece:06}.h5" for piece in shard.share(count)}

    def begun(self) -> bool:
        """Whether this shard has a finished piece."""
        return any(self.own.glob("piece-*.h5"))

    def write_state(self, pieces: int, done: int, images: int, skipped: int) -> None:
        """Writes how far the shard is: its pieces, those that are done, and their images."""
        write_json(self.state, {"pieces": pieces, "done": done, "images": images, "skipped": skipped})

    def remove_own(self) -> None:
        """Removes the files of this shard; call it under `alone_in_shard`."""
        _remove(self.own, "piece-*.h5", ".piece-*.tmp")
        _remove(self.folder, f"{self.shard.name}.json", f".{self.shard.name}.json.*.tmp")

    def remove_all(self) -> None:
        """Removes the files of all shards; call it under `alone_in_archive`.

        The manifest is removed first, so that nothing is resumed if this process is killed here. A shard that
        another process works on is left to that process.
        """
        self.manifest.unlink(missing_ok=True)
        _remove(self.folder, ".manifest.json.*.tmp")
        self.remove_own()
        names = [re.match(r"\.?(\d+)-of-(\d+)", path.name) for path in self.folder.glob("*-of-*")]
        for shard in {Shard(int(name[1]), int(name[2])) for name in names if name} - {self.shard}:
            other = ShardFolder(self.output, shard)
            with suppress(SwanError):  # another process works on it
                with other.alone_in_shard():
                    other.remove_own()
                other.remove_empty()

    def remove_unbegun(self) -> None:
        """Removes the files of a single process that ends before its first piece is finished."""
        if self.shard.whole and not self.begun():
            with self.alone_in_archive():
                self.remove_all()

    def remove_empty(self) -> None:
        """Removes the folders that are empty."""
        for folder in (self.own, self.folder):
            with suppress(OSError):  # not empty
                folder.rmdir()


def _remove(folder: Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()


def archive_identity(manifest: dict[str, Any]) -> str:
    """A hash of what was embedded and how, by which finished embeddings are known again.

    All of `AGREED` except the number of shards, the version of swan, and what was done with damaged images.
    """
    apart = ("shards", "missing", "created_by")
    return content_digest([key, manifest.get(key)] for key in AGREED if key not in apart)
