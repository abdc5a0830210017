"""FAISS indices: `swan embed --index hnsw` writes embeddings.index beside embeddings.h5, `query` asks it.

An index only proposes rows. They are scored with the stored vectors and ranked as exact search ranks them:
scores are exact, and what can go wrong is that a row is missing. How often that happens is measured when the
index is built, and told with every search. Letters in shapes: N rows of the embeddings, U different vectors
among them, D embedding, Q questions.
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

from swancli.errors import StoreError, SwanError
from swancli.machine.progress import Progress, quiet
from swancli.query.ranking import RankedRows, Ranking, StreamedRanking, ranked, row_blocks
from swancli.store.embeddings import Embeddings, open_embeddings
from swancli.store.hdf5 import INDEX, array_in, create_store, damage_named, open_store, text_attribute
from swancli.store.unfailing_file import StoreFile
from swancli.store.vectors import mapped

# Found by measurement with a million vectors of 512 dimensions (tests/benchmarks/README.md, "Indices").
LINKS, BUILD_BREADTH, SEARCH_BREADTH = 32, 200, 256  # hnsw: M, efConstruction, efSearch
LISTS_VISITED = 64  # ivf-pq: nprobe
PROPOSED = {"flat": 200, "hnsw": 200, "ivf-pq": 1000}  # rows for each question, which are then scored
MOST_RESULTS = 100  # for more of them search is exact: what is measured says little about so many

LEAST_FOR_CODES = 1000  # different vectors; ivf-pq learns 256 codes for each part of a vector
TRAINED_ON = 64  # vectors for each list and each code that is learnt
QUESTIONS = 200  # that recall is measured with
MEASURED_AT = 10  # results per question of that recall
# What faiss calls its kinds in the first bytes of an index. No other is let in: some name further files.
WRITTEN_AS = {"flat": b"IxFI", "hnsw": b"IHNs", "ivf-pq": b"IwPQ"}
CHECKING_FAISS = (1, 14, 2)  # earlier ones follow the links of a damaged index to anywhere in memory
TOGETHER = 256  # questions asked at a time

BROKEN = "make it again: swan embed --index; or search without it: --exact"

CPU = torch.device("cpu")


@dataclass(frozen=True)
class IndexCard:
    """What an index says of itself, as attributes of its file.

    kind: flat, hnsw or ivf-pq; digest: of the embeddings that it belongs to; rows, distinct: N and U;
    dimensions: D. recall: the share of exact search's 10 best that it finds, from 0 to 1; questions: with how
    many that was measured; asked: what these were, captions or images. seconds: that building took. faiss:
    the version that wrote it.
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
        """A line for people."""
        return (
            f"{self.kind} index: recall@{MEASURED_AT} {self.recall:.3f} against exact search, "
            f"measured with {self.questions} {self.asked}"
        )


def index_path(embeddings: str | PathLike[str]) -> Path:
    """Where the index of an embeddings file stands: beside it, embeddings.index for embeddings.h5."""
    return Path(embeddings).with_suffix(".index")


