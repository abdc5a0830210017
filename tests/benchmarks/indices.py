"""What the indices of `swan embed --index` cost and find, beside exact search, at a million vectors.

python tests/benchmarks/indices.py --embeddings FILE ... --folder DIR   # writes indices.json, prints a table
python tests/benchmarks/indices.py --embeddings FILE ... --folder DIR --rows 100000 --output FILE
python tests/benchmarks/indices.py --folder DIR --again                  # asks the existing indices again
python tests/benchmarks/indices.py --show

FILEs are embeddings of `swan embed`. Their images are repeated, each repetition moved by seeded noise of the
covariance that images have around the mean of their scene, until there are enough; so they cluster as
embeddings do. They are brought to 512 dimensions by a seeded random orthonormal map, which leaves every
similarity as it is. The questions are the files' own captions; encoding them is not measured here. Every
figure is taken in a process of its own. Memory is the process's peak, above what its imports take. Mapped are
the pages of files that it has touched, which the system may take back. On a machine that does other work too,
processor time per query is more reliable than wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from swancli.query.index import PROPOSED, build_index, index_path, open_index
from swancli.query.ranking import HeldRanking, Ranking, StreamedRanking
from swancli.store.atomic import atomic_path
from swancli.store.catalogue import Catalogue
from swancli.store.embeddings import Embeddings, open_embeddings, read_embeddings, write_embeddings
from swancli.store.made_by import MadeBy

RESULTS = Path(__file__).with_name("indices.json")
DIMENSIONS, SEED = 512, 0
BLOCK = 50_000  # rows made at a time
QUESTIONS, TOGETHER = 1000, 256
EXACT = {"exact, in the file": StreamedRanking, "exact, in memory": HeldRanking}
HEADS = ("", "build", "file", "memory to build", "first query", "time per query", "slowest")
HEADS += ("processor time", "per query, 256 at once", "memory to query", "mapped", "recall@10", "recall@100")


def make_material(files: list[Path], rows: int, path: Path) -> None:
    """Writes embeddings of this many rows unless they exist; see the top of this file."""
    if path.exists() and len(open_embeddings(path).image) == rows:
        return
    parts = [read_embeddings(file) for file in files]
    image = np.concatenate([part.image for part in parts])
    caption = np.concatenate([part.caption for part in parts])
    scene = np.concatenate([[f"{part.dataset} {name}" for name in part.catalogue.scene] for part in parts])
    text = np.concatenate([part.catalogue.text for part in parts])
    rng = np.random.default_rng(SEED)
    asked = rng.permutation(len(caption))[:10_000]
    residual = image.copy()
    for name in np.unique(scene):
        residual[scene == name] -= image[scene == name].mean(axis=0)
    variance, axes = np.linalg.eigh(np.cov(residual.T))
    spread = (axes * np.sqrt(np.maximum(variance, 0))).astype(np.float32)
    turn = np.linalg.qr(rng.standard_normal((DIMENSIONS, image.shape[1])))[0].astype(np.float32)
    made = np.empty((rows, DIMENSIONS), np.float32)
    for start in range(0, rows, BLOCK):
        number = np.arange(start, min(start + BLOCK, rows))
        noise = rng.standard_normal((len(number), image.shape[1]), dtype=np.float32) @ spread.T
        noise[number < len(image)] = 0  # the real ones
        moved = image[number % len(image)] + noise
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        made[number] = moved @ turn.T
    catalogue = Catalogue.of(
        [f"{number:07}.jpg" for number in range(rows)],
        scene[np.arange(rows) % len(image)].tolist(),
        [None] * rows,
        text[asked],
        np.full(len(asked), -1),
    )
    made_by = MadeBy("", "", made.shape[1], "")
    embeddings = Embeddings(made, caption[asked] @ turn.T, catalogue, "material", made_by)
    write_embeddings(path, embeddings, catalogue.filename)


# ---------------------------------------------------------------------------------------------------------
# one process a measurement


def resident(what: str) -> int:
    """Bytes of this process's resident memory: RssAnon, its own, or RssFile, pages of files."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(f"{what}:")[1].split()[0])


class Memory:
    """The memory of its own that a process takes inside this context, at its largest, in bytes."""

    def __enter__(self) -> Memory:
        self._before = self._most = resident("RssAnon")
        self._ended = threading.Event()
        self._watching = threading.Thread(target=self._watch)
        self._watching.start()
        return self

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self._most = max(self._most, resident("RssAnon"))

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watching.join()
        self.taken = self._most - self._before


def measure_build(path: Path, kind: str) -> dict[str, Any]:
    """Builds an index. Seconds and bytes."""
    import faiss  # noqa: F401  its import is not to be counted

    begun = time.process_time()
    with Memory() as memory:
        card = build_index(path, kind)
    print(f"{kind}: {card.describe()}", file=sys.stderr)
    return {
        "build": card.seconds,
        "build_processor": time.process_time() - begun,
        "build_memory": memory.taken,
        "size": index_path(path).stat().st_size,
    }


