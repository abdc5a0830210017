"""What people see: results on standard output, progress and notes on standard error; the only user of rich.

The boundary where errors become exit codes is here too: 0 done, 1 a bug, 2 the user's input, 3 a threshold
not met, 130 interrupted.
"""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table
from typer import Exit
from typer.core import TyperGroup

from swancli.errors import SwanError

if TYPE_CHECKING:
    from swancli.embed.archive import Outcome
    from swancli.evaluate.metrics import Scores
    from swancli.evaluate.report import GroupReport, Report
    from swancli.milvus.upload import Upload
    from swancli.prepare.build import Summary
    from swancli.query.index import IndexCard
    from swancli.query.search import Answer
    from swancli.scene_image.annotations import Localization
    from swancli.scene_image.search import SceneAnswer
    from swancli.store.embeddings import Embeddings
    from swancli.train.features import FeatureCost
    from swancli.train.loop import Epoch
    from swancli.train.pretrain import SceneAccuracy
    from swancli.vocab.vocabulary import Vocabulary
    from swancli.vocab.word_vectors import WordVectors

NOT_MET, INTERRUPTED = 3, 130
PIPE_WIDTH = 160  # columns of a table when standard output is no terminal

RECALL_AT = (1, 5, 10)


# What would act on a terminal, or turn around what is read there: file names and captions hold anything.
ACTING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\n", "＝", "＋", "－", "＠")


def _harmless(text: str) -> str:
    return ACTING.sub(lambda found: repr(found[0])[1:-1], text)


class SafeConsole(Console):
    """A console that shows what would act on the terminal, such as escape sequences in a file name."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else _harmless(text), style, control)


class ResultConsole(SafeConsole):
    """A console that leaves a closed pipe to `Boundary`: rich would end with exit code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def output() -> Console:
    """The console of results."""
    return ResultConsole(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)


def warn(text: str) -> None:
    """A warning on standard error, shown even when it is not a terminal."""
    SafeConsole(stderr=True, highlight=False, soft_wrap=True).print(f"[yellow]warning:[/] {escape(text)}")


class Boundary(TyperGroup):
    """The command group that turns errors into a line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SwanError as error:
            if _tells():
                _show_error(error.problem, error.mend)
            raise Exit(2) from error
        except KeyboardInterrupt:
            Console(stderr=True).print("interrupted")
            raise Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # The reader of a pipe has gone (`| head -1`); nothing is left to say to it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise Exit(0) from None
        except OSError as error:
            # A full disk, a folder that may not be written: the user's to mend.
            where = f"{error.filename}: " if error.filename else ""
            _show_error(f"{where}{error.strerror or error}", "")
            raise Exit(2) from error


def _tells() -> bool:
    """Whether this process shows its error: of several that work together one does."""
    if "WORLD_SIZE" not in os.environ:  # before torch is imported for it
        return True
    from swancli.machine.processes import first_to_report

    return first_to_report()


def _show_error(problem: str, mend: str) -> None:
    console = SafeConsole(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[bold red]error:[/] {escape(problem)}")
    if mend:
        console.print(f"  {escape(mend)}")


class Display:
    """Progress and notes on standard error; silent when it is no terminal, or when asked to be."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = SafeConsole(stderr=True, highlight=False)
        self.silent = quiet or not self.console.is_terminal

    def note(self, text: str) -> None:
        """A line of information."""
        if not self.silent:
            self.console.print(escape(text), style="dim", soft_wrap=True)  # a path stays in one piece

    def _bars(self, *columns: TextColumn) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
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
        with self._bars() as bars:
            yield _phases(bars)

    @contextmanager
    def pretraining(
        self,
    ) -> Iterator[tuple[Callable[[str, int, int], None], Callable[[int, float, SceneAccuracy], None]]]:
        """A callback of phase, done and total, and one that shows an epoch on scenes as a line."""
        with self._bars() as bars:

            def on_epoch(epoch: int, loss: float, accuracy: SceneAccuracy) -> None:
                if not self.silent:
                    share = _percent(accuracy.accuracy)
                    bars.console.print(
                        f"epoch {epoch:3}  loss {loss:.3f}  validation accuracy {share}", style="dim"
                    )

            yield _phases(bars), on_epoch

    @contextmanager
    def training(self, epochs: int) -> Iterator[TrainingDisplay]:
        """The live display of a training run, a `Watch` of `train.loop`."""
        with self._bars(TextColumn("{task.fields[figures]}")) as bars:
            yield TrainingDisplay(bars, epochs)


