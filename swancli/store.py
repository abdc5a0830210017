"""The HDF5 files that one step hands to the next.

    prepare -> dataset.h5 -> vocab -> vocab.h5 -> train -> best.pt -> embed -> embeddings.h5 -> eval, query

Every file carries the attributes `format`, `version`, `created_by` and `complete`. The layouts are a public
contract (README, "Files"); this module is their only writer and reader. Letters in shapes: N images,
M captions, H x W pixels, D embedding, V words.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from swancli import __version__
from swancli.errors import StoreError, SwanError
from swancli.files import atomic_path
from swancli.hdf5_writing import StoreFile, writing
from swancli.images import decode_image, leads_out
from swancli.joined_rows import JoinedRows, Runs, virtual_layout

VERSION = 1
DATASET, VOCABULARY, EMBEDDINGS = "swan-dataset", "swan-vocab", "swan-embeddings"
FEATURES = "swan-features"  # see `features`
INDEX = "swan-index"  # see `query.index`
TILES = "swan-tiles"  # see `query.tiles`
PART = "swan-embeddings-part"  # a piece or a shard of embeddings, see `archive`
MADE_BY = {
    DATASET: "swan prepare",
    VOCABULARY: "swan vocab",
    EMBEDDINGS: "swan embed",
    FEATURES: "swan prepare --features",
    INDEX: "swan embed --index",
    TILES: "swan embed --scene-image",
    PART: "swan embed --shard",
}
IMAGE_VECTORS = "images/embedding"
SPLITS = ("train", "val", "test")
TEXT = h5py.string_dtype(encoding="utf-8")
BLOCK = 2**14  # rows of embeddings read or written at a time: 32 MB of 512 dimensions
LENGTH_ERROR = 1e-2  # of an L2-normalised vector at most; what swan writes is off by 1e-6
# What h5py and numpy raise where a file holds something else than it should, or where its bytes are damaged.
DAMAGE = (KeyError, IndexError, ValueError, TypeError, AttributeError, OSError, RuntimeError, MemoryError)


@contextmanager
def create_store(path: Path, kind: str) -> Iterator[StoreFile]:
    """A new HDF5 file of a kind (a key of `MADE_BY`), complete when the body ends.

    Raises:
        SwanError: the disk is full.
    """
    with atomic_path(path) as temporary, writing(temporary) as file:
        file.attrs.update(format=kind, version=VERSION, created_by=f"swancli {__version__}")
        yield file
        file.attrs["complete"] = True


def open_store(path: Path, kind: str) -> h5py.File:
    """Opens a store for reading.

    Raises:
        StoreError: the file is absent, not HDF5, of another format or version, not complete, or part of it
            lies in another file: a stranger's could show any file of this machine as pictures. Embeddings may
            lie in their shards, when each is there and as it was when they were joined.
    """
    again = f"make it with `{MADE_BY[kind]}`"
    if not path.is_file():
        raise StoreError(f"{path}: no such file", again)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise StoreError(f"{path}: not a readable HDF5 file ({error})", again) from error
    try:
        with damage_named(path, kind):
            found, version, complete = (_single(file, name) for name in ("format", "version", "complete"))
        if found != kind:
            raise StoreError(
                f"{path}: a {kind} file is needed, its format attribute says {found or 'nothing'}", again
            )
        if version != VERSION:
            raise StoreError(f"{path}: version {version} of {kind}; this swan reads version {VERSION}", again)
        if not complete:
            raise StoreError(f"{path}: not complete, the command that wrote it was interrupted", again)
        with damage_named(path, kind):
            joined = kind == EMBEDDINGS and "shards/file" in file
            elsewhere = _leading_elsewhere(file, IMAGE_VECTORS if joined else "")
        if elsewhere:
            problem = f"{path}: its /{elsewhere} lies in another file, which no swan writes and none reads"
            raise StoreError(problem, again)
        if joined:
            _check_shards(path, file)
    except StoreError:
        file.close()
        raise
    return file


def _single(file: h5py.File, name: str) -> Any:
    """An attribute that is one value; None where there is none."""
    value = file.attrs.get(name)
    if getattr(value, "shape", ()) != ():
        raise ValueError(f"its attribute {name} has the shape {value.shape}")
    return _as_text(value) if isinstance(value, (bytes, str)) else value


@contextmanager
def damage_named(name: Path | str, kind: str) -> Iterator[None]:
    """Around reading what is in a store: where the file is damaged, the error names it.

    Raises:
        StoreError: something else is there than the layout says, or bytes cannot be read.
    """
    try:
        yield
    except DAMAGE as error:
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        reason = text.partition("\n")[0]
        raise StoreError(f"{name}: damaged ({reason})", f"make it again: {MADE_BY[kind]}") from error


def _leading_elsewhere(file: h5py.File, virtual: str) -> str:
    """Name of a link or an array in a file whose content lies in another file; "" when there is none.

    Args:
        virtual: an array that may be virtual.
    """

    def check(name: bytes, link: h5py.h5l.LinkInfo) -> str | None:
        if link.type == h5py.h5l.TYPE_HARD:
            found = file[name]
            outside = isinstance(found, h5py.Dataset) and bool(found.is_virtual or found.external)
            outside = outside and not (found.is_virtual and name.decode(errors="replace") == virtual)
        else:
            outside = link.type != h5py.h5l.TYPE_SOFT
        return name.decode(errors="replace") if outside else None

    return file.id.links.visit(check, info=True) or ""


SHARD_NAME = re.compile(r"([^/\\\0]+)\.shards/(\d+)-of-(\d+)\.h5")


def _check_shards(path: Path, file: h5py.File) -> None:
    """Refuses joined embeddings unless each shard is there, and is the one that was joined."""
    with damage_named(path, EMBEDDINGS):
        names = texts_in(file, "shards/file")
        digests = texts_in(file, "shards/digest", len(names))
        rows, width = array_in(file, IMAGE_VECTORS, "f", None, None).shape
        parsed = [SHARD_NAME.fullmatch(name) for name in names]
        if not all(parsed) or len({match[1] for match in parsed if match}) != 1:
            raise ValueError("its shards are not those of one folder beside it")
    lengths = []
    for match, digest in zip(parsed, digests, strict=True):
        shard = _beside(file) / match[0]
        again = f"put it back, or make it again: swan embed --shard {match[2]}/{match[3]} --resume"
        if leads_out(shard, _beside(file)):
            raise StoreError(f"{path}: its shard {shard} is a link that leads elsewhere", again)
        try:
            with open_store(shard, PART) as part, damage_named(shard, PART):
                lengths.append(len(array_in(part, IMAGE_VECTORS, "f", None, width)))
                same = text_attribute(part, "digest") == digest
        except StoreError as error:
            raise StoreError(f"{path}: lacks a shard: {error.problem}", again) from error
        if not same:
            raise StoreError(f"{path}: its shard {shard} is another one than was joined", again)
    with damage_named(path, EMBEDDINGS):
        _read_runs(file).check(lengths, rows)


def _read_runs(file: h5py.File) -> Runs:
    """Where the rows of joined embeddings lie; asking HDF5 for it takes seconds where many are repeated."""
    names = [f"shards/{name}" for name in ("start", "part", "first")]
    return Runs(*(array_in(file, name, "iu", None)[:].astype(np.int64) for name in names))


def _beside(file: h5py.File) -> Path:
    """The folder that the shards of joined embeddings are looked for in."""
    return Path(file.filename).resolve().parent


def _as_text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def text_attribute(file: h5py.File, name: str, default: str | None = None) -> str:
    """An attribute that is text.

    Raises:
        KeyError: it is not there, and has no default. TypeError: it is something else.
    """
    value = file.attrs[name] if default is None else file.attrs.get(name, default)
    if not isinstance(value, (str, bytes)):
        raise TypeError(f"its attribute {name} is no text")
    return _as_text(value)


def array_in(file: h5py.File, name: str, kinds: str, *shape: int | None) -> h5py.Dataset:
    """An array of a store, when it is as the layout says; none of it is read.

    Args:
        kinds: of numpy's types, as in `dtype.kind`: "iu" for whole numbers, "f" for fractions.
        shape: its size on each axis, None for any.

    Raises:
        KeyError: it is not there. TypeError, ValueError: its type or its shape is another.
    """
    if name not in file:
        raise KeyError(f"no /{name}")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise TypeError(f"/{name} is no array")
    fits = found.shape is not None and len(found.shape) == len(shape)
    if not fits or any(size not in (None, own) for size, own in zip(shape, found.shape, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"/{name} has the shape {found.shape}, not ({wanted})")
    if found.dtype.kind not in kinds:
        raise TypeError(f"/{name} holds {found.dtype}")
    return found


def texts_in(file: h5py.File, name: str, rows: int | None = None) -> np.ndarray:
    """object (n,) of str: a column of text; raises as `array_in` does, and UnicodeDecodeError."""
    return array_in(file, name, "OS", rows).asstr()[:]


# ---------------------------------------------------------------------------------------------------------
# what is known of images and captions beside pixels and embeddings


@dataclass(frozen=True)
class Catalogue:
    """The rows of a data set, in the source's order.

    filename: object (N,) of str; scene, split: object (N,) of str or None; text: object (M,) of str;
    image: int64 (M,), the row of the image that each caption describes, -1 when there is none.
    """

    filename: np.ndarray
    scene: np.ndarray
    split: np.ndarray
    text: np.ndarray
    image: np.ndarray

    @classmethod
    def of(
        cls,
        filename: Iterable[str] = (),
        scene: Iterable[str | None] = (),
        split: Iterable[str | None] = (),
        text: Iterable[str] = (),
        image: Iterable[int] = (),
    ) -> Catalogue:
        """Built from plain sequences."""
        return cls(
            *(_objects(column) for column in (filename, scene, split, text)),
            np.asarray(list(image), dtype=np.int64),
        )

    def image_rows(self, split: str | None) -> np.ndarray:
        """int64 (n,): the rows of a split's images; of all images for None."""
        return np.arange(len(self.filename)) if split is None else np.flatnonzero(self.split == split)

    def fingerprint(self) -> str:
        """A hash of file names, splits and captions: equal when the same is trained and tested on.

        The order of the rows does not count.
        """
        images = [f"{name}\0{split}" for name, split in zip(self.filename, self.split, strict=True)]
        captions = [f"{images[row]}\0{text}" for row, text in zip(self.image, self.text, strict=True)]
        rows = "\n".join([*sorted(images), *sorted(captions)])
        return hashlib.sha256(rows.encode()).hexdigest()

    def select(self, images: np.ndarray) -> tuple[Catalogue, np.ndarray]:
        """The catalogue of some images and their captions alone, and the rows of those captions here.

        Args:
            images: int64 (n,), rows of images, in the order wanted.
        """
        place = np.full(len(self.filename) + 1, -1, dtype=np.int64)  # the last one serves image -1
        place[images] = np.arange(len(images))
        captions = np.flatnonzero(place[self.image] >= 0)
        chosen = Catalogue(
            self.filename[images],
            self.scene[images],
            self.split[images],
            self.text[captions],
            place[self.image[captions]],
        )
        return chosen, captions


