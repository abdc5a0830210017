"""Takes protections out one at a time, in a copy of the package, and sees that the test named for each fails.

python tests/faults/protections.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Protection:
    """Some lines of a file of the package, what stands there without them, and the test that notices."""

    name: str
    file: str
    lines: str
    without: str
    test: str


PROTECTIONS = (
    Protection(
        "atomic rename",
        "store/atomic.py",
        'temporary = path.with_name(f".{path.name}.{host}.{os.getpid()}.tmp")',
        "temporary = path",
        "tests/store/test_atomic.py::test_file_appears_under_its_name_only_when_the_body_ends",
    ),
    Protection(
        "fsync",
        "store/atomic.py",
        "        _sync(temporary)\n",
        "",
        "tests/store/test_atomic.py::test_file_is_on_the_disk_before_its_name_and_its_name_before_the_end",
    ),
    Protection(
        "mask of padding",
        "model/textual.py",
        "scores = scores.masked_fill(~move(mask, words.device)[:, None, None, :], -torch.inf)",
        "scores = scores + 0",
        "tests/model/test_textual.py::test_caption_embedding_does_not_depend_on_its_batch",
    ),
    Protection(
        "mask of equal captions",
        "train/batches.py",
        "negative = np.stack([~np.isin(wording[captions], wordings_of[row]) for row in rows])",
        "negative = ~positive",
        "tests/train/test_batches.py::test_caption_in_the_words_of_an_images_own_is_no_negative_of_it",
    ),
    Protection(
        "weights_only",
        "store/torch_file.py",
        "weights_only=True, mmap=mapped",
        "weights_only=False, mmap=mapped",
        "tests/model/test_checkpoint.py::test_calls_in_a_file_are_not_made",
    ),
    Protection(
        "path check, names",
        "prepare/entries.py",
        'if path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts:',
        "if False:",
        "tests/prepare/test_sources.py::test_karpathy_errors_name_file_and_place",
    ),
    Protection(
        "path check, links",
        "images.py",
        "    if outside:\n",
        "    if False:\n",
        "tests/test_images.py::test_link_inside_a_folder_is_read_and_one_that_leads_out_is_not",
    ),
    Protection(
        "lock",
        "store/atomic.py",
        "        lock.acquire(timeout=0)\n",
        "        pass\n",
        "tests/train/test_loop.py::test_run_that_another_process_trains_is_refused",
    ),
)


def main() -> None:
    unnoticed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("swancli", "tests", "assets", "pyproject.toml"):
            source = TOP / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
        for protection in PROTECTIONS:
            path = copy / "swancli" / protection.file
            whole = path.read_text()
            assert whole.count(protection.lines) == 1, f"{protection.name}: {protection.file} has changed"
            sound = passes(copy, protection.test)
            path.write_text(whole.replace(protection.lines, protection.without))
            noticed = sound and not passes(copy, protection.test)
            path.write_text(whole)
            unnoticed += not noticed
            print(
                f"{'noticed' if noticed else 'UNNOTICED'}: {protection.name}: {protection.test}", flush=True
            )
    raise SystemExit(1 if unnoticed else 0)


def passes(folder: Path, test: str) -> bool:
    """Whether a test passes with the package of a folder."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-x", "-p", "no:cacheprovider", test]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return not subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, check=False
    ).returncode


if __name__ == "__main__":
    main()
