"""A vector database past one machine's memory: embeddings.h5 -> a collection of Milvus, see `collection`.

swan embed --to milvus://                               # Milvus Lite, embedded, in milvus.db under the root
swan embed --embeddings FILE --to milvus://host:19530   # a file that stands, to a cluster

A collection holds the image vectors of one checkpoint, and says of which. Lite's index (FLAT) looks at every
vector; a cluster's is the one that it chooses (AUTOINDEX). Letters in shapes: N images, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swancli.errors import SwanError
from swancli.machine.progress import Progress, quiet
from swancli.milvus.collection import (
    CARD,
    OTHER_COLLECTION,
    Address,
    card_text,
    connected,
    count_images,
    patience,
    read_card,
    reason_of,
)
from swancli.store.digest import content_digest
from swancli.store.embeddings import Embeddings, open_embeddings
from swancli.store.hdf5 import EMBEDDINGS, damage_named, texts_in
from swancli.store.made_by import MadeBy
from swancli.store.vectors import BLOCK, read_rows

if TYPE_CHECKING:
    from pymilvus import MilvusClient


BATCH = 1024  # images a request: 2 MB of 512 dimensions. From 500 to 2,000 Lite takes as many a second
TEXT_BYTES = 65_535  # of a text in a column, as many as Milvus allows
FACTS = ("filename", "scene", "split", "dataset", "checkpoint")  # columns beside `id` and `embedding`


# ---------------------------------------------------------------------------------------------------------
# connections and collections


def _open_for_upload(client: MilvusClient, address: Address, made_by: MadeBy) -> None:
    """The collection, made where there is none, with its index, ready to be asked.

    A process that was killed between these steps leaves what the next one goes on with.
    """
    from pymilvus import DataType

    found, name = read_card(client, address), address.collection
    if found:
        found.check(made_by, address, OTHER_COLLECTION)
    else:
        card = card_text(made_by)
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False, description=card)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=32)
        schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=made_by.dimensions)
        for column in FACTS:
            absent = column in ("scene", "split")
            schema.add_field(column, DataType.VARCHAR, max_length=TEXT_BYTES, nullable=absent)
        # Strong: who asks after an upload finds all of it, on whichever machine of a cluster.
        consistency = {} if address.is_lite else {"consistency_level": "Strong"}
        client.create_collection(name, schema=schema, properties={CARD: card}, **consistency)
    if not client.list_indexes(name):
        index = client.prepare_index_params()
        kind = "FLAT" if address.is_lite else "AUTOINDEX"
        index.add_index("embedding", index_type=kind, metric_type="IP")
        client.create_index(name, index, sync=False)  # of no vector yet, so there is nothing to wait for
    client.load_collection(name)


# ---------------------------------------------------------------------------------------------------------
# upload


@dataclass(frozen=True)
class Upload:
    """What came of an upload, in images. changed: were there with another scene or split.

    stood: were there as they are, or came twice. total: in the collection now.
    """

    new: int
    changed: int
    stood: int
    total: int


def content_key(dataset: str, filename: str, pixels: str) -> str:
    """32 hexadecimal characters that stand for an image: equal for the same data set, name and picture.

    Args:
        pixels: the digest of its pixels. Its vector would not do: embedding again with another batch size, or
            on another machine, changes the last bits of it.
    """
    return content_digest([dataset, filename, pixels])


def upload(path: str | PathLike[str], address: Address, progress: Progress = quiet) -> Upload:
    """Brings the image vectors of an embeddings file into a collection, made where there is none.

    What stands there already is passed over, so it may be run again after whatever ended it, and goes on.
    Of the file's vectors a block is in memory at a time.

    Raises:
        SwanError: there are none, the collection is not of their checkpoint, or Milvus failed.
        StoreError: the file is damaged, see `read_rows`.
    """
    embeddings = open_embeddings(path)
    with embeddings.image.file as file, connected(address) as client:
        count = len(embeddings.image)
        if not count:
            raise SwanError(f"{path}: holds no images", "embed some: swan embed --images DIR")
        with damage_named(path, EMBEDDINGS):
            digests = texts_in(file, "images/digest", count)
        _open_for_upload(client, address, embeddings.made_by)
        done, new, changed = 0, 0, 0
        progress("upload", 0, count)
        for start in range(0, count, BLOCK):
            vectors = read_rows(embeddings.image, start, start + BLOCK)
            for first in range(0, len(vectors), BATCH):
                batch = vectors[first : first + BATCH]
                records = _records(embeddings, digests, start + first, batch)
                with _failure_told(path, address, done, count):
                    added, altered = _put(client, address, records)
                done, new, changed = done + len(batch), new + added, changed + altered
                progress("upload", done, count)
        with _failure_told(path, address, done, count):
            if address.is_lite:
                client.flush(address.collection)  # what is not written out yet is searched much slower
            total = count_images(client, address)
    return Upload(new, changed, count - new - changed, total)


def _records(
    embeddings: Embeddings, digests: np.ndarray, start: int, vectors: np.ndarray
) -> dict[str, dict[str, Any]]:
    """The rows of a collection by their keys, each key once: of the images from `start` on."""
    catalogue, records = embeddings.catalogue, {}
    for row, vector in enumerate(vectors, start=start):
        key = content_key(embeddings.dataset, catalogue.filename[row], digests[row])
        facts = (catalogue.filename[row], catalogue.scene[row], catalogue.split[row])
        facts += (embeddings.dataset, embeddings.made_by.sha256)
        records.setdefault(key, {"id": key, "embedding": vector, **dict(zip(FACTS, facts, strict=True))})
    return records


def _put(client: MilvusClient, address: Address, records: dict[str, dict[str, Any]]) -> tuple[int, int]:
    """Upserts those records that do not stand there as they are; how many were new, and how many changed.

    To ask for them by their keys is nine times as quick as to upsert them again.
    """
    name, seconds = address.collection, patience(address)
    found = client.query(name, ids=list(records), output_fields=["id", *FACTS], timeout=seconds)
    standing = {row["id"]: row for row in found}
    wanted = [
        record
        for key, record in records.items()
        if key not in standing or any(record[fact] != standing[key][fact] for fact in FACTS)
    ]
    if wanted:
        client.upsert(name, wanted, timeout=seconds)
    new = sum(record["id"] not in standing for record in wanted)
    return new, len(wanted) - new


@contextmanager
def _failure_told(path: Path, address: Address, done: int, count: int) -> Iterator[None]:
    """Around a request of an upload: where it fails, the error says how far the upload came."""
    import grpc
    from pymilvus import MilvusException

    try:
        yield
    except (MilvusException, grpc.RpcError) as error:
        raise SwanError(
            f"{address}: failed with {done} of {count} images there ({reason_of(error)})",
            f"go on from there: swan embed --embeddings {path} --to '{address}'",
        ) from error
