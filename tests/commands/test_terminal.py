"""What a person sees in a terminal: no figure and no file name is cut, at 40, 80 and 140 columns."""

import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios
from types import SimpleNamespace

import pytest
from conftest import SMALL

from swancli import console
from swancli.commands import query
from swancli.commands.recall_tables import show_scores
from swancli.commands.train import duration, training_display
from swancli.console import Display, SafeConsole, show_fields, show_table
from swancli.evaluate.metrics import Direction, Scores
from swancli.query.questions import Answer, Hit
from swancli.train.loop import Epoch

WIDTHS = [40, 80, 140]
NARROW = [10, 24, 39]
SEVEN = ["100.00", "90.12", "80.34", "70.56", "60.78", "50.90", "75.45"]


def scores():
    """Recalls of `SEVEN`; their mean is (100 + 90.12 + 80.34 + 70.56 + 60.78 + 50.90) / 6 = 75.45."""
    found = [
        Direction(dict(zip((1, 5, 10), map(float, three), strict=True)), 1, 1.0, 10, 0)
        for three in (SEVEN[:3], SEVEN[3:6])
    ]
    return Scores(*found)


@pytest.fixture
def screen(monkeypatch):
    """Terminals of given widths in place of standard output; what was printed is their value."""

    def of(columns):
        written = io.StringIO()
        terminal = SafeConsole(file=written, width=columns, highlight=False)
        for module in (console, query):
            monkeypatch.setattr(module, "output", lambda: terminal)
        return written

    return of


def check(printed, columns, whole=()):
    assert "…" not in printed
    for text in whole:
        assert re.search(rf"(^|\s){re.escape(text)}(\s|$)", printed, re.MULTILINE), (text, printed)
    assert max(map(len, printed.splitlines())) <= columns


@pytest.mark.parametrize("columns", WIDTHS)
def test_recalls_are_whole_at_every_width(screen, columns):
    written = screen(columns)
    show_scores("demo test", {"SWAN": scores(), "knows the scene only": scores()})
    check(written.getvalue(), columns, SEVEN)
    for figure in SEVEN:
        assert written.getvalue().count(figure) == 2


def test_recalls_are_one_row_at_80_columns(screen):
    written = screen(80)
    show_scores("demo test", {"knows the scene only": scores()})
    (row,) = (line for line in written.getvalue().splitlines() if "100.00" in line)
    assert row.split() == ["knows", "the", "scene", "only", *SEVEN]


def answer(*names, scene="harbor", caption="two boats beside a pier " * 6):
    hits = [Hit(n, n, 0.5, name, scene, (caption,) if caption else ()) for n, name in enumerate(names, 1)]
    return Answer("boats", (), tuple(hits))


@pytest.mark.parametrize("columns", WIDTHS)
def test_file_names_of_results_are_whole_at_every_width(screen, columns):
    written = screen(columns)
    query.print_answer(answer("harbor_2.png", "a/b/harbor_12.png"))
    check(written.getvalue(), columns, ["harbor_2.png", "a/b/harbor_12.png", "0.5000"])


def test_file_name_wider_than_the_terminal_is_on_one_line(screen):
    written, name = screen(80), f"{'deep/' * 20}harbor_2.png"
    query.print_answer(answer(name))
    assert f"   1  0.5000  {name}\n" in written.getvalue()


def test_columns_that_are_empty_in_every_row_are_left_out(screen):
    written = screen(80)
    query.print_answer(answer("1.png", "2.png", scene=None, caption=""))
    assert written.getvalue().splitlines()[1].split() == ["rank", "score", "file"]
    written = screen(80)
    show_table("t", ["a", "b", "c"], [["1", "", "3"], ["", "", "6"]])
    assert written.getvalue().splitlines()[1].split() == ["a", "c"]


def test_path_is_not_broken_on_a_narrow_terminal(screen):
    written = screen(40)
    path = f"/data/{'x' * 60}/embeddings.h5"
    show_fields("embeddings of small", images=60, file=path, note="")
    assert written.getvalue() == f"embeddings of small\n images  60\n file    {path}\n"


class Screen:
    """The display of a training in a terminal of a width."""

    def __init__(self, columns):
        self.written = io.StringIO()
        self.display = Display()
        self.display.console = SafeConsole(
            file=self.written, width=columns, force_terminal=True, color_system=None
        )
        self.display.silent = False

    @property
    def lines(self):
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.written.getvalue())
        return re.split(r"[\r\n]+", text)


