"""A small real source, and a root in which the six commands have run on it."""

import json
import os
import subprocess
import sys
from functools import cache
from types import SimpleNamespace

import pytest
import typer.testing
from filelock import FileLock
from PIL import Image
from typer.testing import CliRunner

from swancli.cli import app
from swancli.prepare.demo import generate_demo

# Building the commands takes ten times as long as a short command does, and they are the same each time.
typer.testing._get_command = cache(typer.testing._get_command)

RANDOM = ["--backbone", "resnet18", "--text", "gru"]  # quicker than the towers that come with swan
SMALL = [*RANDOM, "--image-size", "32", "--embed-dim", "32", "--augmentation", "none", "--lr", "1e-3"]
SMALL += ["--schedule", "step"]  # whose runs can be resumed for more epochs


def write_source(folder, images=60):
    """Generated scenes as a folder of PNG files and a Karpathy-style list."""
    (folder / "images").mkdir(parents=True)
    entries = []
    for image, pixels in generate_demo(images, seed=3, size=48):
        Image.fromarray(pixels).save(folder / "images" / image.filename)
        entries.append(
            {
                "filename": image.filename,
                "split": image.split,
                "sentences": [{"raw": caption} for caption in image.captions],
            }
        )
    (folder / "dataset.json").write_text(json.dumps({"dataset": "small", "images": entries}))
    return folder


def execute(*arguments, root, stdin=None):
    """Runs the installed command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "swancli", *map(str, arguments)],
        env={**os.environ, "SWAN_ROOT": str(root)},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def invoke(*arguments, root, stdin=None):
    """Runs a command in this process: quicker, with the same exit codes and outputs."""
    result = CliRunner().invoke(app, list(map(str, arguments)), env={"SWAN_ROOT": str(root)}, input=stdin)
    return SimpleNamespace(returncode=result.exit_code, stdout=result.stdout, stderr=result.stderr)


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="session")
def finished(source, tmp_path_factory):
    """A root after prepare, vocab, train, eval and embed, with what each printed; not to be changed.

    The workers of a test run share it: the first to need it makes it.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    root, record = shared / "finished", shared / "finished.json"
    with FileLock(shared / "finished.lock"):
        if not record.exists():
            record.write_text(json.dumps(run_all(source, root)))
    printed = {name: SimpleNamespace(**streams) for name, streams in json.loads(record.read_text()).items()}
    return SimpleNamespace(root=root, printed=printed, run=root / "small" / "runs" / "first")


def run_all(source, root):
    """What prepare, vocab, train, eval and embed print, one after the other."""
    steps = {
        "prepare": ["--dataset", "small", "--source", source],
        "vocab": ["--dataset", "small"],
        "train": ["--dataset", "small", "--epochs", "2", "--run", "first", *SMALL],
        "eval": ["--scene-recall"],
        "embed": [],
    }
    printed = {}
    for name, options in steps.items():
        result = execute(name, *options, root=root)
        assert result.returncode == 0, result.stderr
        printed[name] = {"stdout": result.stdout, "stderr": result.stderr}
    return printed