def different_names(column: np.ndarray) -> list[str]:
    """The different names in a scene or split column, in order."""
    return sorted({name for name in column if name})


def names_in(column: np.ndarray) -> str:
    """The different names in a scene or split column, for a message; "" when there are none."""
    return ", ".join(different_names(column))


def _objects(values: Iterable[Any]) -> np.ndarray:
    values = list(values)
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def write_catalogue(file: h5py.File, catalogue: Catalogue) -> None:
    """Writes `/images/{filename,scene,split}` and `/captions/{text,image}`.

    A category is stored as int32 codes with its names beside it (`scene_names`, `split_names`); -1 is none.
    """
    file.create_dataset("images/filename", data=catalogue.filename, dtype=TEXT)
    for name in ("scene", "split"):
        column = getattr(catalogue, name)
        names = sorted({value for value in column if value is not None})
        code = {value: index for index, value in enumerate(names)}
        codes = np.array([code.get(value, -1) for value in column], dtype=np.int32)
        file.create_dataset(f"images/{name}", data=codes)
        file.create_dataset(f"images/{name}_names", data=_objects(names), dtype=TEXT)
    file.create_dataset("captions/text", data=catalogue.text, dtype=TEXT)
    file.create_dataset("captions/image", data=catalogue.image)


def read_catalogue(file: h5py.File) -> Catalogue:
    """Reads what `write_catalogue` wrote.

    Raises:
        StoreError: a column is missing or damaged, or a caption belongs to an image row that does not exist.
    """
    with damage_named(file.filename, text_attribute(file, "format")):
        filename = texts_in(file, "images/filename")
        categories = []
        for name in ("scene", "split"):
            names = texts_in(file, f"images/{name}_names")
            codes = array_in(file, f"images/{name}", "iu", len(filename))[:].astype(np.int64)
            _check_rows(codes, len(names), f"/images/{name}")
            categories.append(np.append(names, None)[codes])  # -1 picks this last one
        text = texts_in(file, "captions/text")
        image = array_in(file, "captions/image", "iu", len(text))[:].astype(np.int64)
        _check_rows(image, len(filename), "/captions/image")
    return Catalogue(_objects(filename), *map(_objects, categories), _objects(text), image)


