"""Upload to a vector database, for more images than fit on one machine: embeddings.h5 -> a Milvus collection.

swan embed --to milvus://                               # Milvus Lite, embedded: milvus.db under the root
swan embed --embeddings FILE --to milvus://host:19530   # an existing file, to a cluster

A collection contains the image vectors of one checkpoint, which it names. The index is FLAT in Lite, which
compares every vector, and AUTOINDEX in a cluster, which chooses for itself. Letters in shapes: N images,
D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from os import PathLike
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
from swancli.store.text import printable
from swancli.store.vectors import read_rows

if TYPE_CHECKING:
    from pymilvus import MilvusClient

BATCH = 1024  # images per request: 2 MB of 512 dimensions. From 500 to 2,000, Lite is equally fast
TEXT_BYTES = 65_535  # longest text in a column; Milvus' limit
FACTS = ("filename", "scene", "split", "dataset", "checkpoint")  # columns beside `id` and `embedding`


def _open_for_upload(client: MilvusClient, address: Address, made_by: MadeBy) -> None:
    """Creates the collection if there is none, and its index, and loads it for searching.

    Each step checks what exists, so an upload resumes where an earlier one was killed.
    """
    from pymilvus import DataType

    found, name = read_card(client, address), address.collection
    if found:
        found.check(made_by, address, OTHER_COLLECTION)
        if made_by.match not in ("", found.match):
            card = card_text(replace(found, match=made_by.match))
            client.alter_collection_properties(name, {CARD: card})
    else:
        card = card_text(made_by)
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False, description=card)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=32)
        schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=made_by.dimensions)
        for column in FACTS:
            absent = column in ("scene", "split")
            schema.add_field(column, DataType.VARCHAR, max_length=TEXT_BYTES, nullable=absent)
        # Strong: a search after an upload finds all of it, on every machine of a cluster.
        consistency = {} if address.is_lite else {"consistency_level": "Strong"}
        client.create_collection(name, schema=schema, properties={CARD: card}, **consistency)
    if not client.list_indexes(name):
        index = client.prepare_index_params()
        kind = "FLAT" if address.is_lite else "AUTOINDEX"
        index.add_index("embedding", index_type=kind, metric_type="IP")
        client.create_index(name, index, sync=False)  # without vectors there is nothing to wait for
    client.load_collection(name)


@dataclass(frozen=True)
class Upload:
    """The outcome of an upload, in images.

    new: were not in the collection.
    changed: were there with another scene or split.
    unchanged: were there as they are, or occur twice in the file.
    total: in the collection now.
    """

    new: int
    changed: int
    unchanged: int
    total: int


def content_key(dataset: str, filename: str, pixels: str) -> str:
    """The key of an image, 32 hexadecimal characters: equal for the same data set, file name and picture.

    Args:
        dataset: its data set.
        filename: its file name.
        pixels: the digest of its pixels. That of its vector would not do: another batch size or another
            machine changes the vector's last bits.
    """
    return content_digest([dataset, filename, pixels])


def upload(path: str | PathLike[str], address: Address, progress: Progress = quiet) -> Upload:
    """Copies the image vectors of an embeddings file into a collection, created if there is none.

    Images that are already there are skipped, so an upload can be repeated, and resumed after an interrupt.
    `BATCH` vectors are in memory at a time.

    Args:
        path: the embeddings file.
        address: of the collection.
        progress: called with "upload", the number of images done, and their total.

    Raises:
        SwanError: there are no images, the collection belongs to another checkpoint, or Milvus failed.
        StoreError: the file is damaged, see `read_rows`.
    """
    import grpc
    from pymilvus import MilvusException

    embeddings = open_embeddings(path)
    with embeddings.image.file as file, connected(address) as client:
        count = len(embeddings.image)
        if not count:
            raise SwanError(f"{path}: contains no images", "embed some: swan embed --images DIR")
        with damage_named(path, EMBEDDINGS):
            digests = texts_in(file, "images/digest", count)
        _open_for_upload(client, address, embeddings.made_by)
        done, new, changed = 0, 0, 0
        progress("upload", 0, count)
        try:
            for start in range(0, count, BATCH):
                vectors = read_rows(embeddings.image, start, start + BATCH)
                added, altered = _put(client, address, _records(embeddings, digests, start, vectors))
                done, new, changed = done + len(vectors), new + added, changed + altered
                progress("upload", done, count)
            if address.is_lite:
                # What is not yet written to disk is searched much more slowly.
                client.flush(address.collection)
            total = count_images(client, address)
        except (MilvusException, grpc.RpcError) as error:
            raise SwanError(
                f"{address}: failed with {done} of {count} images there ({reason_of(error)})",
                f"resume from there: swan embed --embeddings {path} --to '{address}'",
            ) from error
    return Upload(new, changed, count - new - changed, total)


def _records(
    embeddings: Embeddings, digests: np.ndarray, start: int, vectors: np.ndarray
) -> dict[str, dict[str, Any]]:
    """The rows of a collection, each key once, for the images from `start` on."""
    catalogue, records = embeddings.catalogue, {}
    for row, vector in enumerate(vectors, start=start):
        key = content_key(embeddings.dataset, catalogue.filename[row], digests[row])
        # Milvus takes UTF-8 alone.
        facts = (printable(catalogue.filename[row]), catalogue.scene[row], catalogue.split[row])
        facts += (printable(embeddings.dataset), embeddings.made_by.sha256)
        records.setdefault(key, {"id": key, "embedding": vector, **dict(zip(FACTS, facts, strict=True))})
    return records


def _put(client: MilvusClient, address: Address, records: dict[str, dict[str, Any]]) -> tuple[int, int]:
    """Upserts the records that are new or have changed; returns the number of each.

    Asking for them by their keys is nine times as fast as upserting them again.
    """
    name, seconds = address.collection, patience(address)
    found = client.query(name, ids=list(records), output_fields=["id", *FACTS], timeout=seconds)
    existing = {row["id"]: row for row in found}
    new = [record for key, record in records.items() if key not in existing]
    changed = [
        records[key]
        for key, row in existing.items()
        if any(records[key][fact] != row[fact] for fact in FACTS)
    ]
    if new or changed:
        client.upsert(name, new + changed, timeout=seconds)
    return len(new), len(changed)