@pytest.mark.parametrize("columns", WIDTHS)
def test_row_of_an_epoch_is_whole_at_every_width(columns):
    screen = Screen(columns)
    with training_display(screen.display, 50) as watch:
        watch.step(10, 1, 20, 12.345, 1234.5)
        watch.epoch(Epoch(10, 12.345, 1234.5, 1234.0, scores(), True))
    (row,) = (line for line in screen.lines if line.endswith("best"))
    assert len(row) <= columns
    if columns == 40:
        assert row.split() == ["epoch", "10", "mR", "75.45", "1234", "s", "best"]
    else:
        assert row.split() == ["10", "12.345", *SEVEN, "1234", "s", "best"]
    assert not [line for line in screen.lines if "…" in line or len(line.rstrip()) > columns]


@pytest.mark.parametrize("columns", [1, *NARROW, *WIDTHS])
def test_figures_of_progress_are_whole_at_every_width(columns):
    screen = Screen(columns)
    with screen.display.progress() as progress:
        progress("reading image sizes", 1234, 123456)
    with training_display(screen.display, 50) as watch:
        watch.step(10, 123, 456, 12.345, 1234.5)
    printed = "\n".join(screen.lines)
    assert "…" not in printed
    joined = printed.replace("\n", "") if columns == 1 else printed
    for figure in ("123/456", "12.345"):
        assert figure in joined
    assert columns < 14 or "1234/123456" in printed
    assert max(len(line.rstrip()) for line in screen.lines) <= columns


@pytest.mark.parametrize("columns", NARROW)
def test_figures_of_results_are_whole_at_narrow_widths(screen, columns):
    written = screen(columns)
    show_scores("demo", {"SWAN": scores()})
    query.print_answer(answer("harbor_2.png"))
    show_fields("f", dimensions=100000)
    lines = written.getvalue().splitlines()
    for figure in (*SEVEN, "0.5000", "100000"):
        (line,) = {line for line in lines if figure in line}
        assert line.index(figure) // columns == (line.index(figure) + len(figure) - 1) // columns
    assert "…" not in written.getvalue()


@pytest.mark.parametrize("columns", NARROW)
def test_notes_break_between_words_and_commands_do_not_break(columns):
    screen = Screen(columns)
    screen.display.note("epoch 10  mR 75.45  1234 s  best  /a/path/that/is/longer/than/the/terminal.h5")
    assert not [part for part in ("75.45", "1234", "best") if f"{part}" not in screen.written.getvalue()]
    assert "/a/path/that/is/longer/than/the/terminal.h5" in screen.written.getvalue()
    assert max(len(line) for line in screen.lines if "/" not in line) <= columns
    screen.display.note("next: swan query 'boats' --embeddings e.h5")
    assert "next: swan query 'boats' --embeddings e.h5\n" in screen.written.getvalue()


@pytest.mark.parametrize("columns", ["0", "", "-1", "²", "none"])
def test_columns_that_are_no_size_are_those_of_any_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert SafeConsole(file=io.StringIO()).width >= 20


def test_terminal_without_control_codes_has_its_own_width(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.delenv("COLUMNS", raising=False)
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 33, 0, 0))
    with os.fdopen(terminal, "w") as stream:
        assert SafeConsole(file=stream).width == 33
        assert SafeConsole(file=stream, width=160).width == 160
    os.close(main)


def test_time_left_in_an_epoch_starts_again_with_each():
    now, screen = [0.0], Screen(80)
    screen.display.console.get_time = lambda: now[0]
    with training_display(screen.display, 3) as watch:
        steps = watch._bars.tasks[1]
        for epoch in (1, 2):
            for step in range(1, 11):
                now[0] += 2
                watch.step(epoch, step, 10, 1.0, 5.0)
                if step == 6:
                    assert steps.time_remaining == 8  # four steps of two seconds
            assert steps.time_remaining == 0


