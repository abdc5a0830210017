"""FAISS indices: `swan embed --index hnsw` writes embeddings.index beside embeddings.h5, for `swan query`.

An index only proposes rows. They are then scored with the stored vectors and ranked as in exact search:
scores are exact, but a row may be missing. How often that happens is measured when the index is built, and
shown with every search. Letters in shapes: N rows of the embeddings, U distinct vectors among them, D
embedding, Q questions.
"""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import torch

from swancli.errors import StoreError, SwanError, import_error
from swancli.machine.progress import Progress, quiet
from swancli.query.ranking import RankedRows, StreamedRanking, ranked, row_blocks
from swancli.store.embeddings import Embeddings, open_embeddings
from swancli.store.hdf5 import INDEX, array_in, create_store, damage_named, open_store, text_attribute
from swancli.store.unfailing_file import StoreFile
from swancli.store.vectors import mapped

# Found by measurement with a million vectors of 512 dimensions (tests/benchmarks/README.md, "Indices").
LINKS, BUILD_BREADTH, SEARCH_BREADTH = 32, 200, 256  # hnsw: M, efConstruction, efSearch
LISTS_VISITED = 64  # ivf-pq: nprobe
PROPOSED = {"flat": 200, "hnsw": 200, "ivf-pq": 1000}  # rows proposed per question, which are then scored
MOST_RESULTS = 100  # more results are searched exactly: the measured recall says little about them

LEAST_FOR_CODES = 1000  # distinct vectors; ivf-pq learns 256 codes for each part of a vector
TRAINED_ON = 64  # vectors per list and per code that is learned
QUESTIONS = 200  # asked to measure recall
MEASURED_AT = 10  # results per question of that recall
# The first bytes by which faiss marks each kind. No other kind is accepted: some of them name further files.
WRITTEN_AS = {"flat": b"IxFI", "hnsw": b"IHNs", "ivf-pq": b"IwPQ"}
CHECKING_FAISS = (1, 14, 2)  # earlier versions follow the links of a damaged index anywhere in memory
TOGETHER = 256  # questions per search

CPU = torch.device("cpu")


@dataclass(frozen=True)
class IndexCard:
    """The description of an index, stored as attributes of its file.

    kind: flat, hnsw or ivf-pq.
    digest: of the embeddings it was made for.
    rows: N.
    distinct: U.
    dimensions: D.
    recall: the share of the 10 best of exact search that it finds, from 0 to 1.
    questions: how many were asked to measure it.
    asked: what they were, captions or images.
    seconds: how long building took.
    faiss: the version that wrote it.
    """

    kind: str
    digest: str
    rows: int
    distinct: int
    dimensions: int
    recall: float
    questions: int
    asked: str
    seconds: float
    faiss: str

    def describe(self) -> str:
        """The index and its recall, in one line."""
        return (
            f"{self.kind} index: recall@{MEASURED_AT} {self.recall:.3f} against exact search, "
            f"measured with {self.questions} {self.asked}"
        )


def index_path(embeddings: str | PathLike[str]) -> Path:
    """Path of the index of an embeddings file: beside it, embeddings.index for embeddings.h5."""
    path = Path(embeddings)
    return path.with_name(f"{path.stem if path.suffix == '.h5' else path.name}.index")


