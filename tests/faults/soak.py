"""Load, in miniature: many questions, many images, many resumes, and whether memory stays where it was.

python tests/faults/soak.py                      # about half an hour on two cores
python tests/faults/soak.py --only resumes       # questions, page, images, resumes

2,000 questions to one `query --batch` and to one `serve`; 20,000 and 100,000 small images through `prepare`
and `embed`, whose difference is what an image costs; a run that is resumed 200 times, which must end where an
uninterrupted one does, to the last bit.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from material import COMMANDS, RUN, SMALL
from PIL import Image
from roots import content_of, same
from trials import Trials

QUESTIONS, FIRST = 2000, 200
IMAGES = (20_000, 100_000)
RESUMES = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(PARTS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="swan-soak-") as folder:
        trials = Trials(Path(folder))
        for name in options.only or PARTS:
            began = time.monotonic()
            told = PARTS[name](trials)
            print(f"{name}: {told} ({time.monotonic() - began:.0f} s)", flush=True)
    for failure in trials.failures:
        print(f"FAILED {failure}")
    raise SystemExit(1 if trials.failures else 0)


def memory(process: subprocess.Popen) -> float:
    """What a process holds of its own, in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) / 1000


def question(number: int) -> str:
    """One of some hundred different texts."""
    things, places = ("planes", "boats", "trees", "houses", "courts"), ("river", "road", "beach", "field")
    return f"{number % 23} {things[number % 5]} beside a {places[number % 4]}"


def grown(trials: Trials, name: str, after_first: float, at_end: float) -> str:
    """The line about memory, which may grow by a twentieth, as with any allocator."""
    if at_end > 1.05 * after_first + 5:
        trials.fail(COMMANDS["embed"], f"{name}: memory grew from {after_first:.0f} to {at_end:.0f} MB")
    return f"{after_first:.0f} MB after {FIRST} questions, {at_end:.0f} MB after {QUESTIONS}"


def batch(trials: Trials) -> str:
    """Questions to `query --batch`, one after the other."""
    trials.after(COMMANDS["embed"])
    trials.begin(COMMANDS["embed --index"])
    process = subprocess.Popen(
        [sys.executable, "-m", "swancli", "query", "--batch", "--json"],
        env={**os.environ, "SWAN_ROOT": str(trials.root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # the words that the model does not know
        text=True,
    )
    held = []
    for number in range(1, QUESTIONS + 1):
        process.stdin.write(question(number) + "\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["results"]
        if number in (FIRST, QUESTIONS):
            held.append(memory(process))
    process.stdin.close()
    assert process.wait(60) == 0
    return grown(trials, "query --batch", *held)


def page(trials: Trials) -> str:
    """Questions to `serve`: a page of results, its first picture, and the same as JSON."""
    trials.after(COMMANDS["embed"])
    trials.begin(COMMANDS["embed --index"])
    process = trials.executed(["serve", "--port=0"])
    address = re.search(r"http://\S+", process.stdout.readline())[0].rstrip("/")
    held = []
    for number in range(1, QUESTIONS + 1):
        asked = urllib.parse.urlencode({"text": question(number)})
        for path in (f"/?{asked}", f"/api/search?{asked}", f"/image/{number % 48}"):
            with urllib.request.urlopen(address + path) as answer:
                assert answer.status == 200
                answer.read()
        if number in (FIRST, QUESTIONS):
            held.append(memory(process))
    process.terminate()
    process.communicate(timeout=60)
    return grown(trials, "serve", *held)


def images(trials: Trials) -> str:
    """Many small images through `prepare` and `embed`; what one more costs in memory."""
    trials.after(COMMANDS["train"])
    told = []
    peaks: dict[str, list[float]] = {"prepare": [], "embed": []}
    folder = trials.folder / "many"
    folder.mkdir()
    made = 0
    for count in IMAGES:
        for number in range(made, count):
            _, left = divmod(number, 1000)
            if left == 0:
                (folder / f"{number // 1000}").mkdir()
            pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number // 1000}" / f"{number}.png", compress_level=0)
        made = count
        trials.begin(COMMANDS["embed"])
        checkpoint = f"--checkpoint={trials.root / RUN / 'best.pt'}"
        commands = {
            "prepare": ["prepare", "--dataset=many", f"--source={folder}", "--format=folder"],
            "embed": ["embed", f"--images={folder}", checkpoint],
        }
        for name, arguments in commands.items():
            began = time.monotonic()
            process = trials.executed(arguments)
            _, status, usage = os.wait4(process.pid, 0)
            assert status == 0, process.stdout.read()
            peaks[name].append(usage.ru_maxrss / 1000)
            told.append(f"{name} of {count:,}: {peaks[name][-1]:.0f} MB, {time.monotonic() - began:.0f} s")
    shutil.rmtree(folder)
    for name, (few, many) in peaks.items():
        each = 1e6 * (many - few) / (IMAGES[1] - IMAGES[0])
        told.append(f"{name} takes {each:.0f} bytes of memory an image")
    return "; ".join(told)


def resumes(trials: Trials) -> str:
    """A run of 200 epochs that ends after each and is resumed, beside one that goes through."""
    command = COMMANDS["train"]
    start = ["train", "--dataset=small", "--schedule=step", "--batch-size=40", *SMALL]
    ends = []
    for stops in ([RESUMES + 1], range(1, RESUMES + 2)):
        trials.begin(command)
        for epochs in stops:
            begun = (trials.root / RUN / "config.json").exists()
            going = ["train", "--resume"] if begun else start
            code = trials.forked([*going, "--run=first", f"--epochs={epochs}"], seconds=3600)
            if code:
                trials.fail(command, f"resumed to epoch {epochs}: {code}: {trials.printed()[-300:]}")
                return "failed"
        ends.append([content_of(trials.root / RUN / name) for name in ("best.pt", "last.pt", "metrics.csv")])
    if not all(map(same, *ends)):
        trials.fail(command, "a run resumed 200 times ends elsewhere than an uninterrupted one")
    return f"{RESUMES} resumes, {len(ends[1][2])} rows of metrics.csv"


PARTS: dict[str, Callable[[Trials], str]] = {
    "questions": batch,
    "page": page,
    "images": images,
    "resumes": resumes,
}


if __name__ == "__main__":
    main()
