"""A large scene cut into overlapping tiles of several sizes, their embeddings, and the file that keeps them.

swan embed --scene-image big.tif

Letters in shapes: T tiles, D embedding, Q questions. Boxes are int32 (T, 4): left, top, right and bottom in
pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from swancli.errors import StoreError, SwanError
from swancli.machine.progress import Progress, quiet
from swancli.model.checkpoint import Checkpoint
from swancli.model.encoder import encode_images
from swancli.model.swan import Swan
from swancli.scene_image.raster import Frame, Raster, require_rasterio
from swancli.store.hdf5 import (
    TILES,
    array_in,
    create_store,
    damage_named,
    from_relative,
    open_store,
    text_attribute,
    to_relative,
)
from swancli.store.vectors import read_rows
from swancli.workspace import relocated_checkpoint

TILE_SIZES = (256, 384)  # pixels; chosen on scenes made of validation images
LEAST_DATA = 0.5  # share of a tile that must hold data
BLOCK = 2048  # tiles whose embeddings are in memory at a time
NO_DATA = "holds no data to search: every tile is mostly transparent, or marked as no data"
MOST_TILES = 4_000_000  # which is 100 MB of boxes and scores

Blocks = Iterable[tuple[np.ndarray, np.ndarray]]  # rows int64 (n,) of tiles, their embeddings float32 (n, D)


@dataclass(frozen=True)
class SceneTiles:
    """A scene's tiles: read from their file, or embedded as they are asked for.

    boxes: int32 (T, 4), those without data among them where they are not embedded yet. blocks: gives their
    embeddings, anew at each call. preview: gives uint8 (h, w, 3), the whole scene.
    """

    frame: Frame
    boxes: np.ndarray
    blocks: Callable[[], Blocks]
    preview: Callable[[], np.ndarray]


def scene_boxes(frame: Frame, sizes: Sequence[int]) -> np.ndarray:
    """int32 (T, 4): the tiles of a scene, size by size, row by row, half a tile apart.

    The last of each row and column ends where the scene does; where the scene is smaller, so is the tile. A
    size that would give the tiles of one before it gives none.

    Args:
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
    """int64: where tiles of a size begin along a side of the scene."""
    if length <= size:
        return np.zeros(1, np.int64)
    return np.append(np.arange(0, length - size, max(1, size // 2)), length - size)


# ---------------------------------------------------------------------------------------------------------
# embeddings and scores


def embedded_tiles(
    model: Swan,
    raster: Raster,
    boxes: np.ndarray,
    *,
    device: torch.device,
    batch_size: int | None = None,
    precision: str = "fp32",
    progress: Progress = quiet,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Embeddings of a scene's tiles, `BLOCK` at a time; tiles mostly without data are left out.

    Yields:
        Rows int64 (n,) of `boxes` and their embeddings float32 (n, D), L2-normalised.

    Raises:
        ImageError: the scene is damaged.
    """
    blank = np.zeros((1, 1, 3), np.uint8)
    empty: set[int] = set()

    def read_tile(row: int) -> np.ndarray:
        pixels, share = raster.read(boxes[row])
        if share < LEAST_DATA:
            empty.add(row)
            return blank
        return pixels

    for start in range(0, len(boxes), BLOCK):
        rows = range(start, min(start + BLOCK, len(boxes)))
        embedding = encode_images(
            model,
            read_tile,
            rows,
            device=device,
            batch_size=batch_size,
            precision=precision,
            progress=lambda _, done, __, before=start: progress("tiles", before + done, len(boxes)),
        )
        kept = np.array([row not in empty for row in rows])
        yield np.array(rows)[kept], embedding[kept]


def tile_scores(blocks: Blocks, vectors: np.ndarray, scene: Path) -> tuple[np.ndarray, np.ndarray]:
    """Rows int64 (T,) of the tiles that hold data, and their cosine similarities float32 (T, Q).

    Args:
        vectors: float32 (Q, D), the questions, L2-normalised. scene: named where it holds no data.

    Raises:
        SwanError: no tile holds data, or a similarity is not a number.
    """
    rows, scores = [np.zeros(0, np.int64)], [np.zeros((0, len(vectors)), np.float32)]
    for block, embedding in blocks:
        rows.append(block)
        scores.append(embedding @ vectors.T)
    found = np.concatenate(scores)
    if not len(found):
        raise SwanError(f"{scene}: {NO_DATA}")
    if not np.isfinite(found).all():
        raise SwanError("the similarities are not numbers", "the checkpoint is damaged; take another one")
    return np.concatenate(rows), found


# ---------------------------------------------------------------------------------------------------------
# the file that keeps them


@dataclass(frozen=True)
class Identity:
    """What a scene's file is known by: equal as long as nobody replaces or changes it."""

    name: str
    size: int  # bytes
    changed: int  # ns since 1970

    @classmethod
    def of(cls, path: Path) -> Identity:
        """Of a file that is there."""
        status = path.stat()
        return cls(path.name, status.st_size, status.st_mtime_ns)


def write_tiles(
    path: Path,
    raster: Raster,
    checkpoint: Checkpoint,
    sizes: Sequence[int],
    boxes: np.ndarray,
    blocks: Blocks,
) -> int:
    """Writes a `tiles-NAME.h5`, block by block, and returns how many tiles hold data.

    Raises:
        SwanError: none does. ImageError: the scene is damaged.
    """
    identity = Identity.of(raster.path)
    with create_store(path, TILES) as file:
        width = checkpoint.model.settings.embed_dim
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
        file.attrs.update(
            scene=to_relative(str(raster.path), path.parent),
            scene_name=identity.name,
            scene_size=identity.size,
            scene_changed=identity.changed,
            height=raster.frame.height,
            width=raster.frame.width,
            crs=raster.frame.crs,
            transform=raster.frame.transform,
            tile_sizes=list(sizes),
            checkpoint=to_relative(str(checkpoint.path), path.parent),
            checkpoint_sha256=checkpoint.sha256,
            variant=checkpoint.model.settings.variant,
            vocab=to_relative(str(checkpoint.vocab or ""), path.parent),
        )
        return len(embedding)


def _check_boxes(boxes: np.ndarray, frame: Frame) -> None:
    """Refuses boxes that lie outside of their scene, or are too small for it."""
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
        raise ValueError(f"its scene has {frame.width} x {frame.height} pixels, a tile only {smallest}")


class TileFile:
    """A `tiles-NAME.h5` opened for reading; use it as a context manager.

    Attributes:
        tiles: what is in it. dimensions: of their embeddings. scene: identity of the scene it was made of.
        sizes: of the tiles, in pixels. checkpoint: the file that made it, by its path then;
        checkpoint_sha256: its digest. vocab: path of the vocabulary where the checkpoint carries none, else
        None.

    Raises:
        StoreError: see `open_store`; also when something in it does not fit the scene.
    """

    def __init__(self, path: Path) -> None:
        self._file = open_store(path, TILES)
        try:
            with damage_named(path, TILES):
                frame, boxes = self._read_layout(path.parent)
        except StoreError:
            self._file.close()
            raise
        self.tiles = SceneTiles(frame, boxes, self._blocks, lambda: self._preview[:])

    def _read_layout(self, folder: Path) -> tuple[Frame, np.ndarray]:
        file, attributes = self._file, self._file.attrs
        boxes = array_in(file, "tiles/box", "iu", None, 4)[:].astype(np.int64)
        self._embedding = array_in(file, "tiles/embedding", "f", len(boxes), None)
        self.dimensions = self._embedding.shape[1]
        self._preview = array_in(file, "scene/preview", "u", None, None, 3)
        transform = tuple(map(float, attributes["transform"]))
        height, width = int(attributes["height"]), int(attributes["width"])
        frame = Frame(height, width, text_attribute(file, "crs"), transform)
        self.scene = Identity(
            text_attribute(file, "scene_name"),
            int(attributes["scene_size"]),
            int(attributes["scene_changed"]),
        )
        self.sizes = tuple(map(int, attributes["tile_sizes"]))
        made_by = Path(from_relative(text_attribute(file, "checkpoint"), folder))
        self.checkpoint = relocated_checkpoint(made_by)
        self.checkpoint_sha256 = text_attribute(file, "checkpoint_sha256")
        vocab = text_attribute(file, "vocab")
        self.vocab = Path(from_relative(vocab, folder)) if vocab else None
        if frame.crs:
            require_rasterio().crs.CRS.from_wkt(frame.crs)  # a ValueError, where nobody knows it
        if len(transform) != 6 or not np.isfinite(transform).all():
            raise ValueError(f"its transform is {transform}")
        if not len(boxes):
            raise ValueError("it holds no tile")
        _check_boxes(boxes, frame)
        return frame, boxes.astype(np.int32)

    def _blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(self._embedding), BLOCK):
            embedding = read_rows(self._embedding, start, start + BLOCK)
            yield np.arange(start, start + len(embedding)), embedding

    def __enter__(self) -> TileFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