def measure_asking(path: Path, kind: str) -> dict[str, Any]:
    """Asks an index, or exact search. Seconds and bytes; recalls from 0 to 1."""
    import torch

    if kind in PROPOSED:
        import faiss  # noqa: F401

    embeddings = open_embeddings(path)
    questions = embeddings.caption[:QUESTIONS]
    alone = questions if kind in ("hnsw", "ivf-pq") else questions[:20]  # the others look at every vector
    mapped = resident("RssFile")
    with Memory() as memory:
        begun = time.perf_counter()
        if kind in PROPOSED:
            ranking: Ranking = open_index(path, embeddings)
        else:
            everything = np.arange(len(embeddings.image))
            ranking = EXACT[kind](embeddings.image, everything, torch.device("cpu"))
        next(ranking.best(questions[:1], 10))
        first = time.perf_counter() - begun
        for question in alone:  # once before it counts, so that what is touched is in memory
            next(ranking.best(question[None], 10))
        seconds, processor = [], time.process_time()
        for question in alone:
            begun = time.perf_counter()
            next(ranking.best(question[None], 10))
            seconds.append(time.perf_counter() - begun)
        processor = (time.process_time() - processor) / len(alone)
        begun = time.perf_counter()
        list(ranking.best(questions[:TOGETHER], 10))
        together = (time.perf_counter() - begun) / len(questions[:TOGETHER])
    return {
        "first": first,
        "median": float(np.median(seconds)),
        "worst": max(seconds),
        "processor": processor,
        "together": together,
        "memory": memory.taken,
        "mapped": resident("RssFile") - mapped,
        **recalls(ranking, embeddings, path.with_name("exact.npy")),
    }


def recalls(ranking: Ranking, embeddings: Embeddings, truth: Path) -> dict[str, float]:
    """The share of the 10 and of the 100 best scores that are found."""
    import torch

    if ranking.searched(10) == "exact":
        return {"recall@10": 1.0, "recall@100": 1.0}
    questions = embeddings.caption[:QUESTIONS]
    if not truth.exists() or truth.stat().st_mtime < Path(embeddings.image.file.filename).stat().st_mtime:
        exact = StreamedRanking(embeddings.image, np.arange(len(embeddings.image)), torch.device("cpu"))
        np.save(truth, np.stack([scores for _, scores in exact.best(questions, 100)]))
    best = np.load(truth)
    found = {}
    for top_k in (10, 100):
        answers = ranking.best(questions, top_k)
        shares = [np.sum(scores >= best[at, top_k - 1]) / top_k for at, (_, scores) in enumerate(answers)]
        found[f"recall@{top_k}"] = float(np.mean(shares))
    return found


def run(what: str, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """A measurement in a process of its own, with the machine's load when it began."""
    load = os.getloadavg()[0]
    command = [sys.executable, __file__, "--folder", options.folder, "--measure", what, "--kinds", kind]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    printed = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    return {**json.loads(printed), f"{what}_load": round(load, 2)}


# ---------------------------------------------------------------------------------------------------------
# results


def table(results: dict[str, Any]) -> str:
    """Markdown: one line per kind."""
    lines = [HEADS, ["---"] * len(HEADS)]
    for kind in [*EXACT, *PROPOSED]:
        row = results["kinds"].get(kind)
        if not row:
            continue
        built = "build" in row
        lines.append(
            (
                kind,
                f"{row['build']:,.0f} s" if built else "",
                f"{row['size'] / 1e6:,.0f} MB" if built else "",
                f"{row['build_memory'] / 1e6:,.0f} MB" if built else "",
                *(_time(row[name]) for name in ("first", "median", "worst", "processor", "together")),
                *(f"{row[name] / 1e6:,.0f} MB" for name in ("memory", "mapped")),
                *(f"{row[name]:.3f}" for name in ("recall@10", "recall@100")),
            )
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--embeddings", nargs="*", type=Path, default=[])
    parser.add_argument("--folder", type=Path, help="for the vectors and the index; 5 GB for a million")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kinds", nargs="*", default=[*EXACT, *PROPOSED])
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--again", action="store_true", help="ask the existing indices; build nothing")
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--measure", choices=("build", "ask"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.show:
        print(table(json.loads(options.output.read_text())))
        return
    path = options.folder / "embeddings.h5"
    if options.measure:
        measure = {"build": measure_build, "ask": measure_asking}[options.measure]
        print(json.dumps(measure(options.folder / "embeddings.h5", options.kinds[0])))
        return
    results = json.loads(options.output.read_text()) if options.output.exists() else {"kinds": {}}
    if not options.again:
        make_material(options.embeddings, options.rows, path)
        about = {"rows": options.rows, "dimensions": DIMENSIONS, "threads": options.threads}
        results = {**about, "questions": QUESTIONS, "kinds": results["kinds"]}
    for kind in options.kinds:
        row, kept = results["kinds"].get(kind, {}), index_path(path).with_name(f"{kind}.index")
        if kind in PROPOSED:
            # Beside the embeddings only while it is asked, since there is room for one index.
            if options.again:
                kept.replace(index_path(path))
            else:
                row |= run("build", kind, options)
        row |= run("ask", kind, options)
        if kind in PROPOSED:
            index_path(path).replace(kept)
        results["kinds"][kind] = row
        with atomic_path(options.output) as temporary:
            temporary.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{kind}: {row}", file=sys.stderr, flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