@pytest.fixture
def announced(monkeypatch):
    """Takes steps of a given number of seconds in each epoch, and returns what was said of the time.

    parts: the arguments of `Watch.part`, by their first epoch.
    """
    now = [0.0]
    monkeypatch.setattr("swancli.commands.train.time", SimpleNamespace(monotonic=lambda: now[0]))

    def run(seconds, steps, epochs, parts=None):
        screen, first = Screen(140), epochs[0]
        with training_display(screen.display, epochs[-1]) as watch:
            for epoch in epochs:
                if part := (parts or {first: (first, epochs[-1], "")}).get(epoch):
                    watch.part(*part)
                for step in range(1, steps + 1):
                    now[0] += seconds
                    watch.step(epoch, step, steps, 1.0, 5.0)
        return [line.rstrip() for line in screen.lines if "will take" in line]

    return run


def test_time_of_all_epochs_is_announced_after_the_first_steps(announced):
    """After 16 s, at step 17: 5 x 100 - 17 = 483 steps of 1 s are left."""
    assert announced(1, 100, range(1, 6)) == ["epochs 1 to 5 will take about 8 min, without the validations"]


def test_time_of_short_epochs_is_announced_at_the_end_of_the_first(announced):
    """Eight epochs of five steps are left, and a step takes 2 s."""
    assert announced(2, 5, range(1, 10)) == ["epochs 1 to 9 will take about 80 s, without the validations"]


def test_time_of_each_part_is_announced_on_its_own(announced):
    """After two steps of 10 s, at step 3, 2 x 10 - 3 = 17 are left, and then 4 x 10 - 3 = 37.

    Before the second part, each of its 4 x 10 steps is expected to take 20 s.
    """
    parts = {1: (1, 2, "the heads alone"), 3: (3, 6, "")}
    assert announced(10, 10, range(1, 7), parts) == [
        "epochs 1 to 2, the heads alone, will take about 3 min, without the validations; all 6 about 16 min",
        "epochs 3 to 6 will take about 6 min, without the validations",
    ]


def test_time_of_a_resumed_run_is_that_of_the_epochs_that_are_left(announced):
    """Eight of ten steps of 100 s are left of the last epoch."""
    assert announced(100, 10, range(5, 6)) == ["epoch 5 will take about 13 min, without the validations"]


def test_no_time_is_announced_when_nothing_is_left(announced):
    assert announced(1, 5, range(1, 2)) == []


def in_terminal(columns, *arguments, root):
    """What a command prints in a pseudo-terminal, without what moves the cursor or colours."""
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        environment |= {"SWAN_ROOT": str(root), "TERM": "xterm"}
        os.execve(sys.executable, [sys.executable, "-m", "swancli", *map(str, arguments)], environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    printed = b""
    while True:
        try:
            piece = os.read(terminal, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        printed += piece
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, printed
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", printed.decode()).replace("\r", "\n")


def test_commands_in_a_terminal_of_80_columns_cut_nothing(finished, tmp_path):
    printed = in_terminal(80, "eval", "--scene-recall", "--ceiling", "--rerank", root=finished.root)
    assert "…" not in printed
    for name in ("recall", "ceiling", "re-ranked", "scene recall"):
        row = re.search(rf"^{name}((?: +\d+\.\d\d)+) *$", printed, re.MULTILINE)
        assert len(row[1].split()) == (6 if name == "scene recall" else 7)
    printed = in_terminal(80, "embed", "--output", tmp_path / "embeddings.h5", root=finished.root)
    assert f" {tmp_path}/embeddings.h5\n" in printed
    printed = in_terminal(80, "query", "two red planes", "-k", "3", root=finished.root)
    assert len(re.findall(r"^ +\d +-?0\.\d{4}  \w+_\d+\.png ", printed, re.MULTILINE)) == 3
    assert "…" not in printed


def test_training_in_a_terminal_shows_rows_of_epochs(source, tmp_path):
    for command in (["prepare", "--source", source], ["vocab"]):
        in_terminal(80, command[0], "--dataset", "small", *command[1:], root=tmp_path)
    options = ["--dataset", "small", "--epochs", "2", "--run", "r", *SMALL]
    printed = in_terminal(80, "train", *options, root=tmp_path)
    rows = re.findall(r"^ +[12] +\d+\.\d{3}((?: +\d+\.\d\d){7}) +\d+ s", printed, re.MULTILINE)
    assert len(rows) == 2
    assert "…" not in printed


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 s"),
        (89, "89 s"),
        (91, "2 min"),
        (3569, "59 min"),
        (3600, "1 h 0 min"),
        (12_010, "3 h 20 min"),
    ],
)
def test_length_of_time_is_shown_in_words(seconds, words):
    assert duration(seconds) == words