def _check_rows(numbers: np.ndarray, count: int, name: str) -> None:
    """Refuses a number that stands for none of so many things, nor, as -1, for nothing."""
    odd = np.flatnonzero((numbers < -1) | (numbers >= count))
    if len(odd):
        raise ValueError(f"{name}[{odd[0]}] is {numbers[odd[0]]}, and there are {count}")


# ---------------------------------------------------------------------------------------------------------
# dataset.h5


class DatasetWriter:
    """Takes the images of a new `dataset.h5` one by one, in the source's order; see `create_dataset`."""

    def __init__(self, file: StoreFile, shape: tuple[int, int] | None) -> None:
        self._file = file
        self._digests: list[str] = []
        if shape:
            size = (0, *shape, 3)
            self._images = file.create_dataset(
                "images/pixels", size, np.uint8, maxshape=(None, *shape, 3), chunks=(1, *shape, 3)
            )
        else:
            kind = h5py.vlen_dtype(np.uint8)
            self._images = file.create_dataset("images/encoded", (0,), kind, maxshape=(None,), chunks=(1,))

    def add(self, image: np.ndarray | bytes, digest: str) -> None:
        """Appends an image: uint8 (H, W, 3) pixels of the data set's shape, or its original bytes."""
        self._images.resize(len(self._digests) + 1, axis=0)
        self._images[-1] = np.frombuffer(image, np.uint8) if isinstance(image, bytes) else image
        self._digests.append(digest)
        self._file.check()

    def finish(self, catalogue: Catalogue, skipped: Sequence[tuple[str, str]] = ()) -> None:
        """Writes the columns; `skipped` holds a file name and a reason for each image left out."""
        write_catalogue(self._file, catalogue)
        self._file.create_dataset("images/digest", data=_objects(self._digests), dtype=TEXT)
        self._file.attrs["digest"] = content_digest(catalogue, self._digests)
        _write_skipped(self._file, skipped)


