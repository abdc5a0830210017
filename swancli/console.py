"""What people see: results on standard output, progress and notes on standard error.

Only `console` and `commands` import rich. `Boundary` turns errors into exit codes: 0 done, 1 a bug, 2 the
user's input, 3 a threshold not met.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text
from typer import Exit
from typer.core import TyperGroup

from swancli.errors import SwanError

NOT_MET = 3
PIPE_WIDTH = 160  # columns of a table when standard output is not a terminal
GAP = 2  # columns of space between two columns of a table
LEAST_TEXT = 20  # columns in which running text is still readable
BAR, BESIDE_BAR = 40, 60  # columns of a progress bar, and of the text beside it

# Characters that control a terminal or reverse its text. File names and captions can contain them.
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def harmless(text: str) -> str:
    """The text with control characters written out, as in `\\x1b`."""
    return CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)


def one_line(text: str) -> str:
    """The text without anything that would begin another line, which a file name could forge."""
    written = {"\n": "\\n", "\t": "\\t", "\u2028": "\\u2028", "\u2029": "\\u2029"}
    return harmless(text).translate(str.maketrans(written))


class SafeConsole(Console):
    """A console that writes out control characters, such as those of escape sequences in a file name.

    It also leaves text such as `:x:` as it is, as in open_clip:NAME:FILE; rich would print an emoji.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False, "emoji": False} | options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else harmless(text), style, control)


class ResultConsole(SafeConsole):
    """A console that leaves a closed pipe to `Boundary`; rich itself would exit with code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def output() -> Console:
    """The console of results."""
    return ResultConsole(width=None if sys.stdout.isatty() else PIPE_WIDTH)


def warn(text: str) -> None:
    """A warning on standard error, shown even when it is not a terminal."""
    SafeConsole(stderr=True, soft_wrap=True).print(f"[yellow]warning:[/] {escape(one_line(text))}")


class Boundary(TyperGroup):
    """The command group that turns errors into a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SwanError as error:
            if _reports_errors():
                _show_error(error.problem, error.hint)
            raise Exit(2) from error
        except BrokenPipeError:
            # The reader of the pipe has closed it (`| head -1`).
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise Exit(0) from None
        except OSError as error:
            # A full disk or a read-only folder, for the user to fix.
            where = f"{error.filename}: " if error.filename else ""
            _show_error(f"{where}{error.strerror or error}", "")
            raise Exit(2) from error


def _reports_errors() -> bool:
    """Whether this process shows its error; of several processes started by torchrun only one does."""
    if "WORLD_SIZE" not in os.environ:  # before torch is imported for it
        return True
    from swancli.machine.processes import first_to_report

    return first_to_report()


def _show_error(problem: str, hint: str) -> None:
    console = SafeConsole(stderr=True, soft_wrap=True)
    console.print(f"[bold red]error:[/] {escape(one_line(problem))}")
    for line in hint.splitlines():
        console.print(f"  {escape(line)}")