def _phases(bars: Progress) -> Callable[[str, int, int], None]:
    tasks: dict[str, Any] = {}

    def show(phase: str, done: int, total: int) -> None:
        if phase not in tasks:
            tasks[phase] = bars.add_task(phase, total=total, figures="")
        bars.update(tasks[phase], completed=done, total=total, visible=done < total)

    return show


class TrainingDisplay:
    """A bar of epochs and one of steps with loss and speed; a row of recalls after each epoch."""

    def __init__(self, bars: Progress, epochs: int) -> None:
        self._bars = bars
        self._epochs = bars.add_task("epochs", total=epochs, figures="")
        self._steps = bars.add_task("steps", total=None, figures="")
        self.validation = _phases(bars)
        self._headed = False

    def note(self, text: str) -> None:
        """A line of information."""
        if not self._bars.disable:
            self._bars.console.print(escape(text), style="dim")

    def step(self, epoch: int, step: int, steps: int, loss: float, pairs_per_second: float) -> None:
        """Called after each step."""
        self._bars.update(self._epochs, completed=epoch - 1 + step / steps)  # so that it knows the time left
        self._bars.update(
            self._steps,
            description=f"epoch {epoch}",
            completed=step,
            total=steps,
            figures=f"loss {loss:.3f}  {pairs_per_second:.0f} pairs/s",
        )

    def epoch(self, report: Epoch) -> None:
        """Called after each epoch: adds its row of the recall table."""
        self._bars.update(self._epochs, completed=report.epoch)
        figures = [*_recall_cells(report.scores), f"{report.seconds:.0f} s", "best" if report.best else ""]
        table = Table(box=None, show_header=not self._headed, padding=(0, 1))
        heads = (
            "epoch",
            "loss",
            *(f"{way} R@{k}" for way in ("i2t", "t2i") for k in RECALL_AT),
            "val mR",
            "time",
        )
        for head in heads:
            table.add_column(head, justify="right", width=max(8, len(head)))
        table.add_column("", width=4, style="green")
        table.add_row(str(report.epoch), f"{report.loss:.3f}", *figures)
        self._headed = True
        if not self._bars.disable:
            self._bars.console.print(table)


def _table(title: str, columns: Sequence[str], caption: str | None = None) -> Table:
    table = Table(
        title=escape(title),
        caption=caption,
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
    )
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right", overflow="fold")
    return table


def _recall_table(title: str) -> Table:
    heads = [f"{way} R@{k}" for way in ("i2t", "t2i") for k in RECALL_AT]
    return _table(title, ["", *heads, "mR"])


def _recall_cells(scores: Scores) -> list[str]:
    directions = (scores.image_to_text, scores.text_to_image)
    cells = [f"{direction.recall[k]:.2f}" for direction in directions for k in RECALL_AT]
    return [*cells, f"{scores.mean_recall:.2f}"]


def show_scores(title: str, rows: Mapping[str, Scores]) -> None:
    """A table of recalls in percent, one row for each named set of scores."""
    table = _recall_table(title)
    for name, scores in rows.items():
        table.add_row(name, *_recall_cells(scores))
    output().print(table)


def print_json(record: Any, indent: int | None = None) -> None:
    """One JSON document, valid and without effect on a terminal whatever text is in it."""
    text = json.dumps(record, indent=indent, ensure_ascii=False)
    print(ACTING.sub(lambda found: f"\\u{ord(found[0]):04x}", text), flush=True)


