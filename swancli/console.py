"""What people see: results on standard output, progress and notes on standard error.

Only `console` and `commands` import rich. `Boundary` turns errors into exit codes: 0 done, 1 a bug, 2 the
user's input, 3 a threshold not met. It also keeps the results until the command's work is done, and is the
only place that writes them: a reader that leaves early, or a full disk, cannot end the work.
"""

from __future__ import annotations

import codecs
import errno
import io
import json
import logging
import os
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD, Box
from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text
from typer import Exit
from typer.core import TyperGroup

from swancli.errors import SwanError, unnamed_error

NOT_MET = 3
PIPE_WIDTH = 160  # columns of a table when standard output is not a terminal
GAP = 2  # columns of space between two columns of a table
NARROW = 60  # columns of a terminal, below which notes are wrapped
LEAST_TEXT = 20  # columns in which running text is still readable
BAR, LEAST_BAR, BESIDE_BAR = 40, 4, 60  # columns of a progress bar, at most and at least, and beside it

# The head of a table, and other characters of ours, where the encoding has ASCII alone.
PLAIN_HEAD = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
PLAIN = {"·": "-", "…": "...", "±": "+-", "─": "-"}
NAMES = {"PIL": "Pillow"}  # of libraries, by those of their loggers
WRITTEN_OUT = "swan-written-out"  # name of the rule in Python's list of them

# Characters that control a terminal or reverse its text. File names and captions can contain them.
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def harmless(text: str) -> str:
    """The text with control characters written out, as in `\\x1b`."""
    return CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)


def one_line(text: str) -> str:
    """The text without anything that would begin another line, which a file name could forge."""
    written = {"\n": "\\n", "\t": "\\t", "\u2028": "\\u2028", "\u2029": "\\u2029"}
    return harmless(text).translate(str.maketrans(written))


def encodable(text: str, encoding: str) -> str:
    """The text with characters that an encoding lacks written out, as in `\\u6e2f`."""
    return text.encode(encoding, WRITTEN_OUT).decode(encoding)


def _written_out(error: UnicodeError) -> tuple[str, int]:
    """What `encodable` writes in place of the characters that cannot be encoded."""
    lacking = error.object[error.start : error.end]
    plain = (PLAIN.get(one) or one.encode("ascii", "backslashreplace").decode() for one in lacking)
    return "".join(plain), error.end


codecs.register_error(WRITTEN_OUT, _written_out)


class Stream(io.TextIOBase):
    """A text stream that takes every character and never fails.

    After the first write that fails, it writes nothing more.

    Attributes:
        failure: the error of that write; None if there was none.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.failure: OSError | None = None
        with suppress(AttributeError, OSError, ValueError):  # closed, or no file of the operating system
            os.set_blocking(stream.fileno(), True)  # another program that shares it may have changed that

    @property
    def encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno() if self._stream else super().fileno()

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError("a text stream")  # click finds out in this way
        self._attempt(lambda: self._stream.write(encodable(text, self.encoding)))
        return len(text)

    def flush(self) -> None:
        self._attempt(lambda: self._stream.flush())

    def close(self) -> None:
        """Leaves the stream open: Python closes it."""

    def _attempt(self, act: Callable[[], object]) -> None:
        if self.failure:
            return
        try:
            if self._stream is None:
                raise OSError(errno.EBADF, "it is closed")
            act()
        except OSError as error:
            self.failure = error
            # Python writes what is left of it when it exits.
            with suppress(AttributeError, OSError, ValueError), Path(os.devnull).open("wb") as nothing:
                os.dup2(nothing.fileno(), self._stream.fileno())


class Results(Stream):
    """Standard output of a command: what is written is kept until `deliver`."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__(stream)
        self._kept: list[str | Callable[[], None]] = []

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError("a text stream")
        if text:
            self._kept.append(text)
        return len(text)

    def flush(self) -> None:
        """Nothing: the text is kept."""

    def then(self, act: Callable[[], None]) -> None:
        """Does something as soon as all that is kept now has been delivered."""
        if self._kept:
            self._kept.append(act)
        else:
            act()

    def deliver(self) -> bool:
        """Writes what is kept; returns whether it could be written."""
        kept, self._kept = self._kept, []
        for part in kept:
            if isinstance(part, str):
                super().write(part)
            else:
                super().flush()
                part()
        if kept:
            super().flush()
        return not self.failure

    @property
    def undelivered(self) -> OSError | None:
        """Why results could not be written; a reader that has left wanted no more of them."""
        return None if isinstance(self.failure, ConnectionError) else self.failure


def deliver() -> bool:
    """Writes the results so far, for a reader who waits for them; returns whether it still reads."""
    return not isinstance(sys.stdout, Results) or sys.stdout.deliver()


