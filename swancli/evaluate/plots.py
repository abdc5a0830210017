"""The figures of an evaluation as matplotlib figures: functions of arrays that know nothing about files.

Each takes a `title` with data set, split and run, and is drawn inside `style()`. Colour-blind readers can
tell the colours apart (Okabe and Ito's; for scenes Tol's "muted"). Letters in shapes: N images, M captions,
S scenes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from swancli.evaluate import DIRECTIONS, RECALL_AT
from swancli.evaluate.metrics import Scores
from swancli.store.text import printable

INK, GREY, PALE = "#222222", "#6b6b6b", "#d9d9d9"
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"
SCENE_COLOURS = "#332288 #88ccee #44aa99 #117733 #999933 #ddcc77 #cc6677 #882255 #aa4499".split()
SCENE_MARKERS = "^soDv"  # a scene has a colour and a marker: 45 combinations
STYLE = {
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.5,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "axes.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "figure.titlesize": 10,
    "savefig.dpi": 200,
    "text.parse_math": False,  # show a $ in a caption or a file name as it is
    "text.usetex": False,
}


def style() -> AbstractContextManager[None]:
    """The context in which figures are drawn and saved."""
    return matplotlib.rc_context(STYLE)


def _figure(what: str, title: str, width: float, height: float) -> Figure:
    """An empty figure of a size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # measures text
    fits = int(11 * width)  # characters per line; the end of a path says most
    figure.suptitle(f"{what}\n{title if len(title) <= fits else '…' + title[1 - fits :]}")
    return figure


def _wrapped(text: str, width: int, lines: int) -> str:
    """Text in at most `lines` lines of at most `width` characters."""
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …"))


# ---------------------------------------------------------------------------------------------------------
# curves


def training_curves(history: pd.DataFrame, title: str) -> Figure:
    """Loss and validation recall by epoch; the best epoch is marked.

    Args:
        history: a run's `metrics.csv`, one row per epoch; columns epoch, loss, mR, i2t_R@1 and so on.
        title: see above.
    """
    figure = _figure("Training", title, 7, 5.2)
    axes = figure.subplots(2, 2, sharex=True)
    epoch = history["epoch"]
    best = history["mR"].idxmax()
    _curve(axes[0, 0], epoch, history["loss"], INK)
    _curve(axes[0, 1], epoch, history["mR"], INK)
    axes[0, 0].set(title="training loss", ylabel="loss of a pair")
    reached = f"{history['mR'][best]:.1f} % in epoch {epoch[best]:.0f}"
    axes[0, 1].set(title=f"validation mR, best {reached}", ylabel="mR (%)")
    axes[1, 1].sharey(axes[1, 0])
    for panel, (way, name) in zip(axes[1], DIRECTIONS.items(), strict=True):
        for k, colour in zip(RECALL_AT, (BLUE, GREEN, ORANGE), strict=True):
            _curve(panel, epoch, history[f"{way}_R@{k}"], colour, label=f"recall@{k}")
        panel.set(title=f"validation recall, {_spaced(name)}", xlabel="epoch", ylabel="recall (%)")
    for panel in axes.flat:
        panel.axvline(epoch[best], color=GREY, linewidth=0.8, linestyle=":", zorder=0, label="best epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_ylim(0)
        panel.grid(axis="y")
    figure.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _curve(panel: Axes, epoch: pd.Series, values: pd.Series, colour: str, label: str = "") -> None:
    panel.plot(epoch, values, color=colour, label=label, marker="o", markersize=2.5)


def recall_curves(scores: Scores, ceiling: Scores, chance: Scores, title: str) -> Figure:
    """Recall@K against K in both directions, between chance and the ceiling.

    Args:
        scores: of the model.
        ceiling: of a perfect model, with recalls at the same K.
        chance: of a random order, with recalls at the same K.
        title: see above.
    """
    figure = _figure("Recall@K", title, 7, 3.6)
    axes = figure.subplots(1, 2, sharey=True)
    for panel, way in zip(axes, DIRECTIONS.values(), strict=True):
        for figures, label, colour, dashes in (
            (ceiling, "ceiling: a perfect model, since captions repeat", GREEN, "--"),
            (scores, "this model", BLUE, "-"),
            (chance, "chance", GREY, ":"),
        ):
            recall = getattr(figures, way).recall
            panel.plot(list(recall), list(recall.values()), dashes, color=colour, label=label)
        recall = getattr(scores, way).recall
        for k in RECALL_AT:
            panel.plot(k, recall[k], "o", color=BLUE, markersize=4)
            # above and left of the curve, which rises to the right
            beside, side = ((0, 5), "center") if k == 1 else ((-3, 3), "right")
            label = f"{recall[k]:.1f}"
            panel.annotate(label, (k, recall[k]), beside, textcoords="offset points", ha=side, color=BLUE)
        last = max(recall)
        panel.set(title=_spaced(way), xlabel="K, results looked at", ylim=(0, 101), xlim=(0.8, last * 1.1))
        panel.set_xscale("log")
        ticks = [k for k in (1, 2, 5, 10, 20, 50, 100) if k <= last]
        panel.xaxis.set_major_locator(FixedLocator(ticks))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xticklabels(map(str, ticks))
        panel.grid()
    axes[0].set(ylabel="recall@K (%)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


# ---------------------------------------------------------------------------------------------------------
# scenes


def scene_confusion_matrix(confusion: pd.DataFrame, title: str) -> Figure:
    """The scene of the best image, for the captions of each scene, in percent.

    Cells below 0.5 % are empty. The column for images without a scene is shown if it contains anything.

    Args:
        confusion: (S, S + 1), from `scene_confusion`.
        title: see above.
    """
    if not confusion.iloc[:, -1].sum() > 0:
        confusion = confusion.iloc[:, :-1]
    share = 100 * confusion.to_numpy()
    names, columns = ([_shortened(name) for name in axis] for axis in confusion.axes)
    side = max(4.5, 2.6 + 0.27 * len(names))
    figure = _figure("Scene of the top-ranked image, for the captions of each scene", title, side + 0.6, side)
    panel = figure.subplots()
    image = panel.imshow(share, cmap="Blues", vmin=0, vmax=100, aspect="equal")
    for row, column in np.argwhere(np.nan_to_num(share) >= 0.5):
        value = share[row, column]
        colour = "white" if value > 55 else INK
        panel.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=6.5, color=colour)
    panel.set_xticks(range(len(columns)), columns, rotation=90)
    panel.set_yticks(range(len(names)), names)
    panel.set(xlabel="scene of the top-ranked image", ylabel="scene of the caption")
    panel.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    panel.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    panel.grid(which="minor")
    panel.tick_params(which="both", length=0)
    panel.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=panel, shrink=0.5, aspect=30, pad=0.02)
    bar.set_label("captions of the row (%)")
    bar.outline.set_visible(False)
    return figure