def load_faiss() -> ModuleType:
    """The module.

    Raises:
        SwanError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise SwanError(
            f"an index needs faiss, which cannot be imported ({error})",
            "install the extra: pip install 'swancli[search]'; or search without: swan query --exact",
        ) from error
    return faiss


# ---------------------------------------------------------------------------------------------------------
# building


def build_index(path: str | PathLike[str], kind: str, progress: Progress = quiet) -> IndexCard:
    """Writes the index of an embeddings file beside it.

    On one thread the same embeddings give the same index; on several, hnsw's links depend on their timing.

    Args:
        kind: a key of `PROPOSED`.

    Raises:
        SwanError: no faiss, no images, or too few of them for ivf-pq.
    """
    faiss = load_faiss()
    embeddings = open_embeddings(path)
    with embeddings.image.file:
        if not len(embeddings.image):
            raise SwanError(f"{path}: holds no images to index", "embed some: swan embed --images DIR")
        begun = time.monotonic()
        rows, starts = _equal_rows(embeddings.image, progress)
        distinct = rows[starts[:-1]]
        if kind == "ivf-pq" and len(distinct) < LEAST_FOR_CODES:
            raise SwanError(
                f"{path}: {len(distinct)} different images; ivf-pq needs at least {LEAST_FOR_CODES}",
                "so few are searched at once without an index; --index hnsw or flat take any number",
            )
        index = _trained(faiss, kind, embeddings.image, distinct, progress)
        progress("indexing", 0, len(distinct))
        for _, block in row_blocks(embeddings.image, distinct):
            index.add(np.ascontiguousarray(block))
            progress("indexing", index.ntotal, len(distinct))
        seconds = time.monotonic() - begun
        asking = IndexRanking(kind, index, rows, starts, embeddings.image)
        card = IndexCard(
            kind,
            embeddings.digest,
            len(rows),
            len(distinct),
            index.d,
            *_measured_recall(asking, embeddings, progress),
            seconds,
            faiss.__version__,
        )
    with create_store(index_path(path), INDEX) as file:
        file.attrs.update(asdict(card))
        file["rows"], file["starts"] = rows, starts
        _write_bytes(faiss, index, file)
    return card


def _equal_rows(embedding: h5py.Dataset, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """The rows, int64 (N), group by group of equal vectors, and where each group starts, int64 (U + 1).

    Each vector is indexed once. Links among many equal ones, such as those of blank pictures, lead nowhere
    else, and a search of hnsw that comes upon them does not get away.
    """
    digests = []
    for _, block in row_blocks(embedding, np.arange(len(embedding))):
        digests += [hashlib.blake2b(vector, digest_size=16).digest() for vector in block]
        progress("comparing", len(digests), len(embedding))
    _, first, digest = np.unique(np.array(digests, dtype="S16"), return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    group = number[digest]
    rows = np.argsort(group, kind="stable")
    return rows, np.searchsorted(group[rows], np.arange(len(first) + 1))


def _trained(
    faiss: ModuleType, kind: str, embedding: h5py.Dataset, distinct: np.ndarray, progress: Progress
) -> Any:
    """An empty index that has learnt from a seeded sample what its kind has to learn."""
    dimensions, metric = embedding.shape[1], faiss.METRIC_INNER_PRODUCT
    learnt = 256  # the codes of a part of a vector; for hnsw only the range of each dimension is learnt
    if kind == "flat":
        return faiss.IndexFlatIP(dimensions)
    if kind == "hnsw":
        # A byte a dimension is a quarter of the memory; scoring what is proposed makes its rounding good.
        index = faiss.IndexHNSWSQ(dimensions, faiss.ScalarQuantizer.QT_8bit, LINKS, metric)
        index.hnsw.efConstruction, index.hnsw.efSearch = BUILD_BREADTH, SEARCH_BREADTH
    else:
        lists = min(len(distinct) // 16, round(4 * math.sqrt(len(distinct))))
        learnt = max(lists, learnt)
        # np: without an order of the codes (polysemous) that takes minutes to find and is not used here.
        index = faiss.index_factory(dimensions, f"IVF{lists},PQ{_parts(dimensions)}np", metric)
        index.nprobe = LISTS_VISITED
        for clustering in (index.cp, index.pq.cp):
            clustering.max_points_per_centroid = TRAINED_ON
            clustering.min_points_per_centroid = 1  # below it faiss prints a warning
    sample = distinct
    if len(distinct) > TRAINED_ON * learnt:
        sample = np.random.default_rng(0).choice(distinct, TRAINED_ON * learnt, replace=False)
    progress("learning", 0, 1)
    index.train(mapped(embedding)[np.sort(sample)])
    progress("learning", 1, 1)
    return index


def _parts(dimensions: int) -> int:
    """Into how many parts ivf-pq splits a vector, a byte each: of eight dimensions, or a few more."""
    most = max(1, dimensions // 8)
    return max(parts for parts in range(1, most + 1) if dimensions % parts == 0)


def _measured_recall(
    asking: IndexRanking, embeddings: Embeddings, progress: Progress
) -> tuple[float, int, str]:
    """Recall@10 against exact search, with how many questions, and of what they are.

    Captions when there are any: they are what people ask, and lie elsewhere than images do. Images that score
    equal count as equal.
    """
    asked = "captions" if len(embeddings.caption) else "images"
    source = embeddings.caption if len(embeddings.caption) else embeddings.image
    chosen = np.random.default_rng(0).permutation(len(source))[:QUESTIONS]
    questions = mapped(source)[np.sort(chosen)]
    exact = StreamedRanking(embeddings.image, np.arange(len(embeddings.image)), CPU)
    recalls = []
    for (_, found), (_, best) in zip(
        asking.best(questions, MEASURED_AT), exact.best(questions, MEASURED_AT), strict=True
    ):
        recalls.append(np.sum(found >= best[-1]) / len(best))
        progress("measuring recall", len(recalls), len(questions))
    return float(np.mean(recalls)), len(questions), asked


def _write_bytes(faiss: ModuleType, index: Any, file: StoreFile) -> None:
    """The index as faiss writes it, in one piece of the file, so that it can be searched where it lies."""
    size = 0

    def count(piece: bytes) -> int:
        nonlocal size
        size += len(piece)
        return len(piece)

    def write(piece: bytes) -> int:
        nonlocal written
        stored[written : written + len(piece)] = np.frombuffer(piece, np.uint8)
        written += len(piece)
        file.check()
        return len(piece)

    _stream(faiss, index, count)
    stored, written = file.create_dataset("faiss", (size,), np.uint8), 0
    _stream(faiss, index, write)


def _stream(faiss: ModuleType, index: Any, take: Callable[[bytes], int]) -> None:
    writer = faiss.PyCallbackIOWriter(take, 2**24)
    faiss.write_index(index, writer)
    del writer  # which gives out what it still holds


# ---------------------------------------------------------------------------------------------------------
# asking


class IndexRanking:
    """Ranks what an index proposes; for more than `MOST_RESULTS` results it is exact search.

    Args:
        index: of faiss, of U vectors. rows, starts: see `_equal_rows`. embedding: float32 (N, D) of an open
            file. description: a line for people. memory: what has to live as long as the index.
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
        memory: Any = None,
    ) -> None:
        self.size = len(rows)
        self._kind = kind
        self._index = index
        self._rows = rows
        self._starts = starts
        self._stored = mapped(embedding)
        self._exact: Ranking = StreamedRanking(embedding, np.arange(len(embedding)), device)
        self._description = description
        self._memory = memory

    def searched(self, top_k: int) -> str:
        return self._kind if top_k <= MOST_RESULTS else self._exact.searched(top_k)

    def note(self, top_k: int) -> str:
        if top_k > MOST_RESULTS:
            return f"exact search: the index answers for up to {MOST_RESULTS} results"
        return self._description

    def best(self, vectors: np.ndarray, top_k: int, threshold: float = -1.0) -> Iterator[RankedRows]:
        if top_k > MOST_RESULTS:
            yield from self._exact.best(vectors, top_k, threshold)
            return
        proposed = min(PROPOSED[self._kind], self._index.ntotal)
        for start in range(0, len(vectors), TOGETHER):
            questions = np.ascontiguousarray(vectors[start : start + TOGETHER])
            _, found = self._index.search(questions, proposed)
            for question, numbers in zip(questions, found, strict=True):
                if numbers.max(initial=-1) >= len(self._starts) - 1:
                    raise StoreError("the index is damaged: it proposes rows that are not there", BROKEN)
                rows = self._rows_of(numbers[numbers >= 0], top_k)
                yield ranked(rows, self._stored, question, top_k, threshold)

    def _rows_of(self, numbers: np.ndarray, top_k: int) -> np.ndarray:
        """int64, ascending: the rows of some of the U vectors, of each the first `top_k` at most."""
        starts = self._starts[numbers]
        counts = np.minimum(self._starts[numbers + 1] - starts, top_k)
        before = np.cumsum(counts) - counts
        return np.sort(self._rows[np.repeat(starts - before, counts) + np.arange(counts.sum())])


