"""What is printed has no effect on a terminal, a spreadsheet or a reader of JSON, whatever text is in it."""

import csv
import io
import json
import logging
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import invoke

from swancli import console
from swancli.commands import query
from swancli.commands.options import expanded
from swancli.commands.recall_tables import print_report
from swancli.console import (
    Display,
    LibraryMessages,
    Results,
    SafeConsole,
    Stream,
    deliver,
    encodable,
    print_json,
    show_fields,
    show_table,
    warn,
)
from swancli.query.questions import Answer, Hit

EVIL = "a\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe\ud800\r\x00[bold]"
ACTING = ["\x1b", "\x07", "\x9b", "\u202e", "\ud800", "\r", "\x00"]


def test_escape_sequences_in_results_do_not_reach_the_terminal(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(query, "output", lambda: SafeConsole(file=written, width=160))
    hit = Hit(1, 0, 0.5, EVIL, EVIL, (EVIL,))
    query.print_answer(Answer(EVIL, (), (hit,)))
    query.print_answer(Answer(EVIL, (), ()))
    shown = written.getvalue()
    assert not [character for character in ACTING if character in shown]
    assert "\\x1b[2J" in shown
    assert "[bold]" in shown


def test_colours_of_a_terminal_stay():
    written = io.StringIO()
    SafeConsole(file=written, force_terminal=True, color_system="standard").print("[red]a\x1b[2J[/]")
    assert written.getvalue().startswith("\x1b[31m")
    assert "\x1b[2J" not in written.getvalue()


def test_escape_sequences_in_warnings_and_errors_do_not_reach_the_terminal(capsys, tmp_path):
    warn(EVIL)
    told = capsys.readouterr().err
    told += invoke("query", "boats", "--embeddings", tmp_path / "a\x1b[2J.h5", root=tmp_path).stderr
    assert "no such file" in told
    assert not [character for character in ACTING if character in told]


def test_names_between_colons_are_not_turned_into_pictures(capsys, tmp_path):
    warn("open_clip:a:x:b.pt")
    assert capsys.readouterr().err == "warning: open_clip:a:x:b.pt\n"
    said = invoke("query", "boats", "--embeddings", "a:x:b.h5", root=tmp_path).stderr
    assert said.startswith("error: a:x:b.h5: no such file")


def test_line_feed_in_a_name_forges_no_line(capsys, monkeypatch):
    name = "a\nerror: forged\u2028b\tc"
    warn(f"left out {name}")
    show_fields("title", file=name)
    show_table(f"of {name}", ["file"], [[name]])
    for width in (160, 20):  # as a table, and as lines
        monkeypatch.setattr(console, "PIPE_WIDTH", width)
        query.print_answer(Answer(name, (), (Hit(1, 0, 0.5, name, None, ()),)), None)
    printed = capsys.readouterr()
    lines = (printed.out + printed.err).splitlines()
    assert all("\\nerror: forged\\u2028b\\tc" in line for line in lines if "forged" in line)
    assert sum("forged" in line for line in lines) == 8


def test_json_is_valid_and_the_same_whatever_text_is_in_it(capsys):
    record = {"filename": EVIL, "caption": "Straße \u2028 </script>"}
    print_json(record)
    printed = capsys.readouterr().out
    assert json.loads(printed) == record
    assert "Straße" in printed
    assert not [character for character in ACTING if character in printed]


# What a spreadsheet may drop: spaces, a tab behind one, and no-break, thin and ideographic spaces.
BLANKS = (" ", "   ", " \t", "\u00a0", "\u2009", "\u3000", " \u3000 ")


class Sheet:
    """A report of one row."""

    def table(self):
        names = ["=1+2", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\tx", "\rx", "plain"]
        names += [f"{blank}=1+2" for blank in BLANKS]
        return [{"dataset": name, "loss": -0.5, "captions": 3} for name in names]


def test_csv_holds_no_formulas_and_its_numbers_stay_numbers(capsys):
    print_report(Sheet(), as_json=False, as_csv=True)
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out, newline="")))
    wanted = ["'=1+2", "'+cmd|' /C calc'!A0", "'-2+3", "'@SUM(A1)", "'\tx", "\\rx", "plain"]
    wanted += [f"'{blank}=1+2" for blank in BLANKS]
    assert [row["dataset"] for row in rows] == wanted
    assert {row["loss"] for row in rows} == {"-0.5"}


@pytest.mark.parametrize("name", ["is_not_utf8\udcff"])
def test_folder_whose_name_is_no_utf8_is_reported_or_taken(tmp_path, name):
    (tmp_path / name).mkdir()
    refused = invoke("prepare", "--dataset", "a", "--source", tmp_path / name, root=tmp_path)
    assert refused.returncode == 2
    assert "is_not_utf8\\udcff" in refused.stderr


