"""Commands whose standard streams are closed, full, in another encoding, or left by their reader.

The work is done and the exit code fixed before a result is written. So nothing that happens to the results
changes either, except that results that could not be written end with exit code 2 and one line.
"""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from conftest import invoke
from PIL import Image
from streams import FULL, NO_INPUT, start, written_to

LOST = "error: results could not be written to standard output: "
NO_SPACE = f"{LOST}No space left on device\n"
CLOSED = f"{LOST}it is closed\n"
NAMES = {f"{number}:x:港口.png" for number in range(4)}


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model):
    """A data set of four images with two captions each, a folder of the images, and their embeddings."""
    folder = tmp_path_factory.mktemp("outputs")
    (folder / "f").mkdir()
    rows = ["filename,caption,split"]
    for number, name in enumerate(sorted(NAMES)):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "f" / name)
        split = ("test", "test", "val", "train")[number]
        rows += [f"{name},{count} boats · {number},{split}" for count in ("two", "many")]
    (folder / "list.csv").write_text("\n".join(rows), encoding="utf-8")
    root = folder / "root"
    source = ["--source", folder / "list.csv", "--images", folder / "f"]
    assert invoke("prepare", "--dataset", "d", *source, root=root).returncode == 0
    done = invoke("embed", "--images", folder / "f", "--checkpoint", tiny_model, root=root)
    assert done.returncode == 0, done.stderr
    (embeddings,) = root.glob("*/embeddings-f*.h5")
    with_model = ["--checkpoint", tiny_model]
    return SimpleNamespace(
        folder=folder,
        root=root,
        source=source,
        embed=["embed", "--images", folder / "f", *with_model, "--output", "e.h5"],
        eval=["eval", "--dataset", "d", *with_model],
        query=["query", "--embeddings", embeddings, *with_model],
    )


@pytest.fixture
def command(place, tmp_path):
    """Runs a command in a folder of its own; returns its exit code and what it printed.

    Streams that are not given are files. With `lines`, standard output is a pipe whose reader leaves after
    that number of lines.
    """

    def run(*arguments, stdin=NO_INPUT, stdout=(), stderr=(), lines=None, encoding="utf-8", **environment):
        out, err = tmp_path / "printed", tmp_path / "reported"
        if lines is not None:
            os.mkfifo(out)
        streams = (
            stdin,
            written_to(out) if stdout == () else stdout,
            written_to(err) if stderr == () else stderr,
        )
        environment = {"SWAN_ROOT": str(place.root), **environment}
        process = start(arguments, streams, encoding, tmp_path, environment)
        read = []
        if lines is not None:
            with out.open(encoding="utf-8") as pipe:
                read = [pipe.readline() for _ in range(lines)]
        process.join(120)
        printed = out.read_bytes() if lines is None and out.exists() else "".join(read).encode()
        reported = err.read_text(encoding) if err.exists() else ""
        for path in (out, err):
            path.unlink(missing_ok=True)
        return SimpleNamespace(code=process.exitcode, printed=printed, reported=reported)

    return run


# -- readers that leave


@pytest.mark.parametrize("lines", [0, 1])
def test_reader_that_leaves_does_not_change_the_exit_code(command, place, lines):
    done = command(*place.eval, "--min-mr", "99.9", lines=lines)
    assert done.code == 3, done.reported
    assert "is below --min-mr 99.9" in done.reported
    assert all(line.startswith("warning: ") for line in done.reported.splitlines())


def test_reader_that_leaves_does_not_end_the_work(command, place, tmp_path):
    assert command(*place.embed, "--index", "flat", lines=0).code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"e.h5", "e.index"}
    done = command(*place.query, "river", "--html", "page.html", lines=0)
    assert (done.code, done.reported) == (0, "")
    assert (tmp_path / "page.html").exists()
    assert command(*place.eval, "--figures", "figures", lines=0).code == 0
    assert list((tmp_path / "figures").glob("*.png"))


def test_features_are_written_for_a_reader_that_has_left(command, place, tmp_path):
    towers = ["--backbone", "resnet18", "--weights", "none", "--text", "gru", "--image-size", "32"]
    made = ["prepare", "--dataset", "d", *place.source, "--features", *towers, "--views", "1"]
    done = command(*made, "--root", tmp_path / "r", lines=0)
    assert done.code == 0, done.reported
    assert {path.name for path in (tmp_path / "r" / "d").iterdir()} == {"dataset.h5", "features.h5"}


