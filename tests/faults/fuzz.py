"""Fuzzes one reader, guided by the coverage of its code (atheris): nothing but SwanError may come of it.

    pip install atheris
    python tests/faults/fuzz.py READER --seconds N

Run by hand; what it finds becomes a case of the tests. It prints each new kind of finding, the input that led
to it is kept below --findings, and it ends with counts.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.append(str(Path(__file__).parents[1] / "model"))  # for small models of open_clip

import atheris

with atheris.instrument_imports(include=["swancli"]):
    from readers import READERS, Reader
    from spoiling import spoil_bytes

    from swancli.errors import SwanError


class Fuzzing:
    """Runs one reader on what atheris gives it, and keeps what is no SwanError.

    Args:
        folder: for the inputs. findings: folder for those that led to a finding.
    """

    def __init__(self, name: str, reader: Reader, folder: Path, findings: Path) -> None:
        self.name, self.reader, self.path, self.findings = name, reader, folder / reader.file, findings
        reader.write(self.path)
        self.sound = self.path.read_bytes()
        self.executions, self.refused, self.found = 0, 0, Counter[str]()

    def __call__(self, data: bytes) -> None:
        self.executions += 1
        provider = atheris.FuzzedDataProvider(data[1:])
        way = data[0] % 4 if data else 0
        if way == 0 or (way == 1 and not self.reader.spoil):
            self.path.write_bytes(data[1:])
        else:
            self.path.write_bytes(self.sound)
            try:
                spoil = self.reader.spoil if way < 3 and self.reader.spoil else spoil_bytes
                spoil(self.path, lambda count: provider.ConsumeIntInRange(0, max(0, count - 1)))
            except (TypeError, ValueError, UnicodeEncodeError):
                return  # what cannot be written is no input
        try:
            self.reader.read(self.path)
        except SwanError:
            self.refused += 1
        except Exception as error:
            self.keep(error)

    def keep(self, error: Exception) -> None:
        """Prints and keeps the first of each kind: the error, and the innermost line of swan."""
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "/swancli/" in frame.filename] or frames
        kind = f"{type(error).__name__} at {Path(own[-1].filename).name}:{own[-1].lineno}"
        self.found[kind] += 1
        if self.found[kind] == 1:
            kept = self.findings / f"{self.name}-{len(self.found)}-{self.path.name}"
            shutil.copyfile(self.path, kept)
            print(f"FOUND {self.name}: {kind}: {str(error)[:160]!r} ({kept})", flush=True)

    def report(self) -> None:
        """Prints the counts."""
        print(
            f"DONE {self.name}: {self.executions} executions, {self.refused} refused, "
            f"{len(self.found)} kinds of finding {dict(self.found)}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--findings", type=Path, default=Path("findings"))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.findings.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        fuzzing = Fuzzing(options.reader, READERS[options.reader], Path(folder), options.findings)
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        chance = random.Random(options.seed)
        (corpus / "sound").write_bytes(b"\0" + fuzzing.sound)
        for number in range(20):
            (corpus / str(number)).write_bytes(bytes([number]) + chance.randbytes(40))
        ends = time.monotonic() + options.seconds

        def run(data: bytes) -> None:
            fuzzing(data)
            if time.monotonic() > ends:
                fuzzing.report()
                shutil.rmtree(folder)
                os._exit(0)  # libFuzzer would end the process without a word

        longest = max(4096, 2 * len(fuzzing.sound))
        flags = [
            f"-max_len={min(longest, 200_000)}",
            f"-seed={options.seed}",
            "-rss_limit_mb=4096",
            "-timeout=60",
        ]
        atheris.Setup([sys.argv[0], *flags, "-verbosity=0", str(corpus)], run)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
