"""What is printed has no effect on a terminal, a spreadsheet or a reader of JSON, whatever text is in it."""

import csv
import io
import json
import sys
import time
from types import SimpleNamespace

import pytest
from conftest import invoke

from swancli import console
from swancli.commands import query
from swancli.commands.recall_tables import print_report
from swancli.console import Display, SafeConsole, print_json, show_fields, show_table, warn
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