class Display:
    """Progress and notes on standard error or in a notebook; silent elsewhere, and with `quiet`.

    From Python: `with Display().progress() as progress: encoder.images(paths, progress)`.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.console = SafeConsole(stderr=True)
        self.silent = quiet or not (self.console.is_terminal or self.console.is_jupyter)

    def note(self, text: str, style: str = "dim") -> None:
        """A line of information."""
        if not self.silent:
            self.console.print(
                escape(one_line(text)), style=style, soft_wrap=True
            )  # a path stays in one piece

    def bars(self, *columns: TextColumn) -> Progress:
        """Progress bars with more columns before the time left, as a context manager."""
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(max(4, min(BAR, self.console.width - BESIDE_BAR))),
            MofNCompleteColumn(),
            *columns,
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            speed_estimate_period=600,  # seconds; an epoch takes minutes
            disable=self.silent,
        )

    @contextmanager
    def progress(self) -> Iterator[Callable[[str, int, int], None]]:
        """A callback that shows a bar for each phase: phase, done, total."""
        with self.bars() as bars:
            yield phase_bars(bars)


def phase_bars(bars: Progress) -> Callable[[str, int, int], None]:
    """A callback that shows one bar per phase while it runs: phase, done, total."""
    tasks: dict[str, Any] = {}
    reached: dict[str, int] = {}

    def show(phase: str, done: int, total: int) -> None:
        if phase not in tasks:
            tasks[phase] = bars.add_task(phase, total=total, figures="")
        elif done < reached[phase]:  # the phase runs again: estimate the time left from here
            bars.reset(tasks[phase])
        reached[phase] = done
        bars.update(tasks[phase], completed=done, total=total, visible=done < total)

    return show


def table_that_fits(
    console: Console,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    texts: Collection[str] = (),
    left: Collection[str] = (),
    styles: Sequence[str] = (),
) -> Table | None:
    """A table of the columns that have values; None if the console is too narrow for it.

    Only running text is wrapped. If the table is too wide otherwise, heads take one line per word.

    Args:
        console: where the table has to fit.
        heads: one per column.
        rows: one text per column each.
        texts: heads of the columns of running text.
        left: heads of other columns to align to the left; figures are aligned to the right.
        styles: one per row, or none.
    """
    kept = [place for place in range(len(heads)) if any(row[place] for row in rows)]
    for shown in (heads, [head.replace(" ", "\n") for head in heads]):
        widths = {place: _least_width(shown, rows, place, heads[place] in texts) for place in kept}
        if sum(widths.values()) + GAP * (len(kept) - 1) <= console.width:
            break
    else:
        return None
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for place in kept:
        wrapped = heads[place] in texts
        to_left = wrapped or heads[place] in left
        table.add_column(
            shown[place], justify="left" if to_left else "right", no_wrap=not wrapped, overflow="fold"
        )
    for row, style in zip(rows, styles or [""] * len(rows), strict=True):
        table.add_row(*(Text(one_line(row[place])) for place in kept), style=style)
    return table


def _least_width(heads: Sequence[str], rows: Sequence[Sequence[str]], place: int, is_text: bool) -> int:
    """The least width of the column in one place."""
    head = max(map(cell_len, heads[place].split("\n")))
    widest = max(cell_len(one_line(row[place])) for row in rows)
    return max(head, min(widest, LEAST_TEXT) if is_text else widest)


def show_table(
    title: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    texts: Collection[str] = (),
    left: Collection[str] = ("",),
    styles: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> None:
    """A table on standard output; on a terminal too narrow for it, each row as lines of head and value.

    Args:
        title: printed above the table.
        heads: as for `table_that_fits`.
        rows: as for `table_that_fits`.
        texts: as for `table_that_fits`.
        left: as for `table_that_fits`.
        styles: as for `table_that_fits`.
        notes: lines below the table.
    """
    console = output()
    table = table_that_fits(console, heads, rows, texts, left, styles)
    if table:
        _print_title(console, title)
        console.print(table)
    else:
        for row in rows:
            named = not heads[0]  # a first column without a head names the row
            fields = dict(zip(heads[named:], row[named:], strict=True))
            show_fields(f"{title}: {row[0].strip()}" if named else title, **fields)
    show_notes(*notes)


def show_fields(title: str, /, **fields: object) -> None:
    """One line per field that has a value: its name, with spaces for `_`, and the value, in one piece."""
    console = output()
    _print_title(console, title)
    shown = {name.replace("_", " "): value for name, value in fields.items() if value != ""}
    width = max(map(len, shown))
    for name, value in shown.items():
        console.print(Text(f" {name:{width}}  {one_line(str(value))}"), soft_wrap=True)


def show_notes(*notes: str) -> None:
    """Dim lines that explain the table above them."""
    console = output()
    for note in notes:
        console.print(Padding(Text(note, style="dim"), (0, 0, 0, 1), expand=False))


def _print_title(console: Console, title: str) -> None:
    console.print(Text(one_line(title), style="bold"), soft_wrap=True)


def print_json(record: Any, indent: int | None = None) -> None:
    """One JSON document, with control characters written out."""
    text = json.dumps(record, indent=indent, ensure_ascii=False)
    print(CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text), flush=True)
