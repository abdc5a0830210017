"""One disturbed command after another, each in a root of its own, and what is asked of what it leaves."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import child
from material import COMMANDS, Command, linked_copy, write_source
from roots import broken_files, differences, left_over

TIMEOUT = 240  # seconds, from which on a command counts as hanging


class Trials:
    """A folder with the roots that trials start from and end in.

    Attributes:
        root: where each trial runs, always the same path, since some files name it. failures: what was not as
            it has to be, in words.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.source = folder / "source"
        self.failures: list[str] = []
        self._seconds: dict[str, float] = {}
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["preloaded"])
        # The server does not know this process's path, and would pass over what it cannot import.
        os.environ["PYTHONPATH"] = os.pathsep.join(map(str, sys.path))
        write_source(self.source)
        self.root.mkdir()
        self.forked(["--version"])  # starts the server, whose imports would count as the first command's time

    # -- roots

    def before(self, command: Command) -> Path | None:
        """A root in which all has run that the command needs; None when it needs nothing."""
        return self.after(COMMANDS[command.follows]) if command.follows else None

    def after(self, command: Command) -> Path:
        """A root in which the command has run undisturbed."""
        root = self.folder / "after" / command.name.replace(" ", "")
        if not root.exists():
            self.begin(command)
            began = time.monotonic()
            code = self.forked(self.arguments(command))
            self._seconds[command.name] = time.monotonic() - began
            if code:
                raise SystemExit(f"swan {command.name} ends with {code}:\n{self.printed()}")
            root.parent.mkdir(exist_ok=True)
            self.root.rename(root)
            shutil.copy(self.folder / "record", self._record(command))
        return root

    def begin(self, command: Command) -> None:
        """Puts a fresh root in place."""
        start = self.before(command)
        shutil.rmtree(self.root, ignore_errors=True)
        if start:
            linked_copy(start, self.root)
        else:
            self.root.mkdir()

    # -- running

    def arguments(self, command: Command, again: bool = False) -> list[str]:
        """Of the command, or to run it again after it was ended."""
        chosen = (again and command.again(self.root)) or command.arguments
        places = {"SOURCE": self.source, "ROOT": self.root}
        for name, path in places.items():
            chosen = tuple(word.replace(name, str(path)) for word in chosen)
        return list(chosen)

    def forked(
        self,
        arguments: list[str],
        at: int = 0,
        act: Callable[[], None] = child.kill,
        seconds: float | None = None,
    ) -> int:
        """Runs a command in a process forked for it; its exit code, negative for a signal.

        Args:
            at, act: as in `child.run`. seconds: after how many to kill it; None to wait for its end.
        """
        paths = self.root, self.folder / "record", self.folder / "printed"
        process = self._processes.Process(target=child.run, args=(arguments, *paths, at, act))
        process.start()
        process.join(TIMEOUT if seconds is None else seconds)
        if process.is_alive():
            process.kill()
            process.join()
        return process.exitcode

    def executed(self, arguments: list[str], **options: object) -> subprocess.Popen:
        """Starts the executable itself."""
        return subprocess.Popen(
            [sys.executable, "-m", "swancli", *arguments],
            env={**os.environ, "SWAN_ROOT": str(self.root)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )

    def printed(self) -> str:
        return (self.folder / "printed").read_text()

    def seconds(self, command: Command) -> float:
        """How long an undisturbed run took, once swan was imported."""
        self.after(command)
        return self._seconds[command.name]

    def executed_seconds(self, command: Command) -> float:
        """How long an undisturbed run of the executable took, with its imports."""
        key = f"executed {command.name}"
        if key not in self._seconds:
            self.begin(command)
            began = time.monotonic()
            self.executed(self.arguments(command)).communicate(timeout=TIMEOUT)
            self._seconds[key] = time.monotonic() - began
        return self._seconds[key]

    def record(self, command: Command) -> list[tuple[str, str]]:
        """The moments of an undisturbed run: what happened, and to which file."""
        self.after(command)
        return [tuple(line.split(" ", 1)) for line in self._record(command).read_text().splitlines()]

    def _record(self, command: Command) -> Path:
        return self.folder / f"record-{command.name.replace(' ', '')}"

    # -- what is asked

    def fail(self, command: Command, told: str) -> None:
        self.failures.append(f"{command.name}: {told}")
        print(f"FAILED {self.failures[-1]}", flush=True)

    def survived(self, command: Command, how: str) -> bool:
        """Whether nothing is half-written, and the command run again ends where an undisturbed one does."""
        count = len(self.failures)
        for defect in broken_files(self.root, self.before(command)):
            self.fail(command, f"{how}: incomplete {defect}")
        code = self.forked(self.arguments(command, again=True))
        if code:
            self.fail(command, f"{how}: run again it ends with {code}: {self.printed()[-300:]}")
        for difference in differences(self.root, self.after(command)):
            self.fail(command, f"{how}: differs in {difference}")
        for path in left_over(self.root):
            self.fail(command, f"{how}: left {path.name}")
        return len(self.failures) == count