def _after_results(act: Callable[[], None]) -> None:
    """Does something, such as printing a note, once the results before it are printed."""
    if isinstance(sys.stdout, Results):
        sys.stdout.then(act)
    else:
        act()


class LibraryMessages(logging.Handler):
    """What libraries log while a command runs, shown at its end in one line per library."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._first: dict[str, str] = {}
        self._count: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """As in `logging.Handler`."""
        try:
            text, *_ = record.getMessage().strip().splitlines() or [record.levelname]
        except Exception:  # the arguments of a message may not fit it, which is no reason to end the work
            text = str(record.msg)
        library = record.name.partition(".")[0]
        self._first.setdefault(library, text)
        self._count[library] += 1

    def show(self) -> None:
        """One warning per library: its first message, and the number of the others."""
        for library, text in self._first.items():
            others = self._count[library] - 1
            more = f" (and {others} more of its messages)" if others else ""
            warn(f"{NAMES.get(library, library)}: {text}{more}")
        self._first.clear()
        self._count.clear()


class SafeConsole(Console):
    """A console that writes out control characters, such as those of escape sequences in a file name.

    It also leaves text such as `:x:` as it is, as in open_clip:NAME:FILE; rich would print an emoji.
    """

    def __init__(self, **options: Any) -> None:
        sizes = ("COLUMNS", "LINES")
        known = {name: os.environ[name] for name in os.environ if name not in sizes or _is_size(name)}
        super().__init__(**{"highlight": False, "emoji": False, "_environ": known} | options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else harmless(text), style, control)

    @property
    def size(self) -> ConsoleDimensions:
        """Columns and lines, also of a terminal without control codes (TERM=dumb)."""
        if self.is_dumb_terminal:
            with suppress(OSError):
                columns = self._width or os.get_terminal_size(self.file.fileno()).columns
                return ConsoleDimensions(columns or 80, 25)
        return super().size


def _is_size(name: str) -> bool:
    """Whether an environment variable gives a size; some programs set COLUMNS=0."""
    return os.environ[name].isdecimal() and int(os.environ[name]) > 0


def output() -> Console:
    """The console of results."""
    return SafeConsole(width=None if sys.stdout.isatty() else PIPE_WIDTH)


def warn(text: str) -> None:
    """A warning on standard error, shown even when it is not a terminal."""
    _after_results(lambda: _print_headed("warning:", "yellow", text))


def _print_headed(head: str, style: str, text: str) -> None:
    """Prints a text on standard error, after a coloured word."""
    console = SafeConsole(stderr=True, soft_wrap=True)
    body = _wrapped(console, f"{head} {one_line(text)}").removeprefix(head)
    console.print(f"[{style}]{head}[/]{escape(body)}")


def _wrapped(console: Console, text: str) -> str:
    """The text, on a narrow terminal with line breaks between words, so that no figure is broken.

    Commands to copy have none.
    """
    if not console.is_terminal or console.width >= NARROW or "swan " in text:
        return text
    lines = textwrap.wrap(text, console.width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)  # with paths in one piece, as everywhere


class Boundary(TyperGroup):
    """The command group that turns errors into a message and an exit code, and delivers the results."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Runs a command to its end, then writes its results."""
        streams, results, logged = (sys.stdout, sys.stderr), Results(sys.stdout), LibraryMessages()
        sys.stdout, sys.stderr = results, Stream(sys.stderr)
        logging.getLogger().addHandler(logged)
        try:
            return super().main(*arguments, **options)
        except SystemExit as end:
            results.deliver()
            if results.undelivered and end.code != 2:
                reason = results.undelivered.strerror
                _show_error(f"results could not be written to standard output: {reason}", "")
                end.code = 2
            raise
        finally:
            if os.environ.get("RANK", "0") == "0":  # one of several processes started by torchrun
                logged.show()
            results.deliver()  # also before a traceback
            logging.getLogger().removeHandler(logged)
            sys.stdout, sys.stderr = streams

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SwanError as error:
            if _reports_errors():
                _show_error(error.problem, error.hint)
            raise Exit(2) from error
        except (OSError, ImportError) as error:
            # A full disk, a read-only folder or an absent package, for the user to fix.
            found = unnamed_error(error, f"swan {ctx.invoked_subcommand or ''}".strip())
            _show_error(found.problem, found.hint)
            raise Exit(2) from error


def _reports_errors() -> bool:
    """Whether this process shows its error; of several processes started by torchrun only one does."""
    if "WORLD_SIZE" not in os.environ:  # before torch is imported for it
        return True
    from swancli.machine.processes import first_to_report

    return first_to_report()