def _cell(value: Any) -> Any:
    """A text as a spreadsheet shows it, which takes some beginnings for a formula; numbers stay."""
    if not isinstance(value, str):
        return value
    value = _harmless(value)
    return f"'{value}" if value.lstrip(" ").startswith(FORMULA_STARTS) else value


def print_report(report: Report | GroupReport, as_json: bool, as_csv: bool) -> None:
    """A report as one JSON document, as CSV with a header, or as a table."""
    from swancli.evaluate.report import GroupReport

    if as_json:
        print_json(report.record(), indent=1)
    elif as_csv:
        rows = report.table()
        writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    elif isinstance(report, GroupReport):
        show_group(report)
    else:
        show_report(report)


def show_report(report: Report) -> None:
    """The table of `swan eval`: recalls, and below them the ceiling and scene recall when asked for."""
    both = (report.scores.image_to_text, report.scores.text_to_image)
    medians, means = ([getattr(way, name) for way in both] for name in ("median_rank", "mean_rank"))
    notes = [
        f"{report.images} images, {report.captions} captions; in percent; equal scores: {report.ties} order",
        f"rank of the first hit: median {medians[0]:.0f} i2t, {medians[1]:.0f} t2i; "
        f"mean {means[0]:.2f} i2t, {means[1]:.2f} t2i",
    ]
    if report.scenes:
        ways = (report.scenes.image_to_text, report.scenes.text_to_image)
        left_out = f"without one: {ways[0].skipped} images, {ways[1].skipped} captions"
        notes.append(f"scene recall: share of the K best that have the query's scene ({left_out})")
    table = _recall_table(report.title)
    table.add_row("recall", *_recall_cells(report.scores), style="bold")
    if report.ceiling:
        table.add_row("ceiling", *_recall_cells(report.ceiling))
    if report.reranked:
        table.add_row("re-ranked", *_recall_cells(report.reranked))
        notes.append("re-ranked: each score weighed by those of all other queries; a search cannot do that")
    if report.new:
        table.add_row("new captions", *_recall_cells(report.new))
        whose = f"the {report.new_captions} whose text no training caption of the data set has"
        notes.append(f"new captions: recall with {whose}")
    if report.new_ceiling:
        table.add_row("  their ceiling", *_recall_cells(report.new_ceiling))
    if report.scenes:
        table.add_row("scene recall", *(f"{way.share[k]:.2f}" for way in ways for k in RECALL_AT), "")
    console = output()
    console.print(table)
    for note in notes:
        console.print(f" {note}", style="dim")


def show_group(report: GroupReport) -> None:
    """The table of several runs: each fold, their mean and spread; of several variants, a row for each."""
    first = report.rows[0].report
    scenes = bool(first.scenes)
    table = _recall_table(f"{first.source.get('dataset', '')} {first.split} · {report.name}")
    for label in report.labels:
        runs = report.of(label)
        if len(runs) == 1 or len(report.labels) == 1:
            for row in runs:
                name = f"{label} fold {row.fold}" if row.fold else label
                for cells in _figure_rows(name.strip(), row.report.record(), scenes):
                    table.add_row(*cells)
        if len(runs) > 1:
            for name, figures in zip(("mean", "± spread"), report.averaged(label), strict=True):
                for cells in _figure_rows(f"{label} {name}".strip(), figures, scenes):
                    table.add_row(*cells, style="bold" if name == "mean" else "dim")
    console = output()
    console.print(table)
    notes = [
        f"{first.images} images, {first.captions} captions; in percent; equal scores: {first.ties} order"
    ]
    if any(row.fold for row in report.rows):
        notes.append("spread: standard deviation over the folds (n - 1)")
    for note in notes:
        console.print(f" {note}", style="dim")


