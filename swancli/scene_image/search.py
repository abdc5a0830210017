"""From a question to places of one large scene.

swan query "a stadium beside a river" --scene-image big.tif --geojson hits.geojson

    raster (windows of the scene) -> tiles (their embeddings) -> heat (map and hits) -> places (files)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from swancli.errors import SwanError
from swancli.machine.progress import Progress, quiet
from swancli.model.checkpoint import load_maker
from swancli.model.encoder import Encoder
from swancli.query.questions import Question, no_words_error, question_vectors
from swancli.scene_image.heat import HeatMap, best_places, heat_map
from swancli.scene_image.places import coordinates, place_boxes, write_geojson, write_heat_map, write_overlay
from swancli.scene_image.raster import Frame, Raster
from swancli.scene_image.tiles import (
    TILE_SIZES,
    Identity,
    SceneTiles,
    TileFile,
    embedded_tiles,
    scene_boxes,
    tile_scores,
    write_tiles,
)
from swancli.store.hdf5 import MADE_BY, TILES
from swancli.workspace import Workspace


@dataclass(frozen=True)
class SceneHit:
    """A place of a scene.

    rank: from 1. score: the mean cosine similarity of the tiles that cover its middle, -1 to 1. heat: the
    same from 0, the worst of the scene, to 1, its best. box: left, top, right, bottom in pixels. centre:
    longitude and latitude, or x and y in pixels. geometry: the box in these coordinates, as GeoJSON has it.
    """

    rank: int
    score: float
    heat: float
    box: tuple[int, int, int, int]
    centre: tuple[float, float]
    geometry: dict[str, Any]


@dataclass(frozen=True)
class SceneAnswer:
    """The map of one question and its hits, best first.

    unknown: words of the question that the vocabulary does not hold.
    """

    question: str
    unknown: tuple[str, ...]
    scene: Path
    tiles: SceneTiles
    heat: HeatMap
    hits: tuple[SceneHit, ...]

    def about(self) -> dict[str, Any]:
        """What was asked, where, and what the coordinates mean, as plain values."""
        return {
            "query": self.question,
            "unknown_words": list(self.unknown),
            "scene": str(self.scene),
            "width": self.heat.width,
            "height": self.heat.height,
            "coordinates": coordinates(self.tiles.frame),
        }

    def record(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        hits = [
            {
                "rank": hit.rank,
                "score": hit.score,
                "heat": hit.heat,
                "centre": list(hit.centre),
                "box": list(hit.box),
                "geometry": hit.geometry,
            }
            for hit in self.hits
        ]
        return {**self.about(), "results": hits}

    def write(
        self,
        geojson: str | PathLike[str] | None = None,
        heatmap: str | PathLike[str] | None = None,
        overlay: str | PathLike[str] | None = None,
    ) -> list[Path]:
        """Writes the files that are asked for, and returns their paths.

        Raises:
            SwanError: one of them would replace the scene.
        """
        written = [Path(path) for path in (geojson, heatmap, overlay) if path]
        for path in written:
            if path.exists() and path.samefile(self.scene):
                raise SwanError(f"{path}: is the scene itself", "give the result another name")
        if geojson:
            write_geojson(geojson, self._features(), self.about())
        if heatmap:
            write_heat_map(heatmap, self.heat, self.tiles.frame, self.question)
        if overlay:
            boxes = np.array([hit.box for hit in self.hits]).reshape(-1, 4)
            write_overlay(overlay, self.tiles.preview(), self.heat, boxes)
        return written

    def _features(self) -> list[dict[str, Any]]:
        return [
            {
                "type": "Feature",
                "geometry": hit.geometry,
                "properties": {
                    "rank": hit.rank,
                    "score": hit.score,
                    "heat": hit.heat,
                    "box_in_pixels": list(hit.box),
                },
            }
            for hit in self.hits
        ]


class SceneSearcher:
    """A scene's tiles with the encoder of questions, ready to answer; see `open_scene`.

    Attributes:
        encoder: what encodes questions. kept: whether the tiles come from a file.
    """

    def __init__(self, scene: Path, tiles: SceneTiles, encoder: Encoder, kept: bool) -> None:
        self.kept = kept
        self.scene = scene
        self.tiles = tiles
        self.encoder = encoder

    def ask_words(self, question: Question, top_k: int, threshold: float = -1.0) -> SceneAnswer:
        """The places that a question describes best.

        Raises:
            SwanError: there is no word in it, or the scene holds no data.
        """
        if not question.has_words:
            error = no_words_error()
            raise SwanError(f"query {str(question)!r}: {error.problem}", error.hint)
        vectors = question_vectors(self.encoder, [question])
        unknown = question.unknown(self.encoder.checkpoint.vocabulary)
        return self._answer(str(question), unknown, vectors, top_k, threshold)

    def ask_image(self, path: str | PathLike[str], top_k: int, threshold: float = -1.0) -> SceneAnswer:
        """The places most like a picture.

        Raises:
            ImageError: the file is not an image.
        """
        return self._answer(str(path), (), self.encoder.images([path]), top_k, threshold)

    def _answer(
        self, question: str, unknown: tuple[str, ...], vectors: np.ndarray, top_k: int, threshold: float
    ) -> SceneAnswer:
        rows, scores = tile_scores(self.tiles.blocks(), vectors, self.scene)
        frame = self.tiles.frame
        heat = heat_map(self.tiles.boxes[rows], scores[:, 0], frame.height, frame.width)
        boxes, found = best_places(heat, top_k, threshold)
        lowest, highest = heat.span
        warmth = (found - lowest) / (highest - lowest if highest > lowest else 1)
        places = zip(*place_boxes(frame, boxes), strict=True)
        hits = [
            SceneHit(rank, score, warm, tuple(box), centre, geometry)
            for rank, (score, warm, box, (geometry, centre)) in enumerate(
                zip(found.tolist(), warmth.tolist(), boxes.tolist(), places, strict=True), start=1
            )
        ]
        return SceneAnswer(question, unknown, self.scene, self.tiles, heat, tuple(hits))


@contextmanager
def open_scene(
    scene: str | PathLike[str],
    workspace: Workspace,
    *,
    device: str = "auto",
    checkpoint: str | PathLike[str] | None = None,
    vocab: str | PathLike[str] | None = None,
    kept: str | PathLike[str] | None = None,
    sizes: Sequence[int] = (),
    texts_only: bool = False,
    on_stale: Callable[[str], None] = lambda reason: None,
    progress: Progress = quiet,
) -> Iterator[SceneSearcher]:
    """Opens a scene for questions; while it is open, its tiles stay in their file.

    The newest file that `embed_scene` kept under the root serves, when it belongs to the scene as it is, to
    the checkpoint and to the sizes. Else the tiles are embedded for each question.

    Args:
        checkpoint, vocab: None for those that made the file; where there is none, for the newest run's, or
            the shipped one. kept: the file to use, and no other. sizes: of tiles, in pixels; () for any.
        texts_only: it will be asked with texts alone, so the model's image side can stay in its file.
        on_stale: told why a file that was found does not serve.

    Raises:
        SwanError: the scene or the checkpoint is not there, `kept` does not belong to them, or the scene has
            no place on the Earth.
    """
    scene = Path(scene)
    if not scene.is_file():
        raise SwanError(f"--scene-image {scene}: no such file")
    options = {"checkpoint": checkpoint, "vocab": vocab}
    path = kept or workspace.find_tiles(scene)
    with ExitStack() as opened:
        file = None
        if path:
            try:
                file = opened.enter_context(TileFile(path))
                _check_fit(path, file, scene, sizes)
                again = f"make it again: {MADE_BY[TILES]} {scene}"
                loaded = load_maker(file.made_by, path, again, captions_only=texts_only, **options)
            except SwanError as error:
                if kept:
                    raise
                on_stale(error.problem)
                file = None
        if file:
            encoder, tiles = Encoder(loaded, device), file.tiles
        else:
            encoder = Encoder(checkpoint or workspace.find_encoder(foreign=True), device, vocab=vocab)
            raster = opened.enter_context(Raster(scene))
            _check_placed(raster.frame)
            boxes = scene_boxes(raster.frame, sizes or TILE_SIZES)
            tiles = SceneTiles(
                raster.frame,
                boxes,
                lambda: embedded_tiles(encoder, raster, boxes, progress),
                lambda: raster.preview,
            )
        yield SceneSearcher(scene, tiles, encoder, kept=file is not None)


def _check_fit(path: Path, file: TileFile, scene: Path, sizes: Sequence[int]) -> None:
    """Refuses tiles of another scene or of other sizes."""
    again = f"make it again: {MADE_BY[TILES]} {scene}"
    if file.scene != Identity.of(scene):
        raise SwanError(f"{path}: its tiles are of another scene than {scene}, or of an earlier state", again)
    if sizes and tuple(sizes) != file.sizes:
        raise SwanError(f"{path}: its tiles are of {_pixels(file.sizes)}, not {_pixels(sizes)}", again)


def _check_placed(frame: Frame) -> None:
    """Refuses a scene whose middle cannot be brought to WGS84: before its tiles are embedded, not after."""
    x, y = frame.width // 2, frame.height // 2
    place_boxes(frame, np.array([[x, y, x + 1, y + 1]]))


def _pixels(sizes: Sequence[int]) -> str:
    return f"{' and '.join(map(str, sizes))} pixels"


def embed_scene(
    encoder: Encoder,
    scene: str | PathLike[str],
    output: str | PathLike[str],
    *,
    sizes: Sequence[int] = (),
    progress: Progress = quiet,
) -> int:
    """Keeps the embeddings of a scene's tiles, so that later questions need neither scene nor image model.

    Args:
        scene: its image file.
        output: the file to write.
        sizes: of the tiles, in pixels; () for `TILE_SIZES`.

    Returns:
        How many tiles hold data.

    Raises:
        ImageError: the scene is absent or damaged.
        SwanError: it holds no data, or has no place on the Earth.
    """
    sizes = tuple(sizes) or TILE_SIZES
    with Raster(scene) as raster:
        _check_placed(raster.frame)
        boxes = scene_boxes(raster.frame, sizes)
        blocks = embedded_tiles(encoder, raster, boxes, progress)
        return write_tiles(output, raster, encoder.made_by, sizes, boxes, blocks)