def test_bars_and_notes_show_in_a_notebook(monkeypatch):
    """A notebook's standard error is no terminal; there rich shows bars in a widget of ipywidgets."""
    shown = []

    class Output:
        __enter__ = __exit__ = clear_output = close = lambda self, *_, **__: None

    display = SimpleNamespace(display=lambda what: shown.append(getattr(what, "text", what)))
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    for name, module in (
        ("IPython", SimpleNamespace(display=display)),
        ("IPython.display", display),
        ("ipywidgets", SimpleNamespace(Output=Output)),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    with Display().progress() as progress:
        progress("images", 3, 8)
        time.sleep(0.3)  # until the bar is drawn again
    Display().note("a note")
    assert isinstance(shown[0], Output)
    text = "".join(map(str, shown))
    assert "images" in text
    assert "3/8" in text
    assert "a note" in text
    count = len(shown)
    Display(quiet=True).note("a note")
    assert len(shown) == count


class Failing(io.StringIO):
    """A stream that takes a number of writes, and fails at the next."""

    def __init__(self, error, writes=0):
        super().__init__()
        self.error, self.left = error, writes

    def write(self, text):
        if not self.left:
            raise self.error
        self.left -= 1
        return super().write(text)


def kept_results(monkeypatch):
    """Replaces standard output as while a command runs; what is delivered becomes the value of the stream."""
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stdout", Results(shown))
    return shown


def test_results_are_kept_until_they_are_delivered(monkeypatch):
    shown = kept_results(monkeypatch)
    print("one", flush=True)
    assert shown.getvalue() == ""
    assert deliver()
    print("two")
    assert shown.getvalue() == "one\n"
    deliver()
    assert shown.getvalue() == "one\ntwo\n"


def test_warnings_come_after_the_results_printed_before_them(monkeypatch):
    shown = kept_results(monkeypatch)
    monkeypatch.setattr(sys, "stderr", shown)
    warn("first")
    print("a result")
    warn("second")
    assert shown.getvalue() == "warning: first\n"
    deliver()
    assert shown.getvalue() == "warning: first\na result\nwarning: second\n"


@pytest.mark.parametrize(
    ("error", "lost"), [(BrokenPipeError(), False), (ConnectionResetError(), False), (OSError(28, "x"), True)]
)
def test_failed_write_ends_neither_the_work_nor_what_comes_after_it(error, lost, monkeypatch):
    results = Results(Failing(error, writes=1))
    monkeypatch.setattr(sys, "stdout", results)
    print("one", end="")
    assert deliver()
    print("two", end="")
    assert not deliver()
    results.then(lambda: None)
    assert bool(results.undelivered) == lost


def test_closed_stream_counts_as_failed_only_if_something_is_written():
    stream, results = Stream(None), Results(None)
    assert not stream.isatty()
    results.deliver()
    assert results.undelivered is None
    stream.write("one")
    results.write("one")
    results.deliver()
    assert stream.failure
    assert results.undelivered.strerror == "it is closed"


@pytest.mark.parametrize(
    ("encoding", "written"),
    [
        ("utf-8", "±1 · 港 ☃ \\udcff"),
        ("gbk", "±1 · 港 \\u2603 \\udcff"),
        ("iso-8859-1", "±1 · \\u6e2f \\u2603 \\udcff"),
        ("ascii", "+-1 - \\u6e2f \\u2603 \\udcff"),
    ],
)
def test_characters_that_an_encoding_lacks_are_written_out(encoding, written):
    assert encodable("±1 · 港 ☃ \udcff", encoding) == written


def test_table_in_ascii_is_aligned(monkeypatch):
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, encoding="ascii"))
    show_table("t", ["file", "score"], [["港.png", "0.5"], ["a.png", "0.25"]], left=["file"])
    sys.stdout.flush()
    assert data.getvalue().decode().splitlines() == [
        "t",
        "file        score",
        "-----------------",
        "\\u6e2f.png    0.5",
        "a.png        0.25",
    ]


def test_json_is_ascii_where_the_encoding_is_not_unicode(monkeypatch):
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, encoding="gbk"))
    print_json({"filename": "港口 ☃"})
    assert data.getvalue().isascii()
    assert json.loads(data.getvalue()) == {"filename": "港口 ☃"}


def test_what_a_library_logs_becomes_one_line(capsys):
    messages = LibraryMessages()
    for name, text, values in (
        ("PIL.TiffImagePlugin", "More samples per pixel than can be decoded: %s", (13,)),
        ("PIL.TiffImagePlugin", "More samples per pixel than can be decoded: %s", (13,)),
        ("PIL.PngImagePlugin", "two\nlines", ()),
        ("tifffile", "a message %d whose value is text", ("x",)),
        ("rasterio._env", "", ()),
    ):
        messages.handle(logging.LogRecord(name, logging.WARNING, "", 0, text, values, None))
    messages.show()
    assert capsys.readouterr().err.splitlines() == [
        "warning: Pillow: More samples per pixel than can be decoded: 13 (and 2 more of its messages)",
        "warning: tifffile: a message %d whose value is text",
        "warning: rasterio: WARNING",
    ]
    messages.show()
    assert capsys.readouterr().err == ""


def test_tilde_is_expanded_where_a_path_begins_with_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded(Path("~/x")) == tmp_path / "x"
    assert expanded("~/x/tiles-{00..99}.tar") == f"{tmp_path}/x/tiles-{{00..99}}.tar"
    assert expanded("open_clip:ViT-B-32:~/x.pt") == f"open_clip:ViT-B-32:{tmp_path}/x.pt"
    assert expanded(Path("open_clip:~/x")) == Path(f"open_clip:{tmp_path}/x")
    for unchanged in ("~nobody-of-this-name.tif", "a/~/x", "s3://a/~/x", "-", "", None, Path("x~")):
        assert expanded(unchanged) == unchanged