def _figure_rows(name: str, record: Mapping[str, Any], scenes: bool) -> Iterator[list[str]]:
    """The cells of a record's recalls, and of its scene recalls when asked for."""
    recalls = [f"{record[way][f'R@{k}']:.2f}" for way in ("i2t", "t2i") for k in RECALL_AT]
    yield [escape(name), *recalls, f"{record['mR']:.2f}"]
    for key in ("ceiling", "reranked", "new_captions"):
        if key in record:
            yield from _figure_rows(f"  {name}: {key.replace('_', ' ')}", record[key], scenes=False)
    if scenes:
        shares = [record["scene_recall"][way][f"SR@{k}"] for way in ("i2t", "t2i") for k in RECALL_AT]
        yield [f"  {escape(name)}: scene recall", *(f"{share:.2f}" for share in shares), ""]


def step(command: str, options: str = "") -> None:
    """The command line of a step that `swan demo` takes."""
    output().print(f"\n[bold]$ swan {command}[/] {escape(options)}")


def show_prepared(dataset: str, summary: Summary) -> None:
    """What `swan prepare` wrote, split by split, and what it left out and why."""
    stored = "as they came" if summary.shape is None else f"{summary.shape[1]} x {summary.shape[0]} px"
    table = _table(dataset, ["split", "images", "captions", "scenes"], f"images stored {stored}")
    for part in summary.splits:
        table.add_row(part.split or "none", *map(str, (part.images, part.captions, part.scenes)))
    output().print(table)
    if summary.skipped:
        table = _table("left out", ["why", "images", "named", "first"])
        for group in summary.skipped:
            table.add_row(*map(escape, (group.reason, str(group.count), group.pattern, group.first)))
        output().print(table)


def show_features(path: Path, cost: FeatureCost) -> None:
    """What `swan prepare --features` wrote."""
    table = _table("features", ["training images", "views of each", "validation images", "size", "file"])
    size = f"{cost.size / 1e9:.2f} GB"
    table.add_row(str(cost.training), str(cost.views), str(cost.validation), size, escape(str(path)))
    output().print(table)


def show_pretrained(dataset: str, path: Path, accuracy: SceneAccuracy) -> None:
    """What `swan pretrain` wrote."""
    heads = ["scenes", "training images", "validation images", "accuracy", "file"]
    table = _table(f"backbone trained on the scenes of {dataset}", heads)
    counts = map(str, (accuracy.scenes, accuracy.training, accuracy.validation))
    table.add_row(*counts, _percent(accuracy.accuracy), escape(str(path)))
    output().print(table)


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.1f} %"


def show_vocabulary(vocabulary: Vocabulary, path: Path, vectors: WordVectors | None = None) -> None:
    """What `swan vocab` counted, and how many of its words have a vector."""
    table = _table(
        f"{vocabulary.dataset or 'imported'} vocabulary", ["words", "least count", "stop words", "file"]
    )
    least = str(vocabulary.min_count) if vocabulary.min_count else "unknown"
    table.add_row(str(len(vocabulary)), least, vocabulary.stop_words, escape(str(path)))
    console = output()
    console.print(table)
    if vectors:
        found, words = int(vectors.has_vector.sum()), len(vocabulary)
        share = f"{found} of {words} words have a vector ({100 * found / words:.1f} %)"
        console.print(
            f" {share}, {vectors.retried} of them found without - . ' and what follows a /", style="dim"
        )


def show_embedded(path: Path, embeddings: Embeddings, skipped: Sequence[tuple[str, str]]) -> None:
    """What `swan embed` wrote, and what it left out."""
    table = _table(f"embeddings of {embeddings.dataset}", ["images", "captions", "dimensions", "file"])
    counts = (len(embeddings.image), len(embeddings.caption), embeddings.image.shape[1])
    table.add_row(*map(str, counts), escape(str(path)))
    output().print(table)
    _warn_of_skipped(skipped)


def show_shard(dataset: str, outcome: Outcome) -> None:
    """What a shard has done, and which others are still missing."""
    shard, missing = outcome.shard, outcome.missing
    said = f"still missing: {_ranges(missing)} of {shard.count}" if missing else "no shard is missing"
    table = _table(
        f"shard {shard.number} of {shard.count} of {dataset}", ["images", "left out", "file"], said
    )
    table.add_row(str(outcome.images), str(len(outcome.skipped)), escape(str(outcome.file)))
    output().print(table)
    _warn_of_skipped(outcome.skipped)