def _shortened(name: str, length: int = 24) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def embedding_map(
    image: np.ndarray,
    caption: np.ndarray,
    image_scene: np.ndarray,
    caption_scene: np.ndarray,
    title: str,
) -> Figure:
    """Images and captions as points of a plane; each scene has a colour, a marker and a name on the map.

    Args:
        image: float (N, 2), places on the map.
        caption: float (M, 2), places on the map.
        image_scene: object (N,) of str or None.
        caption_scene: object (M,) of str or None.
        title: see above.
    """
    names = sorted({name for name in (*image_scene, *caption_scene) if name is not None})
    height = max(6.9, 1.5 + 0.19 * len(names))  # enough for a long legend
    figure = _figure("Images and captions by similarity (t-SNE of the embeddings)", title, 8.6, height)
    panel = figure.subplots()
    looks = {None: {"color": "#999999", "marker": "o"}}
    for place, name in enumerate(names):
        turn, colour = divmod(place, len(SCENE_COLOURS))
        looks[name] = {"color": SCENE_COLOURS[colour], "marker": SCENE_MARKERS[turn % len(SCENE_MARKERS)]}
    for name, look in looks.items():
        own = [scene == name for scene in caption_scene]
        panel.scatter(*caption[own].T, s=7, alpha=0.5, linewidths=0, **look)
        own = [scene == name for scene in image_scene]
        panel.scatter(*image[own].T, s=30, edgecolors=INK, linewidths=0.6, zorder=3, **look)
    panel.set(xticks=[], yticks=[], aspect="equal")
    panel.spines[:].set_visible(False)
    small, large = ({**looks[None], "linestyle": "", "markersize": size} for size in (2.7, 5.5))
    kinds = [
        Line2D([], [], label="image", markeredgecolor=INK, markeredgewidth=0.6, **large),
        Line2D([], [], label="caption", markeredgewidth=0, **small),
    ]
    scenes = [
        Line2D([], [], label=_shortened(name), linestyle="", markersize=5.5, markeredgewidth=0, **looks[name])
        for name in names
    ]
    figure.legend(handles=kinds + scenes, loc="outside right center", fontsize=8)
    _name_on_map(figure, panel, {name: caption[caption_scene == name] for name in names}, image)
    return figure