def test_batch_ends_quietly_when_its_reader_leaves(command, place, tmp_path):
    """Its input stays open."""
    os.mkfifo(tmp_path / "asked")
    keep = os.open(tmp_path / "asked", os.O_RDWR)
    os.write(keep, b"river\n" * 300)
    asked = str(tmp_path / "asked"), os.O_RDONLY
    done = command(*place.query, "--batch", "--json", stdin=asked, lines=1)
    os.close(keep)
    assert (done.code, done.reported) == (0, "")
    assert json.loads(done.printed)["query"] == "river"


def test_batch_that_writes_a_page_answers_all_its_queries(command, place, tmp_path):
    (tmp_path / "asked").write_text("".join(f"{number}\n" for number in range(300)))
    asked = str(tmp_path / "asked"), os.O_RDONLY
    done = command(*place.query, "--batch", "-k", "1", "--html", "page.html", stdin=asked, lines=0)
    assert done.code == 0
    assert done.reported.count("299") == 1  # a word that the model does not know
    assert "299" in (tmp_path / "page.html").read_text()


# -- results that cannot be written


READ_ONLY = ("/dev/null", os.O_RDONLY)


@pytest.mark.parametrize(
    ("streams", "reported"),
    [
        ({"stdout": None}, CLOSED),
        ({"stdout": FULL}, NO_SPACE),
        ({"stdout": READ_ONLY}, f"{LOST}Bad file descriptor\n"),
        ({"stdout": None, "stderr": None}, ""),
        ({"stdout": FULL, "stderr": FULL}, ""),
        ({"stdin": None, "stdout": None}, CLOSED),
    ],
    ids=str,
)
def test_work_is_done_where_no_result_can_be_written(command, place, tmp_path, streams, reported):
    done = command(*place.embed, "--index", "flat", **streams)
    assert (done.code, done.reported) == (2, reported)
    with h5py.File(tmp_path / "e.h5") as file:  # no library has printed into it
        assert file.attrs["complete"]
        assert len(file["images/embedding"]) == 4
    assert (tmp_path / "e.index").exists()


@pytest.mark.parametrize(
    "streams", [{"stderr": None}, {"stderr": FULL}, {"stdin": None}, {"stdin": None, "stderr": None}], ids=str
)
def test_results_are_written_where_warnings_cannot_be(command, place, streams):
    done = command(*place.query, "river zzz", "--json", **streams)
    assert done.code == 0, done.reported
    assert {hit["filename"] for hit in json.loads(done.printed)["results"]} == NAMES


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "--help"]])
def test_help_to_a_full_device_ends_with_one_line(command, words):
    done = command(*words, stdout=FULL)
    assert (done.code, done.reported) == (2, NO_SPACE)


def test_threshold_that_is_not_met_where_no_result_can_be_written(command, place):
    done = command(*place.eval, "--min-mr", "99.9", stdout=FULL)
    assert done.code == 2
    assert done.reported.endswith(NO_SPACE)


def test_error_in_the_input_is_the_only_one_where_nothing_was_to_be_printed(command):
    done = command("query", "boats", "--embeddings", "absent.h5", stdout=None)
    assert done.code == 2
    assert done.reported.startswith("error: absent.h5: no such file")
    assert LOST not in done.reported


def test_batch_to_a_full_device_ends_with_one_line(command, place, tmp_path):
    (tmp_path / "asked").write_text("river\n" * 300)
    asked = str(tmp_path / "asked"), os.O_RDONLY
    done = command(*place.query, "--batch", stdin=asked, stdout=FULL)
    assert (done.code, done.reported) == (2, NO_SPACE)


def test_batch_without_standard_input_is_refused(command, place):
    done = command(*place.query, "--batch", stdin=None)
    assert done.code == 2
    assert done.reported.startswith("error: standard input is closed")