def _write_skipped(file: h5py.File, skipped: Sequence[tuple[str, str]]) -> None:
    """Writes `/skipped/{filename,reason}`."""
    for column, name in enumerate(("filename", "reason")):
        values = _objects(row[column] for row in skipped)
        file.create_dataset(f"skipped/{name}", data=values, dtype=TEXT)


@contextmanager
def create_dataset(path: Path, name: str, shape: tuple[int, int] | None) -> Iterator[DatasetWriter]:
    """A new `dataset.h5`: `/images/pixels` of height x width `shape`, or for None `/images/encoded`."""
    with create_store(path, DATASET) as file:
        file.attrs["dataset"] = name
        yield DatasetWriter(file, shape)


def content_digest(catalogue: Catalogue, digests: Sequence[str]) -> str:
    """A hash of names, captions and pixels, whatever the splits and the order of the rows.

    Args:
        digests: of each image's pixels.
    """
    images = [f"{name}\0{digest}" for name, digest in zip(catalogue.filename, digests, strict=True)]
    captions = [
        f"{catalogue.filename[row]}\0{text}"
        for row, text in zip(catalogue.image, catalogue.text, strict=True)
    ]
    rows = "\n".join([*sorted(images), *sorted(captions)])
    return hashlib.blake2b(rows.encode(), digest_size=16).hexdigest()


