"""The HDF5 files that one step hands to the next.

    prepare -> dataset.h5 -> vocab -> vocab.h5 -> train -> best.pt -> embed -> embeddings.h5 -> eval, query

Every file carries the attributes `format`, `version`, `created_by` and `complete`. The layouts are a public
contract (README, "Files"); this module is their only writer and reader. Letters in shapes: N images,
M captions, H x W pixels, D embedding, V words.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from swancli import __version__
from swancli.errors import StoreError, SwanError
from swancli.files import atomic_path
from swancli.images import decode_image

VERSION = 1
DATASET, VOCABULARY, EMBEDDINGS = "swan-dataset", "swan-vocab", "swan-embeddings"
FEATURES = "swan-features"  # see `features`
INDEX = "swan-index"  # see `query.index`
TILES = "swan-tiles"  # see `query.tiles`
MADE_BY = {
    DATASET: "swan prepare",
    VOCABULARY: "swan vocab",
    EMBEDDINGS: "swan embed",
    FEATURES: "swan prepare --features",
    INDEX: "swan embed --index",
    TILES: "swan embed --scene-image",
}
SPLITS = ("train", "val", "test")
TEXT = h5py.string_dtype(encoding="utf-8")
BLOCK = 2**14  # rows of embeddings read or written at a time: 32 MB of 512 dimensions


class _UnfailingFile(io.FileIO):
    """A file that HDF5 writes into; what it could not take is remembered in `error` and told by us.

    HDF5 itself neither survives a write that fails nor closes its file afterwards: the process crashes.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        left = memoryview(data)
        while left and not self.error:
            try:
                left = left[super().write(left) :]
            except OSError as error:
                self.error = error
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def check(self) -> None:
        """Raises what went wrong so far."""
        if self.error:
            raise self.error


class StoreFile(h5py.File):
    """A new store while it is written."""

    def __init__(self, file: _UnfailingFile) -> None:
        super().__init__(file, "w")
        self._target = file

    def check(self) -> None:
        """To be called now and then in a long write, which would go on for nothing on a full disk.

        Raises:
            OSError: something could not be written.
        """
        self._target.check()


@contextmanager
def create_store(path: Path, kind: str) -> Iterator[StoreFile]:
    """A new HDF5 file of a kind (a key of `MADE_BY`), complete when the body ends.

    Raises:
        SwanError: the disk is full.
    """
    with atomic_path(path) as temporary, _UnfailingFile(temporary, "w+") as target:
        try:
            with StoreFile(target) as file:
                file.attrs.update(format=kind, version=VERSION, created_by=f"swancli {__version__}")
                yield file
                file.attrs["complete"] = True
        finally:
            target.check()


def open_store(path: Path, kind: str) -> h5py.File:
    """Opens a store for reading.

    Raises:
        StoreError: the file is absent, not HDF5, of another format or version, not complete, or part of it
            lies in another file: a stranger's could show any file of this machine as pictures.
    """
    again = f"make it with `{MADE_BY[kind]}`"
    if not path.is_file():
        raise StoreError(f"{path}: no such file", again)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise StoreError(f"{path}: not a readable HDF5 file ({error})", again) from error
    found = _as_text(file.attrs.get("format", "nothing"))
    if found != kind:
        problem = f"{path}: a {kind} file is needed, its format attribute says {found}"
    elif file.attrs.get("version") != VERSION:
        problem = f"{path}: version {file.attrs.get('version')} of {kind}; this swan reads version {VERSION}"
    elif not file.attrs.get("complete", False):
        problem = f"{path}: not complete, the command that wrote it was interrupted"
    elif elsewhere := _leading_elsewhere(file):
        problem = f"{path}: its /{elsewhere} lies in another file, which no swan writes and none reads"
    else:
        return file
    file.close()
    raise StoreError(problem, again)