def open_index(path: Path, embeddings: Embeddings, device: torch.device = CPU) -> IndexRanking | None:
    """The index beside an embeddings file, ready to be asked; None when there is none.

    It is searched where it lies: the system reads the parts of the file that are touched.

    Args:
        path: of the embeddings file. embeddings: that file, open.

    Raises:
        SwanError: the index is damaged, or belongs to other embeddings; no faiss.
    """
    place = index_path(path)
    if not place.exists():
        return None
    again = (
        "make it again: swan embed --index {} --embeddings " + str(path) + "; or search without it: --exact"
    )
    try:
        with open_store(place, INDEX) as file, damage_named(place, INDEX):
            card = _read_card(file)
            rows, starts, memory = (
                mapped(array_in(file, name, "iu", None)) for name in ("rows", "starts", "faiss")
            )
            _check_rows(rows, starts, memory, card)
    except StoreError as error:
        raise StoreError(error.problem, again.format("hnsw")) from error
    if card.digest != embeddings.digest:
        raise SwanError(f"{place}: made for other embeddings than {path}", again.format(card.kind))
    faiss = load_faiss()
    if tuple(map(int, re.findall(r"\d+", faiss.__version__)[:3])) < CHECKING_FAISS:
        raise SwanError(
            f"{place}: faiss {faiss.__version__} reads an index without checking it",
            "take a newer one: pip install -U faiss-cpu; or search without: swan query --exact",
        )
    try:
        reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(memory), memory.size)
        index = faiss.read_index(reader, faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY)
        _check_parts(faiss, index)
    except (RuntimeError, ValueError, MemoryError) as error:
        reason = (str(error).strip() or "too large").splitlines()[-1]
        raise StoreError(
            f"{place}: faiss {faiss.__version__} cannot read it, which faiss {card.faiss} wrote ({reason})",
            again.format(card.kind),
        ) from error
    whole = (len(embeddings.image), embeddings.image.shape[1], len(starts) - 1)
    if (len(rows), index.d, index.ntotal) != whole:
        raise StoreError(f"{place}: does not hold the {whole[0]} images of {path}", again.format(card.kind))
    return IndexRanking(
        card.kind, index, rows, starts, embeddings.image, device, card.describe(), (reader, memory)
    )


