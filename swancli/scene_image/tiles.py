"""Overlapping tiles of a large scene in several sizes, their embeddings, and the file that stores them.

swan embed --scene-image big.tif

Letters in shapes: T tiles, D embedding, Q questions. Boxes are int32 (T, 4): left, top, right and bottom in
pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from os import PathLike
from pathlib import Path

import h5py
import numpy as np

from swancli.errors import SwanError
from swancli.images import Rendering, pixel_digest
from swancli.machine.progress import Progress, quiet
from swancli.model.encoder import Encoder, Picture
from swancli.scene_image.raster import Frame, Raster, require_rasterio
from swancli.store.hdf5 import (
    TILES,
    array_in,
    create_store,
    damage_named,
    open_store,
    text_attribute,
    write_source,
    write_text_attribute,
)
from swancli.store.made_by import MadeBy
from swancli.store.rendering import read_rendering, write_rendering
from swancli.store.vectors import read_rows

TILE_SIZES = (256, 384)  # pixels; chosen on mosaics of validation images
LEAST_DATA = 0.5  # share of a tile's pixels that must hold data
BLOCK = 2048  # tiles whose embeddings are in memory at a time
NO_DATA = "holds no data to search: every tile is mostly transparent, or marked as no data"
MOST_TILES = 4_000_000  # 100 MB of boxes and scores

# Rows int64 (n,) of tiles and their embeddings float32 (n, D); the consumer closes the generator.
Blocks = Generator[tuple[np.ndarray, np.ndarray], None, None]


@dataclass(frozen=True)
class SceneTiles:
    """The tiles of a scene: read from their file, or embedded when they are needed.

    frame: where the scene lies.
    boxes: int32 (T, 4); also of tiles without data, if they are not embedded yet.
    blocks: gives their embeddings, from the first one on at each call.
    preview: gives the whole scene, uint8 (h, w, 3).
    """

    frame: Frame
    boxes: np.ndarray
    blocks: Callable[[], Blocks]
    preview: Callable[[], np.ndarray]


def scene_boxes(frame: Frame, sizes: Sequence[int]) -> np.ndarray:
    """int32 (T, 4): the tiles of a scene, size by size, row by row, half a tile apart.

    The last tile of each row and column ends at the edge of the scene; if the scene is smaller than a tile,
    the tile is cut. A size with the same tiles as an earlier one adds none.

    Args:
        frame: where the scene lies.
        sizes: widths of the tiles in pixels; their heights follow the shape of the scene's pixels.

    Raises:
        SwanError: there are too many.
    """
    together: dict[bytes, np.ndarray] = {}
    for size in sizes:
        left = _starts(frame.width, size)
        top = _starts(frame.height, height := max(1, round(size * frame.tile_shape)))
        if len(left) * len(top) > MOST_TILES:
            raise SwanError(
                f"{len(left) * len(top):,} tiles of {size} pixels; {MOST_TILES:,} are the most",
                "give larger ones: --tile-size",
            )
        boxes = np.empty((len(top), len(left), 4), np.int32)
        boxes[..., 0], boxes[..., 1] = left, top[:, None]
        boxes[..., 2] = np.minimum(left + size, frame.width)
        boxes[..., 3] = np.minimum(top + height, frame.height)[:, None]
        together.setdefault(boxes.tobytes(), boxes.reshape(-1, 4))
    return np.concatenate(list(together.values()))


def _starts(length: int, size: int) -> np.ndarray:
    """int64 (n,): where tiles of a size start along a side of the scene, in pixels."""
    if length <= size:
        return np.zeros(1, np.int64)
    return np.append(np.arange(0, length - size, max(1, size // 2)), length - size)


# ---------------------------------------------------------------------------------------------------------
# embeddings and scores


def embedded_tiles(encoder: Encoder, raster: Raster, boxes: np.ndarray, progress: Progress = quiet) -> Blocks:
    """Embeddings of a scene's tiles, `BLOCK` at a time, without those that hold too little data.

    Tiles are read ahead, so close the generator before the raster.

    Args:
        encoder: what encodes the tiles.
        raster: the scene.
        boxes: int32 (T, 4), its tiles.
        progress: called with "tiles", the number done, and the number in all.

    Yields:
        Rows int64 (n,) of `boxes` and their embeddings float32 (n, D), L2-normalised.

    Raises:
        ImageError: the scene is damaged.
    """

    def read_tile(row: int) -> tuple[np.ndarray | None, Picture]:
        pixels, share = raster.read(boxes[row])
        if share < LEAST_DATA:
            return None, Picture("", "", reason=NO_DATA)
        return pixels, Picture("", pixel_digest(pixels))

    blocks = [range(start, min(start + BLOCK, len(boxes))) for start in range(0, len(boxes), BLOCK)]
    pieces = ((partial(read_tile, row) for row in rows) for rows in blocks)
    with closing(encoder.pieces(pieces, lambda done: progress("tiles", done, len(boxes)))) as encoded:
        for rows, piece in zip(blocks, encoded, strict=True):
            kept = np.array([not picture.reason for picture in piece.pictures])
            yield np.array(rows)[kept], piece.image


def tile_scores(blocks: Blocks, vectors: np.ndarray, scene: Path) -> tuple[np.ndarray, np.ndarray]:
    """Rows int64 (T,) of the tiles that hold data, and their cosine similarities float32 (T, Q).

    Args:
        blocks: the embeddings of the tiles.
        vectors: float32 (Q, D), the questions, L2-normalised.
        scene: its path, for errors.

    Raises:
        SwanError: no tile holds data, or a similarity is NaN or infinite.
    """
    rows, scores = [np.zeros(0, np.int64)], [np.zeros((0, len(vectors)), np.float32)]
    with closing(blocks):
        for block, embedding in blocks:
            rows.append(block)
            scores.append(embedding @ vectors.T)
    found = np.concatenate(scores)
    if not len(found):
        raise SwanError(f"{scene}: {NO_DATA}")
    if not np.isfinite(found).all():
        raise SwanError(
            "the similarities contain NaN or infinity", "the checkpoint is damaged; use another one"
        )
    return np.concatenate(rows), found


# ---------------------------------------------------------------------------------------------------------
# the file that stores them


@dataclass(frozen=True)
class Identity:
    """Identifies the state of a scene's file: it differs once the file is replaced or changed.

    scene_name: name of the file.
    scene_size: in bytes.
    scene_changed: time of the last change, in ns since 1970.
    """

    scene_name: str
    scene_size: int
    scene_changed: int

    @classmethod
    def of(cls, path: Path) -> Identity:
        """The identity of an existing file."""
        status = path.stat()
        return cls(path.name, status.st_size, status.st_mtime_ns)


def write_tiles(
    path: str | PathLike[str],
    raster: Raster,
    made_by: MadeBy,
    sizes: Sequence[int],
    boxes: np.ndarray,
    blocks: Blocks,
) -> int:
    """Writes a `tiles-NAME.h5`, block by block.

    Args:
        path: where it is written.
        raster: the scene.
        made_by: the checkpoint of the embeddings.
        sizes: of the tiles, in pixels.
        boxes: int32 (T, 4), the tiles.
        blocks: their embeddings.

    Returns:
        The number of tiles that hold data.

    Raises:
        SwanError: no tile holds data.
        ImageError: the scene is damaged.
    """
    path, identity, width = Path(path), Identity.of(raster.path), made_by.dimensions
    with closing(blocks), create_store(path, TILES) as file:
        shape = {"shape": (0, width), "maxshape": (None, width), "chunks": (min(BLOCK, len(boxes)), width)}
        embedding = file.create_dataset("tiles/embedding", dtype=np.float32, **shape)
        kept = [np.zeros(0, np.int64)]
        for rows, vectors in blocks:
            kept.append(rows)
            embedding.resize(len(embedding) + len(rows), axis=0)
            embedding[len(embedding) - len(rows) :] = vectors
            file.check()
        if not len(embedding):
            raise SwanError(f"{raster.path}: {NO_DATA}")
        file.create_dataset("tiles/box", data=boxes[np.concatenate(kept)])
        file.create_dataset("scene/preview", data=raster.preview, compression="gzip")
        write_source(file, str(raster.path), path.parent)
        write_text_attribute(file, "scene_name", identity.scene_name)
        facts = {"scene_size": identity.scene_size, "scene_changed": identity.scene_changed}
        file.attrs.update(tile_sizes=list(sizes), **facts, **asdict(raster.frame))
        write_rendering(file, raster.rendering)
        made_by.write(file, path.parent)
        return len(embedding)


def _check_boxes(boxes: np.ndarray, frame: Frame) -> None:
    """Raises a ValueError if boxes are outside of their scene, or too small for its size."""
    left, top, right, bottom = boxes.T
    inside = (left >= 0) & (top >= 0) & (left < right) & (top < bottom)
    inside &= (right <= frame.width) & (bottom <= frame.height)
    if not inside.all():
        row = int(np.flatnonzero(~inside)[0])
        raise ValueError(
            f"/tiles/box[{row}] is {boxes[row].tolist()}, in a scene of {frame.width} x {frame.height} pixels"
        )
    smallest = int(((right - left) * (bottom - top)).min())
    if frame.width * frame.height > MOST_TILES * smallest:
        raise ValueError(f"its scene has {frame.width} x {frame.height} pixels, a tile has only {smallest}")


@dataclass(frozen=True)
class StoredTiles:
    """The content of a `tiles-NAME.h5`.

    tiles: the tiles.
    scene: identity of the scene that they were made from.
    sizes: of the tiles, in pixels.
    made_by: the checkpoint of their embeddings.
    rendering: how the samples of the scene became colours.
    """

    tiles: SceneTiles
    scene: Identity
    sizes: tuple[int, ...]
    made_by: MadeBy
    rendering: Rendering


@contextmanager
def open_tiles(path: str | PathLike[str]) -> Iterator[StoredTiles]:
    """Opens a `tiles-NAME.h5` for reading; it is closed when the body ends.

    Raises:
        StoreError: as `open_store`; also if something in it does not fit the scene.
    """
    path = Path(path)
    with open_store(path, TILES) as file:
        with damage_named(path, TILES):
            stored = _read_tiles(file, path.parent)
        yield stored


def _read_tiles(file: h5py.File, folder: Path) -> StoredTiles:
    """The content of a file in a folder; raises `store.hdf5.DAMAGE` if it is damaged."""
    boxes = array_in(file, "tiles/box", "iu", None, 4)[:].astype(np.int64)
    embedding = array_in(file, "tiles/embedding", "f", len(boxes), None)
    preview = array_in(file, "scene/preview", "u", None, None, 3)
    height, width, size, changed = (
        int(file.attrs[name]) for name in ("height", "width", "scene_size", "scene_changed")
    )
    transform = tuple(map(float, file.attrs["transform"]))
    frame = Frame(height, width, text_attribute(file, "crs"), transform)
    if frame.crs:
        require_rasterio().crs.CRS.from_wkt(frame.crs)  # raises a ValueError if it is not known
    if len(transform) != 6 or not np.isfinite(transform).all():
        raise ValueError(f"its transform is {transform}")
    if not len(boxes):
        raise ValueError("it has no tiles")
    _check_boxes(boxes, frame)

    def blocks() -> Blocks:
        for start in range(0, len(embedding), BLOCK):
            vectors = read_rows(embedding, start, start + BLOCK)
            yield np.arange(start, start + len(vectors)), vectors

    return StoredTiles(
        SceneTiles(frame, boxes.astype(np.int32), blocks, lambda: preview[:]),
        Identity(text_attribute(file, "scene_name"), size, changed),
        tuple(map(int, file.attrs["tile_sizes"])),
        MadeBy.read(file, folder, embedding.shape[1]),
        read_rendering(file),
    )