def _ranges(numbers: Sequence[int]) -> str:
    """Rising numbers in words, such as 1, 3 to 5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ", ".join(" to ".join(map(str, run)) for run in runs)


def _warn_of_skipped(skipped: Sequence[tuple[str, str]]) -> None:
    for name, reason in skipped:
        warn(f"left out {name}: {reason}")


def show_indexed(path: Path, card: IndexCard) -> None:
    """What `swan embed --index` wrote."""
    heads = ["images", "dimensions", "recall@10", "built in", "size", "file"]
    table = _table(
        f"{card.kind} index", heads, f"recall against exact search, of {card.questions} {card.asked}"
    )
    size, seconds = f"{path.stat().st_size / 1e6:.1f} MB", f"{card.seconds:.1f} s"
    figures = (str(card.rows), str(card.dimensions), f"{card.recall:.3f}", seconds, size)
    table.add_row(*figures, escape(str(path)))
    output().print(table)


def show_uploaded(address: str, uploaded: Upload) -> None:
    """What `swan embed --to` brought into a vector database, in images."""
    heads = ["new", "changed", "stood there", "images there now", "vector database"]
    table = _table("uploaded", heads)
    figures = (uploaded.new, uploaded.changed, uploaded.stood, uploaded.total)
    table.add_row(*map(str, figures), escape(address))
    output().print(table)


def show_answer(answer: Answer) -> None:
    """The ranked images of one question."""
    console = output()
    if not answer.hits:
        console.print(f"no match for {escape(repr(answer.question))}")
        return
    table = Table(title=escape(answer.question), title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    table.add_column("file", overflow="fold")
    table.add_column("scene", overflow="fold")
    table.add_column("its caption", overflow="fold", style="dim")
    several = len({hit.dataset for hit in answer.hits}) > 1
    for hit in answer.hits:
        caption = hit.captions[0] if hit.captions else ""
        cells = (f"{hit.dataset}: {hit.filename}" if several else hit.filename, hit.scene or "", caption)
        table.add_row(str(hit.rank), f"{hit.score:.4f}", *(escape(cell) for cell in cells))
    console.print(table)


def show_scene_answer(answer: SceneAnswer) -> None:
    """The best places of one large scene."""
    console = output()
    if not answer.hits:
        console.print(f"no match for {escape(repr(answer.question))}")
        return
    placed = bool(answer.tiles.frame.crs)
    digits = 6 if placed else 0
    axes = ("longitude", "latitude") if placed else ("x", "y")
    heads = ["rank", "score", "heat", *axes, "size in pixels"]
    table = _table(answer.question, heads, f"{escape(str(answer.scene))}; {answer.about()['coordinates']}")
    for hit in answer.hits:
        left, top, right, bottom = hit.box
        centre = (f"{number:.{digits}f}" for number in hit.centre)
        size = f"{right - left} x {bottom - top}"
        table.add_row(str(hit.rank), f"{hit.score:.4f}", f"{hit.heat:.2f}", *centre, size)
    console.print(table)


def show_tiles(path: Path, scene: Path, tiles: int, sizes: Sequence[int]) -> None:
    """What `swan embed --scene-image` wrote."""
    table = _table(f"tiles of {scene.name}", ["tiles", "of pixels", "file"])
    table.add_row(str(tiles), ", ".join(map(str, sizes)), escape(str(path)))
    output().print(table)


def show_localization(report: Localization) -> None:
    """The table of `swan eval --localization`: the mean of each indicator."""
    heads = ["", "Rsu (higher)", "Ras (lower)", "Rda (higher)", "Rmi (higher)"]
    table = _table(f"localization · {report.source['checkpoint']}", heads)
    table.add_row("mean", *(f"{value:.4f}" for value in report.mean().values()), style="bold")
    console = output()
    console.print(table)
    record = report.record()
    counts = f"{record['annotations']} annotations of {record['scenes']} scenes; each from 0 to 1"
    console.print(f" {counts}; which way is better stands above", style="dim")