def _leading_elsewhere(file: h5py.File) -> str:
    """Name of a link or an array in a file whose content lies in another file; "" when there is none."""

    def check(name: bytes, link: h5py.h5l.LinkInfo) -> str | None:
        if link.type == h5py.h5l.TYPE_HARD:
            found = file[name]
            outside = isinstance(found, h5py.Dataset) and (found.is_virtual or found.external)
        else:
            outside = link.type != h5py.h5l.TYPE_SOFT
        return name.decode(errors="replace") if outside else None

    return file.id.links.visit(check, info=True) or ""


def _as_text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


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
        StoreError: a column is missing, or a caption belongs to an image row that does not exist.
    """
    try:
        filename = file["images/filename"].asstr()[:]
        categories = []
        for name in ("scene", "split"):
            names = np.append(file[f"images/{name}_names"].asstr()[:], None)  # -1 picks this last one
            codes = file[f"images/{name}"][:]
            if codes.min(initial=-1) < -1:
                raise IndexError(f"/images/{name} holds {codes.min()}, no code")
            categories.append(names[codes])
        text = file["captions/text"].asstr()[:]
        image = file["captions/image"][:].astype(np.int64)
    except (KeyError, IndexError, TypeError, UnicodeDecodeError) as error:
        raise StoreError(f"{file.filename}: damaged columns ({error})", "make the file again") from error
    if any(len(column) != len(filename) for column in categories):
        raise StoreError(f"{file.filename}: /images columns differ in length", "make the file again")
    if len(text) != len(image) or (len(image) and not -1 <= image.min() <= image.max() < len(filename)):
        raise StoreError(
            f"{file.filename}: /captions/image points to images that are not there", "make the file again"
        )
    return Catalogue(_objects(filename), *map(_objects, categories), _objects(text), image)


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
        for column, name in enumerate(("filename", "reason")):
            values = _objects(row[column] for row in skipped)
            self._file.create_dataset(f"skipped/{name}", data=values, dtype=TEXT)


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
            self.name = _as_text(self._file.attrs["dataset"])
            self.digest = _as_text(self._file.attrs.get("digest", ""))
            self.catalogue = read_catalogue(self._file)
            images = self._file["images"]
            self._pixels = images.get("pixels")
            self._encoded = images["encoded"] if self._pixels is None else None
            self._check_lengths(images)
        except KeyError as error:
            self._file.close()
            raise StoreError(f"{path}: damaged ({error})", f"make it again: {MADE_BY[DATASET]}") from error
        except StoreError:
            self._file.close()
            raise

    def _check_lengths(self, images: h5py.Group) -> None:
        """Refuses images that are not one for each file name: they would stand beside wrong captions."""
        names = [name for name in ("pixels", "encoded", "digest") if name in images]
        counts = {name: len(images[name]) for name in ("filename", *names)}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{count} of /images/{name}" for name, count in counts.items())
            raise StoreError(f"{self.path}: rows do not fit: {told}", "make the file again")

    def image(self, row: int) -> np.ndarray:
        """uint8 (H, W, 3): the RGB pixels of one image."""
        if self._pixels is not None:
            return self._pixels[row]
        name = f"{self.path}, image {self.catalogue.filename[row]}"
        return decode_image(self._encoded[row].tobytes(), name)

    def digests(self, rows: np.ndarray) -> np.ndarray | None:
        """object (n,) of str: a hash of the pixels of some images; None when the file has none."""
        return self._file["images/digest"].asstr()[:][rows] if "images/digest" in self._file else None

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

    def __enter__(self) -> Dataset:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


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

    image: np.ndarray | h5py.Dataset
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


def write_embeddings(path: Path, embeddings: Embeddings) -> str:
    """Writes an `embeddings.h5`.

    Returns:
        The digest of its image embeddings, by which an index knows that it belongs to them.
    """
    digest = hashlib.blake2b(f"{embeddings.image.shape}".encode(), digest_size=16)
    with create_store(path, EMBEDDINGS) as file:
        write_catalogue(file, embeddings.catalogue)
        file.create_dataset("captions/embedding", data=embeddings.caption.astype(np.float32, copy=False))
        image = file.create_dataset("images/embedding", embeddings.image.shape, np.float32)
        for start in range(0, len(image), BLOCK):
            block = np.ascontiguousarray(embeddings.image[start : start + BLOCK], np.float32)
            image[start : start + BLOCK] = block
            digest.update(block)
        for name in ("dataset", "dataset_digest", "checkpoint_sha256", "variant"):
            file.attrs[name] = getattr(embeddings, name)
        for name in PATHS:
            file.attrs[name] = to_relative(getattr(embeddings, name), path.parent)
        file.attrs["digest"] = digest.hexdigest()
    return digest.hexdigest()


def to_relative(path: str, folder: Path) -> str:
    """A path as it is stored in a file of a folder, so that both can move together; "" stays."""
    return os.path.relpath(path, folder) if path else ""


def from_relative(path: str, folder: Path) -> str:
    """The path that `to_relative` stored in a file of a folder; "" stays."""
    return os.path.normpath(folder / path) if path else ""


def open_embeddings(path: Path) -> Embeddings:
    """An `embeddings.h5` whose vectors stay in the file until slices of them are read.

    It stays open as long as they are held; `with embeddings.image.file:` closes it.

    Raises:
        StoreError: see `open_store`; also when rows and embeddings differ in number or in width.
    """
    file = open_store(path, EMBEDDINGS)
    try:
        catalogue = read_catalogue(file)
        image, caption = file["images/embedding"], file["captions/embedding"]
        if (
            len(image) != len(catalogue.filename)
            or len(caption) != len(catalogue.text)
            or image.shape[1:] != caption.shape[1:]
            or image.ndim != 2
        ):
            raise StoreError(f"{path}: embeddings {image.shape} and {caption.shape} do not fit its rows")
        if not image.dtype == caption.dtype == np.float32:
            raise StoreError(f"{path}: embeddings of type {image.dtype} and {caption.dtype}, not float32")
    except KeyError as error:
        file.close()
        raise StoreError(f"{path}: damaged ({error})", f"make it again: {MADE_BY[EMBEDDINGS]}") from error
    except StoreError:
        file.close()
        raise
    names = ("dataset", "dataset_digest", "checkpoint_sha256", "variant", "digest", *PATHS)
    attributes = {name: _as_text(file.attrs.get(name, "")) for name in names}
    attributes |= {name: from_relative(attributes[name], path.parent) for name in PATHS}
    return Embeddings(image, caption, catalogue, **attributes)


def read_embeddings(path: Path) -> Embeddings:
    """Reads an `embeddings.h5` into memory.

    Raises:
        StoreError: see `open_embeddings`.
    """
    stored = open_embeddings(path)
    with stored.image.file:
        return replace(stored, image=stored.image[:], caption=stored.caption[:])


def changed_since(embeddings: Embeddings) -> str:
    """In words, that the data set was prepared anew since it was embedded; "" when not, or not to be told."""
    path, digest = Path(embeddings.pictures), ""
    if not (embeddings.dataset_digest and path.is_file()):
        return ""
    with suppress(StoreError), open_store(path, DATASET) as file:  # a damaged one is told when it is read
        digest = _as_text(file.attrs.get("digest", ""))
    changed = digest and digest != embeddings.dataset_digest
    again = "its images or captions are others now; make the embeddings again: swan embed"
    return f"{path} was prepared again after it was embedded; {again}" if changed else ""


def mapped(column: h5py.Dataset) -> np.ndarray:
    """A column of a store as an array whose values the system fetches from the file where they are touched.

    So a few rows of many cost nothing else. A column that does not lie in the file in one piece, as no swan
    writes it, is read; so is one of texts or other objects, whose bytes in the file are no values.
    """
    start = column.id.get_offset()
    if start is None or not column.size or column.dtype.hasobject:
        return column[:]
    return np.memmap(column.file.filename, column.dtype, "r", offset=start, shape=column.shape)