def test_results_pass_through_a_pipe_that_another_program_made_nonblocking(command, place, tmp_path):
    """As Node does with a terminal that it shares. The results are longer than what a pipe holds."""
    asked = [*place.query, "--json", "river " * 20_000]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["sh", "-c", f"sleep 0.3; cat {pipe}"], stdout=subprocess.PIPE)
    keep = os.open(pipe, os.O_RDWR)
    done = command(*asked, stdout=(str(pipe), os.O_WRONLY | os.O_NONBLOCK))
    os.close(keep)
    assert done.code == 0, done.reported
    printed, _ = reader.communicate(timeout=60)
    assert len(printed) > 1 << 16
    assert len(json.loads(printed)["results"]) == 4


def test_work_is_done_in_a_terminal_that_was_closed(place, tmp_path):
    """As with nohup: both streams are a terminal whose window has gone, and writing to it fails."""
    ready, gone = os.pipe(), os.pipe()
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.write(ready[1], b".")
        os.read(gone[0], 1)
        words = [sys.executable, "-m", "swancli", *map(str, place.embed)]
        os.chdir(tmp_path)
        os.execve(sys.executable, words, {**os.environ, "SWAN_ROOT": str(place.root)})
    os.read(ready[0], 1)
    os.close(terminal)
    os.write(gone[1], b".")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 2
    with h5py.File(tmp_path / "e.h5") as file:
        assert file.attrs["complete"]
    for number in (*ready, *gone):
        os.close(number)


@pytest.mark.parametrize(
    ("line", "code", "reported"),
    [
        ("--help | true; exit ${PIPESTATUS[0]}", 0, ""),
        ("--version >&-", 2, CLOSED),
        ("--help >/dev/full", 2, NO_SPACE),
        ("--version >/dev/full 2>/dev/full", 2, ""),
        ("query 2>&-", 2, ""),
        ("ulimit -f 0; $swan --help >printed", 2, f"{LOST}File too large\n"),
    ],
)
def test_python_itself_adds_nothing_when_it_ends(line, code, reported, tmp_path):
    """It writes what is left of its streams once more, and ends with 120 where it cannot."""
    line = line if "$swan" in line else f"$swan {line}"
    done = subprocess.run(
        ["bash", "-c", line],
        env={**os.environ, "swan": f"{sys.executable} -m swancli"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, reported)


# -- encodings


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "gbk", "shift_jis", "utf-16", "utf-8"])
def test_results_can_be_written_in_every_encoding(command, place, encoding):
    done = command(*place.query, "river ☃", encoding=encoding)
    assert done.code == 0, done.reported
    name = r"\u6e2f\u53e3" if encoding in ("ascii", "iso-8859-1") else "港口"
    assert f"0:x:{name}.png" in done.printed.decode(encoding)
    assert ("☃" if encoding.startswith("utf") else r"\u2603") in done.printed.decode(encoding)
    done = command(*place.query, "river ☃", "--json", encoding=encoding)
    assert done.code == 0, done.reported
    text = done.printed.decode(encoding)
    assert {hit["filename"] for hit in json.loads(text)["results"]} == NAMES
    assert json.loads(text)["query"] == "river ☃"
    assert encoding.startswith("utf") or text.isascii()


@pytest.mark.parametrize("options", [[], ["--csv"], ["--json"]])
def test_evaluation_can_be_printed_in_ascii(command, place, options):
    done = command(*place.eval, *options, encoding="ascii")
    assert done.code == 0, done.reported
    assert done.printed.isascii()


def test_errors_can_be_written_in_ascii(command):
    done = command("query", "boats", "--embeddings", "港口.h5", encoding="ascii")
    assert done.code == 2
    assert done.reported.startswith(r"error: \u6e2f\u53e3.h5: no such file")


# -- paths below the home folder


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (["prepare", "--dataset", "d", "--source=~/list.csv", "--images=~/f", "--root=~/new"], {}),
        (["prepare", "--dataset", "d", "--source=~/f"], {"SWAN_ROOT": "~/new"}),
        (["vocab", "--source=~/list.csv", "--splits", "all", "--output=~/new/d/dataset.h5"], {}),
    ],
)
def test_tilde_is_expanded_behind_an_equals_sign_and_in_the_environment(
    command, place, tmp_path, words, environment
):
    for name in ("f", "list.csv"):
        (tmp_path / name).symlink_to(place.folder / name)
    done = command(*words, HOME=str(tmp_path), **environment)
    assert done.code == 0, done.reported
    assert (tmp_path / "new" / "d" / "dataset.h5").exists()
    assert not Path(tmp_path, "~").exists()
