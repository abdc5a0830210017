"""Runs the lines of README.md in order, in a new folder and on generated data; stops at the first failure.

python tests/readme_script.py              # with the swan that is installed beside this Python
python tests/readme_script.py --install    # with the install lines too, in a new environment

The placeholders of README, `path/to/photos` and so on, are generated under these names. Options that are
added to a line (and shown) make training short. Lines with `--index-url` are skipped, since that index may be
out of reach, and so are lines with jq if it is not installed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.request import urlopen

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
ADDED = {
    "swan demo": "--images 120 --epochs 1",
    "swan train": "--epochs 1 --image-size 64",
    "swan serve": "--port 0",
}
SCENES = {
    "harbor": ((40, 90, 160), "many boats docked at a harbor"),
    "tennis": ((60, 140, 70), "two tennis courts beside a road"),
    "road": ((120, 120, 120), "a road with trees and buildings"),
}


def blocks() -> list[tuple[str, str]]:
    """(language, text) of README's blocks that can be run."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```(sh|python)\n(.*?)^```", text, re.M | re.S)


def make_data(folder: Path) -> None:
    """The placeholders: a folder of photos, a data set of 60 captioned images as a table, a large scene."""
    draw, lines = np.random.default_rng(0), ["filename,caption,split,scene"]
    for name in ("photos", "ucm/images"):
        (folder / name).mkdir(parents=True)
    for number in range(60):
        scene, (colour, caption) = list(SCENES.items())[number % 3]
        pixels = np.clip(draw.normal(colour, 30, (64, 64, 3)), 0, 255).astype(np.uint8)
        image, split = Image.fromarray(pixels), ("train", "train", "train", "val", "test")[number // 3 % 5]
        image.save(folder / f"ucm/images/{scene}_{number}.jpg")
        lines += [f"{scene}_{number}.jpg,{text},{split},{scene}" for text in (caption, f"{caption} {number}")]
        if number < 6:
            image.save(folder / f"photos/{number + 1}.jpg")
    (folder / "ucm/captions.csv").write_text("\n".join(lines) + "\n")
    Image.fromarray(draw.integers(0, 255, (900, 900, 3), np.uint8)).save(folder / "big.tif")


def install(folder: Path, text: str) -> Path:
    """Runs the install lines in a copy of the checkout; the folder of the programs they install."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    programs = folder / ".venv/bin"
    for line in text.splitlines():
        if "--index-url" in line or line.startswith("source "):
            print(f"- {line}")
        else:
            run(line, folder, programs)
    return programs


def environment(programs: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "SWAN_ROOT"}
    return kept | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}


def run(line: str, folder: Path, programs: Path) -> None:
    """Runs a shell line. An mR below --min-mr is no failure: this little training may end with one."""
    print(f"+ {line}", flush=True)
    begun = time.monotonic()
    command = ["bash", "-euo", "pipefail", "-c", line]
    code = subprocess.run(command, cwd=folder, env=environment(programs), check=False).returncode
    if code and not (code == 3 and "--min-mr" in line):
        raise SystemExit(f"exit code {code}: {line}")
    print(f"  {time.monotonic() - begun:.1f} s", flush=True)


def ask_server(line: str, folder: Path, programs: Path) -> None:
    """Starts `swan serve`, asks it once, and interrupts it."""
    print(f"+ {line}", flush=True)
    command = ["bash", "-c", f"exec {line}"]
    with subprocess.Popen(
        command, cwd=folder, env=environment(programs), stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            address = server.stdout.readline().strip()
            with urlopen(f"{address}/api/search?text=a+harbor", timeout=60) as answer:
                print(f"  {address} answers {answer.status}", flush=True)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=30)


def run_shell(text: str, folder: Path, programs: Path) -> None:
    for line in text.replace("\\\n", " ").splitlines():
        start = " ".join(line.split()[:2])
        line = f"{line} {ADDED[start]}" if start in ADDED else line
        if "jq" in line and not shutil.which("jq"):
            print(f"- {line}")
        elif start == "swan serve":
            ask_server(line, folder, programs)
        elif line.strip():
            run(line, folder, programs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--install", action="store_true", help="run the install lines too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="swan-readme-") as name:
        folder, programs = Path(name), Path(sys.executable).parent
        make_data(folder / "path/to")
        for language, text in blocks():
            if "pip install" in text:
                programs = install(folder / "checkout", text) if options.install else programs
            elif language == "sh":
                run_shell(text, folder, programs)
            else:
                print(text, flush=True)
                command = [programs / "python", "-c", text]
                subprocess.run(command, cwd=folder, env=environment(programs), check=True)
    print("README runs as it is written")


if __name__ == "__main__":
    main()
