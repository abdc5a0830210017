"""The kinds of faults: each disturbs a command some times and asks what it left."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import child
from material import Command
from roots import broken_files, differences, files_of, left_over
from trials import TIMEOUT, Trials

INTERRUPTED = (130, -signal.SIGINT)  # the same to a shell; by the signal itself while Python starts and ends
REFUSED = 2
PAGE = 4096  # bytes, of which a small disk gives whole ones
MOST_SECONDS = 2.0  # from an interrupt to the end
STARTING = 0.15  # seconds in which Python itself starts, where an interrupt is not yet swan's


class Counts:
    """How many faults of each kind a command met, and survived."""

    def __init__(self) -> None:
        self._met: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))

    def add(self, command: Command, kind: str, survived: bool) -> None:
        self._met[command.name][kind].append(survived)

    def table(self) -> str:
        """Markdown: one row per command, one column per kind; survived of met."""
        rows = [["", *FAULTS], ["---"] * (len(FAULTS) + 1)]
        for name, met in self._met.items():
            rows.append([f"`{name}`", *(f"{sum(met[kind])} of {len(met[kind])}" for kind in FAULTS)])
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


# ---------------------------------------------------------------------------------------------------------
# processes that end


def killed(trials: Trials, command: Command, chance: random.Random, kills: int, counts: Counts) -> None:
    """SIGKILL inside each file at a chosen call, and at random times, every tenth time of the executable."""
    moments = trials.record(command)
    within: dict[str, list[int]] = defaultdict(list)
    for number, (what, file) in enumerate(moments, start=1):
        if what != "read":
            within[file].append(number)
    # Before the second or a later call for each file: something of it is written then.
    chosen = [chance.choice(numbers[1:] or numbers) for numbers in within.values()]
    chosen += [chance.randint(1, len(moments)) for _ in range(kills // 2 - len(chosen))]
    for number in chosen:
        trials.begin(command)
        how = f"killed before {' '.join(moments[number - 1])} (moment {number})"
        code = trials.forked(trials.arguments(command), at=number)
        if code != -signal.SIGKILL:
            trials.fail(command, f"{how}: ended with {code} before it: {trials.printed()[-300:]}")
        counts.add(command, "SIGKILL", trials.survived(command, how))
    for trial in range(len(chosen), kills):
        executed = trial % 10 == 0
        longest = trials.executed_seconds(command) if executed else trials.seconds(command)
        code = None
        while code != -signal.SIGKILL:  # else it was done before, and is no kill
            after = chance.uniform(0, longest)
            trials.begin(command)
            if executed:
                process = trials.executed(trials.arguments(command))
                if not _ended(process, after):
                    process.kill()
                    process.communicate()
                code = process.returncode
            else:
                code = trials.forked(trials.arguments(command), seconds=after)
            longest *= 0.95
        counts.add(command, "SIGKILL", trials.survived(command, f"killed after {after:.3f} s"))


def interrupted(trials: Trials, command: Command, chance: random.Random, kills: int, counts: Counts) -> None:
    """SIGINT to the executable: it ends with 130 at once, tidies up, and finishes when it is run again."""
    seconds = trials.executed_seconds(command)
    wanted = max(1, kills // 10)
    while wanted:
        trials.begin(command)
        process = trials.executed(trials.arguments(command))
        after = chance.uniform(STARTING, max(seconds, 2 * STARTING))
        how = f"interrupted after {after:.3f} s"
        if _ended(process, after):
            seconds *= 0.9  # it was done sooner this time
            continue
        wanted -= 1
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        told = process.communicate(timeout=TIMEOUT)[0]
        took = time.monotonic() - began
        failures = len(trials.failures)
        done = process.returncode == 0  # while it was about to end
        if not (done or process.returncode in INTERRUPTED) or "Traceback" in told:
            trials.fail(command, f"{how}: ends with {process.returncode}: {told}")
        if took > MOST_SECONDS:
            trials.fail(command, f"{how}: took {took:.1f} s to end")
        for path in left_over(trials.root):
            trials.fail(command, f"{how}: left {path.name}")
        survived = trials.survived(command, how)
        counts.add(command, "SIGINT", survived and len(trials.failures) == failures)


def _ended(process: subprocess.Popen, seconds: float) -> bool:
    """Whether a process ended within n seconds."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    process.communicate()
    return True


# ---------------------------------------------------------------------------------------------------------
# disks and files