def _name_on_map(figure: Figure, panel: Axes, groups: dict[str, np.ndarray], taken: np.ndarray) -> None:
    """Writes each name beside the medoid of its points (n, 2), where it covers the fewest points.

    Args:
        figure: of the map.
        panel: the map.
        groups: name -> its points.
        taken: (N, 2), further points to keep clear of.
    """
    figure.draw_without_rendering()  # fixes the layout
    points = panel.transData.transform(np.concatenate([*groups.values(), taken]))
    boxes: list[Bbox] = []
    turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    offsets = [(far * 1.6 * np.cos(turn), far * np.sin(turn)) for far in (9, 16, 26, 40) for turn in turns]
    for name, places in groups.items():
        if not len(places):
            continue
        distances = np.hypot(*(places[:, None] - places[None]).T)
        middle = places[np.median(distances, axis=0).argmin()]
        label = panel.annotate(
            _shortened(name),
            middle,
            (0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            zorder=4,
            path_effects=[withStroke(linewidth=2, foreground="white")],
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0},
        )
        box = label.get_window_extent()
        moved = [box.translated(*(np.array(offset) * figure.dpi / 72)) for offset in offsets]
        costs = [
            there.count_contains(points) + 20 * there.count_overlaps(boxes) + np.hypot(*offset) / 10
            for there, offset in zip(moved, offsets, strict=True)
        ]
        best = int(np.argmin(costs))
        label.set_position(offsets[best])
        boxes.append(moved[best])


# ---------------------------------------------------------------------------------------------------------
# mistakes


@dataclass(frozen=True)
class Result:
    """An image on the sheet.

    pixels: uint8 (H, W, 3).
    scene: None if it has none.
    same_caption: whether the caption is also one of its own.
    """

    pixels: np.ndarray
    scene: str | None
    same_caption: bool = False


@dataclass(frozen=True)
class Mistake:
    """A caption that does not find its own image first.

    text: the caption.
    filename: of its own image.
    rank: of its own image, from 1.
    image: its own.
    preferred: the images ranked before.
    """

    text: str
    filename: str
    rank: float
    image: Result
    preferred: Sequence[Result]


def mistakes_sheet(mistakes: Sequence[Mistake], candidates: int, title: str) -> Figure:
    """One row per caption: its text, its own image, framed, with the rank, and the images ranked before.

    Scenes other than the caption's are coloured.

    Args:
        mistakes: at least one.
        candidates: how many images were ranked.
        title: see above.
    """
    columns = 2 + max(len(mistake.preferred) for mistake in mistakes)
    what = f"Captions whose own image ranks worst among {candidates:,}"
    figure = _figure(what, title, 2 + 1.3 * (columns - 1), 0.9 + 1.7 * len(mistakes))
    widths = [1.5] + [1] * (columns - 1)
    grid = figure.subplots(len(mistakes), columns, squeeze=False, width_ratios=widths)
    for row, mistake in zip(grid, mistakes, strict=True):
        for panel in row:
            panel.set_axis_off()
        row[0].set_box_aspect(1 / widths[0])  # as high as the square image beside it
        text, name = _wrapped(mistake.text, 26, 6), _shortened(printable(mistake.filename), 28)
        row[0].text(0, 1, text, va="top", fontsize=9, transform=row[0].transAxes)
        row[0].text(0, 0, name, va="bottom", fontsize=7, color=GREY, transform=row[0].transAxes)
        scene = mistake.image.scene
        _picture(row[1], mistake.image, scene, f"own, rank {mistake.rank:g}", BLUE)
        for place, (panel, result) in enumerate(zip(row[2:], mistake.preferred, strict=False), start=1):
            above = f"{place}, same caption" if result.same_caption else f"{place}"
            _picture(panel, result, scene, above, GREY)
    return figure


def contact_sheet(questions: Sequence[tuple[str, Sequence[tuple[Result, str]]]]) -> Figure:
    """The results of each question in rows of five, each with a text above and its scene below.

    Args:
        questions: the text of each, and its results, each with the text above it.
    """
    columns = 5
    blocks = [(text, results, max(1, -(-len(results) // columns))) for text, results in questions]
    heights = [0.45 + 1.75 * rows for _, _, rows in blocks]
    figure = Figure(figsize=(1.6 * columns, sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    parts = np.atleast_1d(figure.subfigures(len(blocks), 1, height_ratios=heights, squeeze=True))
    for part, (text, results, rows) in zip(parts, blocks, strict=True):
        part.suptitle(_wrapped(text, 90, 2), x=0.01, ha="left", fontsize=10)
        panels = part.subplots(rows, columns, squeeze=False).flat
        for panel in panels:
            panel.set_axis_off()
        for panel, (result, above) in zip(part.axes, results, strict=False):
            _picture(panel, result, result.scene, above, GREY)
        if not results:
            part.axes[0].text(0, 1, "no match", va="top", color=GREY)
    return figure


def _picture(panel: Axes, result: Result, scene: str | None, above: str, colour: str) -> None:
    panel.set_axis_on()
    panel.imshow(result.pixels)
    panel.set(xticks=[], yticks=[])
    panel.set_title(above, color=colour, pad=3, fontsize=8, loc="left")
    differs = ORANGE if result.scene != scene else INK
    panel.set_xlabel(_shortened(result.scene or "", 20), fontsize=8, labelpad=2, color=differs)
    panel.spines[:].set(visible=True, color=colour, linewidth=1.5 if colour == BLUE else 0.6)