def load_faiss() -> ModuleType:
    """Imports faiss.

    Raises:
        SwanError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        found = import_error(error, "an index", "search")
        hint = f"{found.hint}; or search without: swan query --exact"
        raise SwanError(found.problem, hint) from error
    return faiss


# ---------------------------------------------------------------------------------------------------------
# building


def build_index(path: str | PathLike[str], kind: str, progress: Progress = quiet) -> IndexCard:
    """Writes the index of an embeddings file beside it.

    On one thread, the same embeddings give the same index; on several, the links of hnsw depend on timing.

    Args:
        path: the embeddings file.
        kind: a key of `PROPOSED`.
        progress: called with each phase, how much of it is done, and its total.

    Raises:
        SwanError: faiss is not installed, or there are no images, or too few for ivf-pq.
    """
    faiss = load_faiss()
    embeddings = open_embeddings(path)
    with embeddings.image.file:
        if not len(embeddings.image):
            raise SwanError(f"{path}: contains no images to index", "embed some: swan embed --images DIR")
        begun = time.monotonic()
        rows, starts = _equal_rows(embeddings.image, progress)
        distinct = rows[starts[:-1]]
        if kind == "ivf-pq" and len(distinct) < LEAST_FOR_CODES:
            raise SwanError(
                f"{path}: {len(distinct)} distinct images; ivf-pq needs at least {LEAST_FOR_CODES}",
                "this few need no index; --index hnsw or flat take any number",
            )
        index = _trained(faiss, kind, embeddings.image, distinct, progress)
        progress("indexing", 0, len(distinct))
        for _, block in row_blocks(embeddings.image, distinct):
            index.add(np.ascontiguousarray(block))
            progress("indexing", index.ntotal, len(distinct))
        seconds = time.monotonic() - begun
        asking = IndexRanking(kind, index, rows, starts, embeddings.image)
        measured = _measured_recall(asking, embeddings, progress)
        about = (kind, embeddings.digest, len(rows), len(distinct), index.d)
        card = IndexCard(*about, *measured, seconds, faiss.__version__)
    with create_store(index_path(path), INDEX) as file:
        file.attrs.update(asdict(card))
        file["rows"], file["starts"] = rows, starts
        _write_bytes(faiss, index, file)
    return card


def _equal_rows(embedding: h5py.Dataset, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """The rows, int64 (N), grouped by equal vectors, and where each group starts, int64 (U + 1).

    Each distinct vector is indexed once. Many equal ones, such as those of blank pictures, would link only to
    each other, and a search of hnsw that reaches them would never leave them.
    """
    numbers: dict[bytes, int] = {}  # groups, counted from their first rows
    group: list[int] = []
    for _, block in row_blocks(embedding, np.arange(len(embedding))):
        for vector in block:
            group.append(numbers.setdefault(hashlib.blake2b(vector, digest_size=16).digest(), len(numbers)))
        progress("comparing", len(group), len(embedding))
    rows = np.argsort(group, kind="stable")
    return rows, np.searchsorted(np.array(group)[rows], np.arange(len(numbers) + 1))


def _trained(
    faiss: ModuleType, kind: str, embedding: h5py.Dataset, distinct: np.ndarray, progress: Progress
) -> Any:
    """An empty index, trained as its kind requires, on a seeded sample."""
    dimensions, metric = embedding.shape[1], faiss.METRIC_INNER_PRODUCT
    learned = 256  # codes of each part of a vector; hnsw learns only the range of each dimension
    if kind == "flat":
        return faiss.IndexFlatIP(dimensions)
    if kind == "hnsw":
        # One byte per dimension takes a quarter of the memory; scoring the proposed rows undoes its rounding.
        index = faiss.IndexHNSWSQ(dimensions, faiss.ScalarQuantizer.QT_8bit, LINKS, metric)
        index.hnsw.efConstruction, index.hnsw.efSearch = BUILD_BREADTH, SEARCH_BREADTH
    else:
        lists = min(len(distinct) // 16, round(4 * math.sqrt(len(distinct))))
        learned = max(lists, learned)
        # np: without ordering the codes (polysemous training), which takes minutes and is not used here.
        index = faiss.index_factory(dimensions, f"IVF{lists},PQ{_parts(dimensions)}np", metric)
        index.nprobe = LISTS_VISITED
        for clustering in (index.cp, index.pq.cp):
            clustering.max_points_per_centroid = TRAINED_ON
            clustering.min_points_per_centroid = 1  # with fewer, faiss prints a warning
    sample = distinct
    if len(distinct) > TRAINED_ON * learned:
        sample = np.random.default_rng(0).choice(distinct, TRAINED_ON * learned, replace=False)
    progress("learning", 0, 1)
    index.train(mapped(embedding)[np.sort(sample)])
    progress("learning", 1, 1)
    return index


def _parts(dimensions: int) -> int:
    """Number of parts, one byte each, that ivf-pq splits a vector into: of eight dimensions or a few more."""
    most = max(1, dimensions // 8)
    return max(parts for parts in range(1, most + 1) if dimensions % parts == 0)


def _measured_recall(
    asking: IndexRanking, embeddings: Embeddings, progress: Progress
) -> tuple[float, int, str]:
    """Recall@10 against exact search, the number of questions, and whether they are captions or images.

    Captions if there are any: they are what people ask with, and lie apart from the images. Images with equal
    scores count as equal.
    """
    captions, images = embeddings.caption, embeddings.image
    asked, source = ("captions", captions) if len(captions) else ("images", images)
    chosen = np.random.default_rng(0).permutation(len(source))[:QUESTIONS]
    questions = mapped(source)[np.sort(chosen)]
    exact = StreamedRanking(images, np.arange(len(images)), CPU)
    recalls = []
    for (_, found), (_, best) in zip(
        asking.best(questions, MEASURED_AT), exact.best(questions, MEASURED_AT), strict=True
    ):
        recalls.append(np.sum(found >= best[-1]) / len(best))
        progress("measuring recall", len(recalls), len(questions))
    return float(np.mean(recalls)), len(questions), asked


def _write_bytes(faiss: ModuleType, index: Any, file: StoreFile) -> None:
    """Writes the index, as faiss serialises it, as one contiguous array, so that it can be memory-mapped."""
    sizes: list[int] = []  # first only counted, so that no second copy of the index is in memory
    _stream(faiss, index, lambda piece: sizes.append(len(piece)))
    stored, written = file.create_dataset("faiss", (sum(sizes),), np.uint8), 0

    def write(piece: bytes) -> None:
        nonlocal written
        stored[written : written + len(piece)] = np.frombuffer(piece, np.uint8)
        written += len(piece)
        file.check()

    _stream(faiss, index, write)


def _stream(faiss: ModuleType, index: Any, take: Callable[[bytes], None]) -> None:
    writer = faiss.PyCallbackIOWriter(take, 2**24)
    faiss.write_index(index, writer)
    del writer  # which passes on what it still buffers


# ---------------------------------------------------------------------------------------------------------
# asking


class IndexRanking(StreamedRanking):
    """Ranks what an index proposes; for more than `MOST_RESULTS` results it searches exactly.

    Args:
        kind: of the index.
        index: the faiss index, of U vectors.
        rows: see `_equal_rows`.
        starts: see `_equal_rows`.
        embedding: float32 (N, D) of an open file.
        device: where exact search computes.
        description: a note for the user.
    """

    def __init__(
        self,
        kind: str,
        index: Any,
        rows: np.ndarray,
        starts: np.ndarray,
        embedding: h5py.Dataset,
        device: torch.device = CPU,
        description: str = "",
    ) -> None:
        super().__init__(embedding, np.arange(len(embedding)), device)
        self._kind, self._index, self._description = kind, index, description
        self._rows, self._starts = rows, starts

    def searched(self, top_k: int) -> str:
        return self._kind if top_k <= MOST_RESULTS else super().searched(top_k)

    def note(self, top_k: int) -> str:
        if top_k > MOST_RESULTS:
            return f"exact search: the index is used for up to {MOST_RESULTS} results"
        return self._description

    def best(self, vectors: np.ndarray, top_k: int, threshold: float = -1.0) -> Iterator[RankedRows]:
        if top_k > MOST_RESULTS:
            yield from super().best(vectors, top_k, threshold)
            return
        proposed = min(PROPOSED[self._kind], self._index.ntotal)
        for start in range(0, len(vectors), TOGETHER):
            questions = np.ascontiguousarray(vectors[start : start + TOGETHER])
            _, found = self._index.search(questions, proposed)
            for question, numbers in zip(questions, found, strict=True):
                if numbers.max(initial=-1) >= len(self._starts) - 1:
                    raise StoreError(
                        "the index is damaged: it proposes rows that are not there",
                        "make it again: swan embed --index; or search without it: --exact",
                    )
                rows = self._rows_of(numbers[numbers >= 0], top_k)
                yield ranked(rows, self._stored, question, top_k, threshold)

    def _rows_of(self, numbers: np.ndarray, top_k: int) -> np.ndarray:
        """int64, ascending: the rows of some of the U vectors, at most the first `top_k` of each."""
        starts = self._starts[numbers]
        counts = np.minimum(self._starts[numbers + 1] - starts, top_k)
        before = np.cumsum(counts) - counts
        return np.sort(self._rows[np.repeat(starts - before, counts) + np.arange(counts.sum())])


def open_index(path: Path, embeddings: Embeddings, device: torch.device = CPU) -> IndexRanking | None:
    """The index beside an embeddings file, ready to search; None if there is none.

    It is memory-mapped: only the parts of the file that a search touches are read.

    Args:
        path: the embeddings file.
        embeddings: that file, open.
        device: where exact search computes.

    Raises:
        SwanError: the index is damaged or was made for other embeddings, or faiss is not installed.
    """
    place = index_path(path)
    if not place.exists():
        return None
    again = "make it again: swan embed --index {} --embeddings " + f"{path}; or search without it: --exact"
    try:
        with open_store(place, INDEX) as file, damage_named(place, INDEX):
            card = _read_card(file)
            rows, starts, memory = _read_columns(file, card.kind)
    except StoreError as error:
        raise StoreError(error.problem, again.format("hnsw")) from error
    if not card.digest or card.digest != embeddings.digest:
        raise SwanError(f"{place}: made for other embeddings than {path}", again.format(card.kind))
    faiss = load_faiss()
    if tuple(map(int, re.findall(r"\d+", faiss.__version__)[:3])) < CHECKING_FAISS:
        raise SwanError(
            f"{place}: faiss {faiss.__version__} reads an index without checking it",
            "install a newer one: pip install -U faiss-cpu; or search without: swan query --exact",
        )
    try:
        reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(memory), memory.size)
        index = faiss.read_index(reader, faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY)
        index.referenced_objects = [reader, memory]  # which have to live as long as the index does
        _check_parts(faiss, index)
    except (RuntimeError, ValueError, MemoryError) as error:
        reason = (str(error).strip() or "too large").splitlines()[-1]
        raise StoreError(
            f"{place}: faiss {faiss.__version__} cannot read it, which faiss {card.faiss} wrote ({reason})",
            again.format(card.kind),
        ) from error
    whole = (len(embeddings.image), embeddings.image.shape[1], len(starts) - 1)
    if (len(rows), index.d, index.ntotal) != whole:
        problem = f"{place}: does not contain the {whole[0]} images of {path}"
        raise StoreError(problem, again.format(card.kind))
    return IndexRanking(card.kind, index, rows, starts, embeddings.image, device, card.describe())


def _read_columns(file: h5py.File, kind: str) -> list[np.ndarray]:
    """The arrays `rows`, `starts` and `faiss` of an index, memory-mapped.

    Raises:
        KeyError, TypeError, ValueError: they are not what `_equal_rows` and faiss give.
    """
    columns = []
    for name, dtype in (("rows", np.int64), ("starts", np.int64), ("faiss", np.uint8)):
        column = array_in(file, name, "iu", None)
        if column.dtype != dtype:
            raise TypeError(f"/{name} is {column.dtype}")
        columns.append(mapped(column))
    rows, starts, memory = columns
    if memory[:4].tobytes() != WRITTEN_AS[kind]:
        raise ValueError(f"/faiss is not an index of the kind {kind}")
    # Groups that cover all rows, in order, lead to no row that does not exist.
    grouped = len(starts) and starts[0] == 0 and starts[-1] == len(rows) and (np.diff(starts) > 0).all()
    if not grouped or (len(rows) and not 0 <= rows.min() <= rows.max() < len(rows)):
        raise ValueError("/rows and /starts lead to images that are not there")
    return columns


def _check_parts(faiss: ModuleType, index: Any) -> None:
    """Raises a ValueError unless an index is made of the parts that `_trained` gives it."""
    if isinstance(index, faiss.IndexHNSWSQ):
        sound = isinstance(faiss.downcast_index(index.storage), faiss.IndexScalarQuantizer)
    elif isinstance(index, faiss.IndexIVFPQ):
        lists = faiss.downcast_InvertedLists(index.invlists)
        sound = isinstance(lists, faiss.ArrayInvertedLists)
        sound = sound and isinstance(faiss.downcast_index(index.quantizer), faiss.IndexFlat)
        sound = sound and index.quantizer.ntotal == index.nlist == lists.nlist
    else:
        sound = isinstance(index, faiss.IndexFlat)
    if not sound:
        raise ValueError("made of parts that swan does not use")
    if not index.is_trained:
        raise ValueError("not trained")


def _read_card(file: h5py.File) -> IndexCard:
    """Raises KeyError, TypeError or ValueError if an attribute is missing or of another type."""
    read = {"str": lambda name: text_attribute(file, name), "int": lambda name: int(file.attrs[name])}
    read["float"] = lambda name: float(file.attrs[name])
    card = IndexCard(**{field.name: read[field.type](field.name) for field in fields(IndexCard)})
    if card.kind not in PROPOSED:
        raise ValueError(f"its kind is {card.kind!r}")
    return card


def remove_stale_index(embeddings: Path, digest: str) -> IndexCard | None:
    """Removes the index beside an embeddings file that was written again with other vectors.

    Every query would refuse it. A file that is not an index stays.

    Args:
        embeddings: the embeddings file.
        digest: of its vectors now.

    Returns:
        The card of the index that was removed; None if none was.
    """
    place = index_path(embeddings)
    with suppress(StoreError):
        with open_store(place, INDEX) as file, damage_named(place, INDEX):
            card = _read_card(file)
        if card.digest != digest:
            place.unlink()
            return card
    return None