def disk_full(trials: Trials, command: Command, chance: random.Random, kills: int, counts: Counts) -> None:
    """A small disk that ends at some share of what the command writes; with more room it continues."""
    start = trials.before(command)
    held, grows = _size(start) if start else 0, 0
    for path in files_of(trials.after(command)):
        written = trials.after(command) / path
        new = not (start and (start / path).exists() and (start / path).samefile(written))
        grows += new * 512 * written.stat().st_blocks
    for _ in range(max(1, kills // 10)):
        share = chance.uniform(0.02, 0.98)
        how = f"disk full after {100 * share:.0f} % of {grows} bytes"
        with _small_disk(trials.root, held + int(share * grows) // PAGE * PAGE) as made:
            if not made:
                print("full disks are left out: they need root", flush=True)
                return
            if start:
                shutil.copytree(start, trials.root, dirs_exist_ok=True)
            code = trials.forked(trials.arguments(command))
            survived = _refused(trials, command, how, code, "room", "free there")
            subprocess.run(["mount", "-o", "remount,size=2g", trials.root], check=True)
            survived = trials.survived(command, how) and survived
        counts.add(command, "disk full", survived)


def not_writable(trials: Trials, command: Command, chance: random.Random, kills: int, counts: Counts) -> None:
    """A disk that is mounted to be read alone."""
    start = trials.before(command)
    with _small_disk(trials.root, 2**31) as made:
        if not made:
            return
        if start:
            shutil.copytree(start, trials.root, dirs_exist_ok=True)
        subprocess.run(["mount", "-o", "remount,ro", trials.root], check=True)
        code = trials.forked(trials.arguments(command))
        told = _refused(trials, command, "read-only", code, "Read-only file system")
        subprocess.run(["mount", "-o", "remount,rw", trials.root], check=True)
        counts.add(command, "read-only", trials.survived(command, "read-only") and told)


def file_removed(trials: Trials, command: Command, chance: random.Random, kills: int, counts: Counts) -> None:
    """What a command reads is removed on its way: it ends in a line, or does without."""
    trials.begin(command)
    moments = trials.record(command)
    read = list(trials.root.rglob("*.h5")) or [max((trials.source / "images").iterdir())]
    for path in read:
        trials.begin(command)
        kept = trials.folder / "kept"
        shutil.copy(path, kept)
        at = chance.randint(1, max(1, len(moments) // 2))
        how = f"{path.name} removed at moment {at}"
        code = trials.forked(trials.arguments(command), at=at, act=partial(child.remove, path))
        survived = code == 0 or _refused(trials, command, how, code, path.name)
        shutil.copy(kept, path)
        if code:
            survived = trials.survived(command, how) and survived
        elif different := differences(trials.root, trials.after(command)):
            trials.fail(command, f"{how}: ends with 0, and differs in {different}")
            survived = False
        counts.add(command, "file removed", survived)


def _refused(trials: Trials, command: Command, how: str, code: int, *words: str) -> bool:
    """Whether a command ended with a line that says one of some words, and left nothing half-written."""
    told = trials.printed()
    failures = len(trials.failures)
    if code != REFUSED or "Traceback" in told or not any(word in told for word in words):
        trials.fail(command, f"{how}: ends with {code}: {told[-600:]}")
    for defect in broken_files(trials.root, trials.before(command)):
        trials.fail(command, f"{how}: incomplete {defect}")
    return len(trials.failures) == failures


def _size(folder: Path) -> int:
    """Bytes that the files of a folder take on a small disk, which gives them whole pages."""
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in folder.rglob("*") if path.is_file())


@contextmanager
def _small_disk(folder: Path, size: int) -> Iterator[bool]:
    """An empty disk of n bytes in place of a folder; False where there can be none."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    asked = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    made = os.geteuid() == 0 and not subprocess.run(asked, check=False, capture_output=True).returncode
    try:
        yield made
    finally:
        if made:
            subprocess.run(["umount", folder], check=True)


# ---------------------------------------------------------------------------------------------------------
# the order of writes, and other writers


def power_cut(trials: Trials, command: Command, chance: random.Random, kills: int, counts: Counts) -> None:
    """Each file is synced after its last piece and before its name, and its folder after that."""
    pieces: dict[str, str] = {}
    failures = len(trials.failures)
    waiting: list[str] = []
    for what, file in trials.record(command):
        if what == "sync" and file == "folder":
            waiting.clear()
        elif what == "name":
            if pieces.pop(file, "") != "sync":
                trials.fail(command, f"{file} gets its name before it is on the disk")
            waiting.append(file)
        elif what != "read":
            pieces[file] = what
    for file in waiting:
        trials.fail(command, f"the name of {file} is not on the disk at the end")
    for file in pieces:
        trials.fail(command, f"{file} is written under its final name, or never gets it")
    counts.add(command, "order of writes", len(trials.failures) == failures)


def two_writers(trials: Trials, command: Command, chance: random.Random, kills: int, counts: Counts) -> None:
    """Two processes that resume one run: one is refused. Two that embed: one may be. Others both finish."""
    training, embedding = command.name == "train", command.name in ("embed", "embed --resume")
    if kills < 10 and not training:
        return  # the quick form
    trials.begin(command)
    if training:  # killed half-way, so that there is something to resume
        trials.forked(trials.arguments(command), at=len(trials.record(command)) // 2)
    arguments = trials.arguments(command, again=training)
    both = [trials.executed(arguments) for _ in range(2)]
    told = [process.communicate(timeout=TIMEOUT)[0] for process in both]
    codes = sorted(process.returncode for process in both)
    failures = len(trials.failures)
    allowed = ([0, 0],) * (not training) + ([0, REFUSED],) * (training or embedding)
    if codes not in allowed or "Traceback" in "".join(told):
        trials.fail(command, f"two at a time end with {codes}: {told}")
    if sum("another swan is writing there" in text for text in told) != codes.count(REFUSED):
        trials.fail(command, f"two at a time: refused for another reason: {told}")
    found = differences(trials.root, trials.after(command))
    if found:
        trials.fail(command, f"two at a time: differs in {found}")
    counts.add(command, "two at a time", len(trials.failures) == failures)


FAULTS: dict[str, Callable[[Trials, Command, random.Random, int, Counts], None]] = {
    "SIGKILL": killed,
    "SIGINT": interrupted,
    "disk full": disk_full,
    "read-only": not_writable,
    "file removed": file_removed,
    "order of writes": power_cut,
    "two at a time": two_writers,
}