def _check_rows(rows: np.ndarray, starts: np.ndarray, memory: np.ndarray, card: IndexCard) -> None:
    """Raises a ValueError unless the columns of an index are what `_equal_rows` and faiss give."""
    for name, column, kind in (
        ("rows", rows, np.int64),
        ("starts", starts, np.int64),
        ("faiss", memory, np.uint8),
    ):
        if column.dtype != kind:
            raise ValueError(f"/{name} holds {column.dtype}")
    if memory[:4].tobytes() != WRITTEN_AS[card.kind]:
        raise ValueError(f"/faiss holds no {card.kind} index")
    # Groups that are all of the rows, in order, lead to no row that is not there.
    grouped = len(starts) and starts[0] == 0 and starts[-1] == len(rows) and (np.diff(starts) > 0).all()
    if not grouped or (len(rows) and not 0 <= rows.min() <= rows.max() < len(rows)):
        raise ValueError("/rows and /starts lead to images that are not there")


def _check_parts(faiss: ModuleType, index: Any) -> None:
    """Raises a ValueError unless an index is made of the parts that `_trained` gives it."""
    if isinstance(index, faiss.IndexHNSWSQ):
        sound = isinstance(faiss.downcast_index(index.storage), faiss.IndexScalarQuantizer)
    elif isinstance(index, faiss.IndexIVFPQ):
        lists = faiss.downcast_InvertedLists(index.invlists)
        sound = isinstance(lists, faiss.ArrayInvertedLists)
        sound = sound and isinstance(faiss.downcast_index(index.quantizer), faiss.IndexFlat)
    else:
        sound = isinstance(index, faiss.IndexFlat)
    if not sound:
        raise ValueError("made of parts that no swan uses")


def _read_card(file: h5py.File) -> IndexCard:
    """Raises KeyError, TypeError or ValueError when an attribute is missing or of another type."""
    read = {"str": lambda name: text_attribute(file, name), "int": lambda name: int(file.attrs[name])}
    read["float"] = lambda name: float(file.attrs[name])
    card = IndexCard(**{field.name: read[field.type](field.name) for field in fields(IndexCard)})
    if card.kind not in PROPOSED:
        raise ValueError(f"its kind is {card.kind!r}")
    return card


def remove_stale_index(embeddings: Path, digest: str) -> IndexCard | None:
    """Removes the index beside an embeddings file that has been written anew with other vectors.

    With it every query would be refused. A file that is no index of ours stays.

    Returns:
        The card of what was removed; None when nothing was.
    """
    place = index_path(embeddings)
    with suppress(StoreError):
        with open_store(place, INDEX) as file, damage_named(place, INDEX):
            card = _read_card(file)
        if card.digest != digest:
            place.unlink()
            return card
    return None
