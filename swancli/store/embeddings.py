"""`embeddings.h5`: images and captions in the joint space, as `swan embed` writes them.

Letters in shapes: N images, M captions, D embedding.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from swancli.errors import StoreError, SwanError
from swancli.images import AS_SAID, Rendering
from swancli.store.atomic import atomic_path
from swancli.store.catalogue import Catalogue, read_catalogue, write_catalogue, write_skipped
from swancli.store.hdf5 import (
    DATASET,
    EMBEDDINGS,
    array_in,
    create_store,
    damage_named,
    from_relative,
    reading,
    text_attribute,
    to_relative,
    write_source,
    write_text_attribute,
    write_texts,
)
from swancli.store.made_by import MadeBy
from swancli.store.rendering import read_rendering, write_rendering
from swancli.store.vectors import IMAGE_VECTORS, Rows, read_rows, write_vectors

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Embeddings:
    """The content of an `embeddings.h5`, in memory or, from `open_embeddings`, with its vectors in the file.

    image: float32 (N, D), L2-normalised.
    caption: float32 (M, D), L2-normalised.
    catalogue: of the N images and M captions.
    dataset: name of the data set or folder.
    made_by: the checkpoint that made them.
    pictures: the `dataset.h5`, folder or address that the images came from; "" if there is none.
    source: what was embedded, in full: `pictures`, or the file that the lines of text came from.
    digest: of `image`, as `write_embeddings` stored it; "" before that.
    dataset_digest: `Dataset.digest` of the data set; "" for folders and lines of text.
    seen: uint8 (N,), `SeenImages.marks` of a data set's images; None if it is not known what the checkpoint
        was trained on, or there is no data set.
    rendering: how the samples of the images became colours.
    """

    image: np.ndarray | h5py.Dataset | Rows
    caption: np.ndarray | h5py.Dataset
    catalogue: Catalogue
    dataset: str
    made_by: MadeBy
    pictures: str = ""
    digest: str = ""
    dataset_digest: str = ""
    seen: np.ndarray | None = None
    rendering: Rendering = AS_SAID
    source: str = ""

    def to_frame(self) -> pd.DataFrame:
        """The images as a table: filename, scene, split, and embedding, a float32 (D,) array per row."""
        import pandas as pd

        catalogue = self.catalogue
        columns = {"filename": catalogue.filename, "scene": catalogue.scene, "split": catalogue.split}
        return pd.DataFrame(columns | {"embedding": list(self.image[:])})


def write_embeddings(
    path: str | PathLike[str],
    embeddings: Embeddings,
    digests: Sequence[str],
    identity: str = "",
    skipped: Sequence[tuple[str, str]] = (),
) -> str:
    """Writes an `embeddings.h5`; one block of image embeddings is in memory at a time.

    Args:
        path: where it is written; raises as `create_store`.
        embeddings: what is written.
        digests: a hash of each image's pixels.
        identity: of the archive that was embedded, see `embed.archive`; "" if there is none.
        skipped: file name and reason of each image left out.

    Returns:
        The digest of its image embeddings, by which an index recognises them.
    """
    path = Path(path)
    with create_store(path, EMBEDDINGS) as file:
        write_catalogue(file, embeddings.catalogue)
        file.create_dataset("captions/embedding", data=embeddings.caption.astype(np.float32, copy=False))
        write_texts(file, "images/digest", digests)
        if embeddings.seen is not None:
            file["images/seen"] = embeddings.seen
        digest = write_vectors(file, embeddings.image)
        write_skipped(file, skipped)
        file.attrs["identity"] = identity
        write_text_attribute(file, "dataset", embeddings.dataset)
        file.attrs["dataset_digest"] = embeddings.dataset_digest
        write_text_attribute(file, "pictures", to_relative(embeddings.pictures, path.parent))
        write_source(file, embeddings.source or embeddings.pictures, path.parent)
        write_rendering(file, embeddings.rendering)
        embeddings.made_by.write(file, path.parent)
    return digest


def store_match(path: Path, match: str) -> None:
    """Gives an `embeddings.h5` another match threshold, see `MadeBy.match`; the file is replaced whole."""
    with atomic_path(path) as temporary:
        shutil.copyfile(path, temporary)
        with h5py.File(temporary, "r+", locking=False) as file:
            file.attrs["match"] = match


def find_embeddings(path: Path, identity: str) -> Embeddings | None:
    """The embeddings of an archive, opened; None if the file at a path is absent, damaged or of another."""
    with suppress(StoreError):
        embeddings = open_embeddings(path)
        with damage_named(path, EMBEDDINGS):
            found = text_attribute(embeddings.image.file, "identity")
        if found == identity:
            return embeddings
        embeddings.image.file.close()
    return None


def open_embeddings(path: str | PathLike[str]) -> Embeddings:
    """An `embeddings.h5` whose vectors stay in the file until slices of them are read.

    The file stays open as long as they are used; `with embeddings.image.file:` closes it.

    Raises:
        StoreError: as `open_store`; also if rows and embeddings differ in number or in width.
    """
    path = Path(path)
    with reading(path, EMBEDDINGS, stay_open=True) as file:
        catalogue = read_catalogue(file)
        image = array_in(file, IMAGE_VECTORS, "f", len(catalogue.filename), None)
        caption = array_in(file, "captions/embedding", "f", len(catalogue.text), image.shape[1])
        for values in (image, caption):
            if values.dtype != np.float32:
                raise TypeError(f"{values.name} contains {values.dtype}, not float32")
        array_in(file, "images/digest", "OS", len(image))
        names = ("dataset", "dataset_digest", "digest", "pictures")
        attributes = {name: text_attribute(file, name) for name in names}
        attributes["pictures"] = from_relative(attributes["pictures"], path.parent)
        made_by = MadeBy.read(file, path.parent, image.shape[1])
        attributes["rendering"] = read_rendering(file)
        seen = array_in(file, "images/seen", "u", len(image))[:] if "images/seen" in file else None
    return Embeddings(image, caption, catalogue, made_by=made_by, seen=seen, **attributes)


def read_embeddings(path: str | PathLike[str]) -> Embeddings:
    """Reads an `embeddings.h5` into memory.

    Raises:
        StoreError: as `open_embeddings`; also if an embedding is not normalised.
    """
    stored = open_embeddings(path)
    with stored.image.file:
        image, caption = (read_rows(values, 0, len(values)) for values in (stored.image, stored.caption))
    return replace(stored, image=image, caption=caption)


def changed_since(embeddings: Embeddings) -> str:
    """A warning if the data set has changed since it was embedded; "" if it has not, or is gone."""
    path = Path(embeddings.pictures)
    digest = embeddings.dataset_digest
    if not (digest and path.is_file()):
        return ""
    with suppress(SwanError), reading(path, DATASET) as file:  # an error is reported where it is read
        digest = text_attribute(file, "digest")
    if digest == embeddings.dataset_digest:
        return ""
    return (
        f"{path} was prepared again after it was embedded; its images, captions or splits have changed; "
        "make the embeddings again: swan embed"
    )
