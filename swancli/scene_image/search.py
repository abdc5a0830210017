"""From a question to places of one large scene.

swan query "a stadium beside a river" --scene-image big.tif --geojson hits.geojson

    raster (windows of the scene) -> tiles (their embeddings) -> heat (map and hits) -> places (files)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from swancli.errors import SwanError
from swancli.images import AS_SAID, Rendering
from swancli.machine.progress import Progress, quiet
from swancli.model.checkpoint import load_maker
from swancli.model.encoder import Encoder
from swancli.query.questions import Question, no_words_error, question_pixels, question_vectors
from swancli.scene_image.heat import HeatMap, best_places, heat_map
from swancli.scene_image.places import coordinates, place_boxes, write_heat_map, write_overlay
from swancli.scene_image.raster import Frame, Raster
from swancli.scene_image.tiles import (
    TILE_SIZES,
    Identity,
    SceneTiles,
    StoredTiles,
    embedded_tiles,
    open_tiles,
    scene_boxes,
    tile_scores,
    write_tiles,
)
from swancli.store.hdf5 import TILES, WRITTEN_BY
from swancli.store.text import write_json
from swancli.workspace import Workspace


@dataclass(frozen=True)
class SceneHit:
    """A place of a scene.

    rank: from 1.
    score: the mean cosine similarity of the tiles that cover its middle, -1 to 1.
    heat: the same, from 0 at the worst place of the scene to 1 at the best.
    centre: longitude and latitude, or x and y in pixels.
    box: left, top, right, bottom in pixels.
    geometry: the box in the coordinates of the centre, as GeoJSON.
    """

    rank: int
    score: float
    heat: float
    centre: tuple[float, float]
    box: tuple[int, int, int, int]
    geometry: dict[str, Any]


@dataclass(frozen=True)
class SceneAnswer:
    """The map of one question and its hits, best first.

    question: the text, or the path of an image.
    unknown: words of the question that are not in the vocabulary.
    scene: path of the scene.
    tiles: its tiles.
    heat: the map.
    hits: the best places.
    """

    question: str
    unknown: tuple[str, ...]
    scene: Path
    tiles: SceneTiles
    heat: HeatMap
    hits: tuple[SceneHit, ...]

    def about(self) -> dict[str, Any]:
        """The question, the scene and the meaning of the coordinates, as plain values."""
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
        return {**self.about(), "results": [asdict(hit) for hit in self.hits]}

    def write(
        self,
        geojson: str | PathLike[str] | None = None,
        heatmap: str | PathLike[str] | None = None,
        overlay: str | PathLike[str] | None = None,
    ) -> list[Path]:
        """Writes the files that have a path, and returns their paths.

        Args:
            geojson: the hits, as polygons.
            heatmap: the map, as a GeoTIFF.
            overlay: the map and the hits drawn on the scene, as a PNG.

        Raises:
            SwanError: one of them would replace the scene.
        """
        written = [Path(path) for path in (geojson, heatmap, overlay) if path]
        for path in written:
            if path.exists() and path.samefile(self.scene):
                raise SwanError(f"{path}: is the scene itself", "give the result another name")
        if geojson:
            write_json(geojson, {"type": "FeatureCollection", **self.about(), "features": self._features()})
        if heatmap:
            write_heat_map(heatmap, self.heat, self.tiles.frame, self.question)
        if overlay:
            boxes = np.array([hit.box for hit in self.hits]).reshape(-1, 4)
            write_overlay(overlay, self.tiles.preview(), self.heat, boxes)
        return written

    def _features(self) -> list[dict[str, Any]]:
        """A GeoJSON feature for each hit."""
        features = []
        for hit in self.hits:
            values = {"rank": hit.rank, "score": hit.score, "heat": hit.heat, "box_in_pixels": list(hit.box)}
            features.append({"type": "Feature", "geometry": hit.geometry, "properties": values})
        return features


@dataclass(frozen=True)
class SceneSearcher:
    """A scene's tiles with the encoder of questions, ready to answer; see `open_scene`.

    scene: path of the scene.
    tiles: its tiles.
    encoder: what encodes questions.
    kept: whether the tiles come from a file.
    rendering: how samples become colours.
    """

    scene: Path
    tiles: SceneTiles
    encoder: Encoder
    kept: bool
    rendering: Rendering = AS_SAID

    def ask_words(self, question: Question, top_k: int, threshold: float = -1.0) -> SceneAnswer:
        """The places that fit a description best.

        Args:
            question: the description.
            top_k: how many places at most.
            threshold: the minimum score.

        Raises:
            SwanError: it has no words, or the scene holds no data.
        """
        if not question.has_words:
            error = no_words_error()
            raise SwanError(f"query {str(question)!r}: {error.problem}", error.hint)
        vectors = question_vectors(self.encoder, [question])
        unknown = question.unknown(self.encoder.checkpoint.tokenizer)
        return self._answer(str(question), unknown, vectors, top_k, threshold)

    def ask_image(self, path: str | PathLike[str], top_k: int, threshold: float = -1.0) -> SceneAnswer:
        """The places most like an image.

        Args:
            path: its file.
            top_k: how many places at most.
            threshold: the minimum score.

        Raises:
            ImageError: the file is not an image.
        """
        pixels = question_pixels(path, str(path), replace(self.rendering, lenient=True))
        return self._answer(str(path), (), self.encoder.images([pixels]), top_k, threshold)

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
            SceneHit(rank, score, warm, centre, tuple(box), geometry)
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
    rendering: Rendering = AS_SAID,
    texts_only: bool = False,
    on_stale: Callable[[str], None] = lambda reason: None,
    progress: Progress = quiet,
) -> Iterator[SceneSearcher]:
    """Opens a scene for questions; while it is open, its tiles stay in their file.

    The newest file that `embed_scene` has written under the root is used, if it belongs to the scene as it is
    now, to the checkpoint and to the sizes. Otherwise the tiles are embedded again for each question.

    Args:
        scene: its image file.
        workspace: the root.
        device: where the encoder computes.
        checkpoint: None for the one that made the file; without a file, the newest run's or the shipped one.
        vocab: its vocabulary, if the checkpoint carries none.
        kept: use this file of tiles and no other.
        sizes: of the tiles, in pixels; () for those of the file, or `TILE_SIZES`.
        rendering: how samples become colours; a file of tiles with the same bands is used.
        texts_only: all questions will be texts, so the image side of the model is not loaded with a file.
        on_stale: called with the reason if a file was found but cannot be used.
        progress: called with "tiles", the number done, and the number in all.

    Raises:
        SwanError: the scene or the checkpoint is absent, `kept` does not belong to them, or the scene's
            coordinate system does not fit it.
    """
    scene = Path(scene)
    if not scene.is_file():
        raise SwanError(f"--scene-image {scene}: no such file")
    again = f"make it again: {WRITTEN_BY[TILES]} {scene}"
    options = {"checkpoint": checkpoint, "vocab": vocab, "captions_only": texts_only}
    path, loaded = kept or workspace.find_tiles(scene), None
    with ExitStack() as opened:
        if path:
            try:
                file = opened.enter_context(open_tiles(path))
                if difference := _difference(file, scene, sizes, rendering):
                    raise SwanError(f"{path}: its tiles are of {difference}", again)
                loaded = load_maker(file.made_by, path, again, **options)
            except SwanError as error:
                if kept:
                    raise
                on_stale(error.problem)
        if loaded:
            encoder, tiles, rendering = Encoder(loaded, device), file.tiles, file.rendering
        else:
            encoder = Encoder(checkpoint or workspace.find_encoder(foreign=True), device, vocab=vocab)
            raster = opened.enter_context(Raster(scene, rendering, mosaic=True))
            raster.notes.warn()
            _check_placed(raster.frame)
            boxes = scene_boxes(raster.frame, sizes or TILE_SIZES)
            tiles = SceneTiles(
                raster.frame,
                boxes,
                lambda: embedded_tiles(encoder, raster, boxes, progress),
                lambda: raster.preview,
            )
        yield SceneSearcher(scene, tiles, encoder, kept=loaded is not None, rendering=rendering)


def _difference(file: StoredTiles, scene: Path, sizes: Sequence[int], rendering: Rendering) -> str:
    """What stored tiles are of instead of a scene, sizes and bands; "" if they are of these."""
    if file.scene != Identity.of(scene):
        return f"another scene than {scene}, or of an earlier state of it"
    if sizes and tuple(sizes) != file.sizes:
        own, wanted = (" and ".join(map(str, each)) for each in (file.sizes, sizes))
        return f"{own} pixels, not {wanted} pixels"
    if rendering.bands and rendering.bands != file.rendering.bands:
        return f"other bands ({file.rendering.bands_text or 'as the file says'})"
    return ""


def _check_placed(frame: Frame) -> None:
    """Raises an error if the middle of a scene has no place in WGS84, before its tiles are embedded."""
    x, y = frame.width // 2, frame.height // 2
    place_boxes(frame, np.array([[x, y, x + 1, y + 1]]))


def embed_scene(
    encoder: Encoder,
    scene: str | PathLike[str],
    output: str | PathLike[str],
    *,
    sizes: Sequence[int] = (),
    rendering: Rendering = AS_SAID,
    progress: Progress = quiet,
) -> int:
    """Writes the embeddings of a scene's tiles, so that later questions in words need not encode them.

    Args:
        encoder: what encodes the tiles.
        scene: its image file.
        output: the file to write.
        sizes: of the tiles, in pixels; () for `TILE_SIZES`.
        rendering: how samples become colours.
        progress: called with "tiles", the number done, and the number in all.

    Returns:
        The number of tiles that hold data.

    Raises:
        ImageError: the scene is absent or damaged.
        SwanError: it holds no data, or its coordinate system does not fit it.
    """
    sizes = tuple(sizes) or TILE_SIZES
    with Raster(scene, rendering, mosaic=True) as raster:
        raster.notes.warn()
        _check_placed(raster.frame)
        boxes = scene_boxes(raster.frame, sizes)
        blocks = embedded_tiles(encoder, raster, boxes, progress)
        return write_tiles(output, raster, encoder.made_by, sizes, boxes, blocks)