class Dataset:
    """A `dataset.h5` opened for reading; use it as a context manager.

    Attributes:
        name: the data set's name. catalogue: its rows. digest: see `content_digest`; "" in files of an
        earlier swan.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_store(path, DATASET)
        try:
            with damage_named(path, DATASET):
                self.name = text_attribute(self._file, "dataset")
                self.digest = text_attribute(self._file, "digest", "")
                self.catalogue = read_catalogue(self._file)
                self._pixels, self._encoded = self._find_images(len(self.catalogue.filename))
        except StoreError:
            self._file.close()
            raise

    def _find_images(self, count: int) -> tuple[h5py.Dataset | None, h5py.Dataset | None]:
        """`/images/pixels` and `/images/encoded`, of which a file has one: a row for each file name."""
        if "images/digest" in self._file:
            array_in(self._file, "images/digest", "OS", count)
        if "images/pixels" not in self._file:
            return None, array_in(self._file, "images/encoded", "O", count)
        pixels = array_in(self._file, "images/pixels", "u", count, None, None, 3)
        if pixels.dtype != np.uint8 or not all(pixels.shape[1:]):
            raise ValueError(f"/images/pixels holds {pixels.dtype} of the shape {pixels.shape}")
        return pixels, None

    def image(self, row: int) -> np.ndarray:
        """uint8 (H, W, 3): the RGB pixels of one image.

        Raises:
            StoreError, ImageError: the file is damaged there.
        """
        name = f"{self.path}, image {self.catalogue.filename[row]}"
        with damage_named(name, DATASET):
            if self._pixels is not None:
                return self._pixels[row]
            encoded = np.asarray(self._encoded[row], np.uint8).tobytes()
        return decode_image(encoded, name)

    def digests(self, rows: np.ndarray) -> np.ndarray | None:
        """object (n,) of str: a hash of the pixels of some images; None when the file has none.

        Raises:
            StoreError: the file is damaged there.
        """
        with damage_named(self.path, DATASET):
            if "images/digest" not in self._file:
                return None
            return texts_in(self._file, "images/digest", len(self.catalogue.filename))[rows]

    def rows_of(self, split: str) -> np.ndarray:
        """int64 (n,): the image rows of a split that has captions.

        Raises:
            SwanError: the split has none.
        """
        rows = self.catalogue.image_rows(split)
        if not np.isin(rows, self.catalogue.image).any():
            there = names_in(self.catalogue.split)
            raise SwanError(
                f"{self.path}: no captions in split {split!r} (it has {there or 'no splits'})",
                "choose another --split, or prepare again with --split random or --split stratified",
            )
        return rows

    def close(self) -> None:
        """What leaving its context does."""
        self._file.close()

    def __enter__(self) -> Dataset:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# ---------------------------------------------------------------------------------------------------------
# embeddings.h5


@dataclass(frozen=True)
class Embeddings:
    """An `embeddings.h5`, in memory or, by `open_embeddings`, with its vectors still in the file.

    image: float32 (N, D) and caption: float32 (M, D), L2-normalised rows; catalogue: the same N and M rows.
    dataset: name of the data set or folder; checkpoint: path of the checkpoint that made them, stored
    relative to the file so that both can move together; checkpoint_sha256: its digest; variant: the model's;
    vocab: path of the vocabulary where the checkpoint carries none (stored likewise), else "".
    pictures: path of the `dataset.h5` or the folder that the images came from (stored likewise), else "".
    digest: of `image`, as `write_embeddings` stored it; "" before that, and in files of an earlier swan.
    dataset_digest: of the data set that was embedded, see `content_digest`; "" of folders and lines of text.
    """

    image: np.ndarray | h5py.Dataset | JoinedRows
    caption: np.ndarray | h5py.Dataset
    catalogue: Catalogue
    dataset: str
    checkpoint: str
    checkpoint_sha256: str
    variant: str
    vocab: str = ""
    pictures: str = ""
    digest: str = ""
    dataset_digest: str = ""


PATHS = ("checkpoint", "vocab", "pictures")  # of `Embeddings`


def write_embeddings(
    path: Path,
    embeddings: Embeddings,
    digests: Sequence[str] | None = None,
    shards: Sequence[tuple[Path, Part]] = (),
    identity: str = "",
) -> str:
    """Writes an `embeddings.h5`.

    Args:
        digests: of each image's pixels, where they are known.
        shards: the files in the folder beside it that hold the image embeddings, which are then not copied.
        identity: of the archive whose shards these are.

    Returns:
        The digest of its image embeddings, by which an index knows that it belongs to them.
    """
    with create_store(path, EMBEDDINGS) as file:
        write_catalogue(file, embeddings.catalogue)
        file.create_dataset("captions/embedding", data=embeddings.caption.astype(np.float32, copy=False))
        if digests is not None:
            file.create_dataset("images/digest", data=_objects(digests), dtype=TEXT)
        if shards:
            names = [f"{shard.parent.name}/{shard.name}" for shard, _ in shards]
            lengths = [len(part.image) for _, part in shards]
            layout = virtual_layout(embeddings.image, names, lengths, IMAGE_VECTORS)
            file.create_virtual_dataset(IMAGE_VECTORS, layout)
            file.create_dataset("shards/file", data=_objects(names), dtype=TEXT)
            marks = _objects(part.digest for _, part in shards)
            file.create_dataset("shards/digest", data=marks, dtype=TEXT)
            runs = embeddings.image.runs
            file["shards/start"], file["shards/part"], file["shards/first"] = (
                runs.starts,
                runs.part,
                runs.first,
            )
            file.attrs["identity"] = identity
        digest = _write_vectors(file, embeddings.image, stored=not shards)
        for name in ("dataset", "dataset_digest", "checkpoint_sha256", "variant"):
            file.attrs[name] = getattr(embeddings, name)
        for name in PATHS:
            file.attrs[name] = to_relative(getattr(embeddings, name), path.parent)
    return digest


def _write_vectors(file: StoreFile, vectors: np.ndarray | JoinedRows, stored: bool = True) -> str:
    """Writes `/images/embedding` and its digest, which it returns; the digest alone where that is virtual."""
    image = file.create_dataset(IMAGE_VECTORS, vectors.shape, np.float32) if stored else None

    def write(start: int, block: np.ndarray) -> None:
        if image is not None:
            image[start : start + BLOCK] = block
        file.check()

    file.attrs["digest"] = digest = _digest_of(vectors, write)
    return digest


def _digest_of(
    vectors: np.ndarray | JoinedRows, take: Callable[[int, np.ndarray], None] = lambda start, block: None
) -> str:
    """A hash of vectors, float32 (N, D), read in blocks; each is handed to `take` with its first row."""
    digest = hashlib.blake2b(f"{vectors.shape}".encode(), digest_size=16)
    for start in range(0, len(vectors), BLOCK):
        block = np.ascontiguousarray(vectors[start : start + BLOCK], np.float32)
        take(start, block)
        digest.update(block)
    return digest.hexdigest()


def to_relative(path: str, folder: Path) -> str:
    """A path as it is stored in a file of a folder, so that both can move together; "" and addresses stay."""
    return os.path.relpath(path, folder) if path and "://" not in path else path


def from_relative(path: str, folder: Path) -> str:
    """The path that `to_relative` stored in a file of a folder; "" and addresses stay."""
    return os.path.normpath(folder / path) if path and "://" not in path else path


def open_embeddings(path: Path) -> Embeddings:
    """An `embeddings.h5` whose vectors stay in the file until slices of them are read.

    It stays open as long as they are held; `with embeddings.image.file:` closes it.

    Raises:
        StoreError: see `open_store`; also when rows and embeddings differ in number or in width.
    """
    file = open_store(path, EMBEDDINGS)
    names = ("dataset", "dataset_digest", "checkpoint_sha256", "variant", "digest", *PATHS)
    try:
        with damage_named(path, EMBEDDINGS):
            catalogue = read_catalogue(file)
            image = array_in(file, "images/embedding", "f", len(catalogue.filename), None)
            caption = array_in(file, "captions/embedding", "f", len(catalogue.text), image.shape[1])
            for values in (image, caption):
                if values.dtype != np.float32:
                    raise TypeError(f"{values.name} holds {values.dtype}, not float32")
            attributes = {name: text_attribute(file, name, "") for name in names}
            if "shards/file" in file:
                image = _in_shards(image)
    except StoreError:
        file.close()
        raise
    attributes |= {name: from_relative(attributes[name], path.parent) for name in PATHS}
    return Embeddings(image, caption, catalogue, **attributes)


def _in_shards(array: h5py.Dataset) -> JoinedRows:
    """A virtual array, read from its shards and never by HDF5.

    That shows zeros for a shard that is gone, looks for it in other places too, follows a stranger's names to
    any file, and crashes at the end of a process.
    """
    paths = [_beside(array.file) / name for name in texts_in(array.file, "shards/file")]
    runs, width = _read_runs(array.file), array.shape[1]
    return JoinedRows(runs, width, lambda number: _part_vectors(paths[number]), array.file, array.name)


def read_embeddings(path: Path) -> Embeddings:
    """Reads an `embeddings.h5` into memory.

    Raises:
        StoreError: see `open_embeddings`.
    """
    stored = open_embeddings(path)
    with stored.image.file:
        image, caption = (read_rows(values, 0, len(values)) for values in (stored.image, stored.caption))
    return replace(stored, image=image, caption=caption)


def digests_differ(digest: str, earlier: str) -> bool:
    """Whether two digests of data sets are known and differ; an earlier swan stored none."""
    return bool(digest and earlier and digest != earlier)


def changed_since(embeddings: Embeddings) -> str:
    """In words, that the data set was prepared anew since it was embedded; "" when not, or not to be told."""
    path, digest = Path(embeddings.pictures), ""
    if not (embeddings.dataset_digest and path.is_file()):
        return ""
    # A damaged one is told when it is read.
    with suppress(StoreError), open_store(path, DATASET) as file, damage_named(path, DATASET):
        digest = text_attribute(file, "digest", "")
    changed = digests_differ(digest, embeddings.dataset_digest)
    again = "its images or captions are others now; make the embeddings again: swan embed"
    return f"{path} was prepared again after it was embedded; {again}" if changed else ""


def read_rows(embedding: h5py.Dataset | JoinedRows, start: int, stop: int) -> np.ndarray:
    """float32 (stop - start, D): some of the vectors in a store, each L2-normalised.

    Raises:
        StoreError: they cannot be read, or one is not normalised or no number; names its row.
    """
    path = Path(embedding.file.filename)
    with damage_named(path, _as_text(embedding.file.attrs.get("format", EMBEDDINGS))):
        vectors = embedding[start:stop]
    check_normalised(vectors, f"{path}: {embedding.name}", start)
    return vectors


def check_normalised(vectors: np.ndarray, name: str, rows: int | np.ndarray = 0) -> None:
    """Refuses vectors whose scores would not be cosine similarities.

    Args:
        vectors: float32 (n, D). name: of the file and the array they come from. rows: the row of the first
            of them there, or int64 (n,) of each.

    Raises:
        StoreError: one is not of length 1, or holds what is no number; names its row.
    """
    length = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    odd = np.flatnonzero(~(np.abs(length - 1) <= LENGTH_ERROR))  # also of NaN
    if len(odd):
        row = odd[0] + rows if isinstance(rows, int) else rows[odd[0]]
        is_number = np.isfinite(length[odd[0]])
        problem = f"has the length {length[odd[0]]:.3g}, not 1" if is_number else "holds what is no number"
        raise StoreError(f"{name}[{row}] {problem}", "make the file again, with a checkpoint that is sound")


def mapped(array: h5py.Dataset | JoinedRows) -> np.ndarray | JoinedRows:
    """A column of a store as an array whose values the system fetches from the file where they are touched.

    So a few rows of many cost nothing else. A column that does not lie in the file in one piece, as no swan
    writes it, is read; so is one of texts or other objects, whose bytes in the file are no values.
    Joined rows are such an array.
    """
    if isinstance(array, JoinedRows):
        return array
    start = array.id.get_offset()
    if start is None or not array.size or array.dtype.hasobject:
        return array[:]
    return np.memmap(array.file.filename, array.dtype, "r", offset=start, shape=array.shape)


# ---------------------------------------------------------------------------------------------------------
# pieces and shards of embeddings


@dataclass(frozen=True)
class Part:
    """A piece or a shard of an archive's embeddings.

    image: float32 (n, D), L2-normalised; catalogue: the same n rows, without splits and captions.
    pixel_digest: object (n,) of str, of each image's pixels. skipped: file name and reason of each image left
    out. digest: of `image`, as `write_part` stored it; "" before that.
    """

    image: np.ndarray | JoinedRows
    catalogue: Catalogue
    pixel_digest: np.ndarray
    skipped: list[tuple[str, str]]
    digest: str = ""


def write_part(path: Path, part: Part, identity: str) -> None:
    """Writes a part of the archive of that identity."""
    with create_store(path, PART) as file:
        file.attrs.update(identity=identity, part=path.stem)
        write_catalogue(file, part.catalogue)
        file.create_dataset("images/digest", data=_objects(part.pixel_digest), dtype=TEXT)
        _write_skipped(file, part.skipped)
        _write_vectors(file, part.image)


def read_part(path: Path, identity: str) -> Part:
    """A part. Its vectors stay in the file, which is open only once they are asked for.

    Args:
        identity: of its archive; "" for any.

    Raises:
        StoreError: see `open_store`; also when it is of another archive, or not the part of its name.
    """
    with open_store(path, PART) as file:
        with damage_named(path, PART):
            found, name = (text_attribute(file, name) for name in ("identity", "part"))
            catalogue = read_catalogue(file)
            image = array_in(file, IMAGE_VECTORS, "f", len(catalogue.filename), None)
            if image.dtype != np.float32:
                raise TypeError(f"/{IMAGE_VECTORS} holds {image.dtype}, not float32")
            names, reasons = texts_in(file, "skipped/filename"), texts_in(file, "skipped/reason")
            lazily = JoinedRows(Runs.of([len(image)]), image.shape[1], lambda _: _part_vectors(path))
            part = Part(
                lazily,
                catalogue,
                texts_in(file, "images/digest", len(image)),
                list(zip(names, reasons, strict=True)),
                text_attribute(file, "digest"),
            )
        if identity and (found, name) != (identity, path.stem):
            raise StoreError(f"{path}: of another archive, or another part", "remove it, and make it again")
    return part


def check_part(path: Path, part: Part) -> None:
    """Reads a part's vectors.

    Raises:
        StoreError: they are not those that were written.
    """
    with damage_named(path, PART):
        digest = _digest_of(part.image)
    if digest != part.digest:
        raise StoreError(f"{path}: its vectors are damaged", "remove it, and run again with --resume")


def joined_parts(
    paths: Sequence[Path], parts: Sequence[Part], width: int, place: np.ndarray | None = None
) -> JoinedRows:
    """float32 (N, D): rows of several parts as one array.

    Args:
        width: D. place: as in `Runs.of`.

    Raises:
        StoreError: a part is of another width.
    """
    for path, part in zip(paths, parts, strict=True):
        if part.image.shape[1] != width:
            raise StoreError(f"{path}: vectors of {part.image.shape[1]} dimensions, not {width}", "remove it")
    runs = Runs.of([len(part.image) for part in parts], place)
    return JoinedRows(runs, width, lambda number: _part_vectors(paths[number]))


def _part_vectors(path: Path) -> np.ndarray:
    with open_store(path, PART) as file, damage_named(path, PART):
        return mapped(array_in(file, IMAGE_VECTORS, "f", None, None))