def _show_error(problem: str, hint: str) -> None:
    def show() -> None:
        _print_headed("error:", "bold red", problem)
        console = SafeConsole(stderr=True, soft_wrap=True)
        for line in hint.splitlines():
            console.print(escape(_wrapped(console, f"  {line}")))

    _after_results(show)


class JoinedColumns(ProgressColumn):
    """Columns of progress as one text, which is wrapped where rich would cut each of its columns."""

    def __init__(self, *columns: ProgressColumn) -> None:
        super().__init__()
        self._columns = columns

    def render(self, task: Task) -> Text:
        """As in `ProgressColumn`."""
        texts = (column(task).plain.strip() for column in self._columns)
        return Text(" ".join(filter(None, texts)), overflow="fold")


class Display:
    """Progress and notes on standard error or in a notebook; silent elsewhere, and with `quiet`.

    From Python: `with Display().progress() as progress: encoder.images(paths, progress)`.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.console = SafeConsole(stderr=True)
        self.silent = quiet or not (self.console.is_terminal or self.console.is_jupyter)

    def note(self, text: str, style: str = "dim", at_once: bool = False) -> None:
        """A line of information, below the results printed before it, or `at_once`, above them."""

        def show() -> None:
            shown = escape(_wrapped(self.console, one_line(text)))
            self.console.print(shown, style=style, soft_wrap=True)  # a path stays in one piece

        if self.silent:
            return
        if at_once:
            show()
        else:
            _after_results(show)

    def bars(self, *columns: TextColumn) -> Progress:
        """Progress bars with more columns before the time left, as a context manager.

        A narrow terminal shows no bars: the other columns become one text.
        """
        name, figures = TextColumn("{task.description}"), (MofNCompleteColumn(), *columns)
        bar = min(BAR, self.console.width - BESIDE_BAR)
        if bar < LEAST_BAR:
            shown = (JoinedColumns(name, *figures, TimeRemainingColumn()),)
        else:
            shown = (name, BarColumn(bar), *figures, TimeRemainingColumn())
        return Progress(
            *shown,
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
    rows = [[_printable(console, cell) for cell in row] for row in rows]
    kept = [place for place in range(len(heads)) if any(row[place] for row in rows)]
    for shown in (heads, [head.replace(" ", "\n") for head in heads]):
        widths = {place: _least_width(shown, rows, place, heads[place] in texts) for place in kept}
        if sum(widths.values()) + GAP * (len(kept) - 1) <= console.width:
            break
    else:
        return None
    box = PLAIN_HEAD if console.options.ascii_only else SIMPLE_HEAD
    table = Table(box=box, show_edge=False, pad_edge=False, collapse_padding=True)
    for place in kept:
        wrapped = heads[place] in texts
        to_left = wrapped or heads[place] in left
        table.add_column(
            shown[place], justify="left" if to_left else "right", no_wrap=not wrapped, overflow="fold"
        )
    for row, style in zip(rows, styles or [""] * len(rows), strict=True):
        table.add_row(*(Text(one_line(row[place])) for place in kept), style=style)
    return table


def _printable(console: Console, text: str) -> str:
    """The text as it is written in the end, so that its width is known."""
    return encodable(one_line(text), console.encoding)


def _least_width(heads: Sequence[str], rows: Sequence[Sequence[str]], place: int, is_text: bool) -> int:
    """The least width of the column in one place."""
    head = max(map(cell_len, heads[place].split("\n")))
    widest = max(cell_len(row[place]) for row in rows)
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
    """One line per field that has a value: its name, with spaces for `_`, and the value, in one piece.

    On a terminal that is too narrow for both, the value is on the next line if it fits there.
    """
    console = output()
    _print_title(console, title)
    shown = {
        name.replace("_", " "): f"  {one_line(str(value))}" for name, value in fields.items() if value != ""
    }
    width = max(map(len, shown))
    for name, value in shown.items():
        apart = width + len(value) >= console.width >= len(value)
        console.print(Text(f" {name}\n{value}" if apart else f" {name:{width}}{value}"), soft_wrap=True)


def show_notes(*notes: str) -> None:
    """Dim lines that explain the table above them."""
    console = output()
    for note in notes:
        console.print(Padding(Text(note, style="dim"), (0, 0, 0, 1), expand=False))


def _print_title(console: Console, title: str) -> None:
    console.print(Text(one_line(title), style="bold"), soft_wrap=True)


def print_json(record: Any, indent: int | None = None) -> None:
    """One JSON document, with control characters written out; ASCII where the encoding is not Unicode."""
    is_unicode = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    text = json.dumps(record, indent=indent, ensure_ascii=not is_unicode)
    print(CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text), flush=True)
