"""A collection of Milvus Lite that is killed while it is filled: is all of it there, once, and found?

python tests/benchmarks/milvus.py --folder DIR               # writes milvus.json, prints a table
python tests/benchmarks/milvus.py --folder DIR --rows 20000 --output FILE
python tests/benchmarks/milvus.py --show

N made unit vectors of 512 dimensions, in clusters as embeddings are, go into an empty database by a process
that is killed (SIGKILL) again and again after random times, then by one that may end, then by one more, which
must find that nothing is left to do. Each process is one of its own, as `swan embed --embeddings FILE --to
milvus://DIR/milvus.db` is. Recall is against exact search of the file. Memory is the
process's own at its largest, above what its imports take, Milvus Lite's among it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from indices import Memory

from swancli.milvus.collection import Address, connected, load_pymilvus
from swancli.milvus.upload import upload
from swancli.store.catalogue import Catalogue
from swancli.store.embeddings import Embeddings, open_embeddings, write_embeddings
from swancli.store.made_by import MadeBy

RESULTS = Path(__file__).with_name("milvus.json")
DIMENSIONS, CLUSTERS, SPREAD, SEED = 512, 30, 0.7, 0
QUESTIONS, TOP_K, TOGETHER = 200, 10, 50
KILLS = 5


def make_material(path: Path, rows: int) -> None:
    """Writes embeddings of n rows in clusters, one per scene."""
    rng = np.random.default_rng(SEED)
    middles = rng.standard_normal((CLUSTERS, DIMENSIONS), np.float32)
    middles /= np.linalg.norm(middles, axis=1, keepdims=True)
    cluster = rng.integers(CLUSTERS, size=rows)
    vectors = np.empty((rows, DIMENSIONS), np.float32)
    for start in range(0, rows, 10_000):
        part = cluster[start : start + 10_000]
        noise = rng.standard_normal((len(part), DIMENSIONS), np.float32) * (SPREAD / DIMENSIONS**0.5)
        vectors[start : start + len(part)] = middles[part] + noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [f"tile_{row:07}.png" for row in range(rows)]
    splits = np.array(["train", "val", "test"])[rng.integers(3, size=rows)].tolist()
    catalogue = Catalogue.of(names, [f"scene {number}" for number in cluster], splits)
    no_captions = np.empty((0, DIMENSIONS), np.float32)
    made_by = MadeBy("", "0" * 64, vectors.shape[1], "repaired")
    write_embeddings(path, Embeddings(vectors, no_captions, catalogue, "made", made_by), names)


def questions() -> np.ndarray:
    """float32 (Q, D): unit vectors beside the clusters' middles, as captions lie beside images."""
    rng = np.random.default_rng(SEED)
    middles = rng.standard_normal((CLUSTERS, DIMENSIONS), np.float32)
    middles /= np.linalg.norm(middles, axis=1, keepdims=True)
    noise = np.random.default_rng(SEED + 1).standard_normal((QUESTIONS, DIMENSIONS), np.float32)
    asked = middles[np.arange(QUESTIONS) % CLUSTERS] + noise * (SPREAD / DIMENSIONS**0.5)
    return asked / np.linalg.norm(asked, axis=1, keepdims=True)


# ---------------------------------------------------------------------------------------------------------
# one process a measurement


def measure_upload(path: Path, database: Path) -> dict[str, Any]:
    """Brings the file's vectors into the database, and tells on standard error how far it is."""
    begun, processor = time.perf_counter(), time.process_time()

    def tell(phase: str, done: int, total: int) -> None:
        print(done, file=sys.stderr, flush=True)

    came = upload(path, Address(str(database)), tell)
    return {
        "seconds": time.perf_counter() - begun,
        "processor": time.process_time() - processor,
        "new": came.new,
        "changed": came.changed,
        "stood": came.unchanged,
        "total": came.total,
    }


def measure_asking(path: Path, database: Path) -> dict[str, Any]:
    """Asks the database and the file. Seconds a question; recall from 0 to 1."""
    import torch

    from swancli.milvus.search import CollectionRanking
    from swancli.query.ranking import StreamedRanking

    address, asked = Address(str(database)), questions()
    embeddings = open_embeddings(path)
    everything = np.arange(len(embeddings.image))
    exact = list(StreamedRanking(embeddings.image, everything, torch.device("cpu")).best(asked, TOP_K))
    begun = time.perf_counter()
    with connected(address) as client:
        client.load_collection(address.collection)
        opened = time.perf_counter() - begun
        ranking = CollectionRanking(client, address, "", len(everything))
        begun, processor = time.perf_counter(), time.process_time()
        for question in asked[:20]:
            list(ranking.best(question[None], TOP_K))
        alone, processor = (time.perf_counter() - begun) / 20, (time.process_time() - processor) / 20
        begun = time.perf_counter()
        found = [
            answer
            for start in range(0, QUESTIONS, TOGETHER)
            for answer in ranking.best(asked[start : start + TOGETHER], TOP_K)
        ]
        together = (time.perf_counter() - begun) / QUESTIONS
    names = embeddings.catalogue.filename
    shares = [
        len({hit.filename for hit in hits} & set(names[rows])) / TOP_K
        for hits, (rows, _) in zip(found, exact, strict=True)
    ]
    worst = max(
        float(np.abs(np.array([hit.score for hit in hits]) - scores).max())
        for hits, (_, scores) in zip(found, exact, strict=True)
    )
    return {
        "open": opened,
        "alone": alone,
        "processor": processor,
        "together": together,
        "recall@10": float(np.mean(shares)),
        "score_off": worst,
    }


def child(what: str, folder: Path) -> subprocess.Popen[str]:
    """Starts a measurement in a process of its own."""
    command = [sys.executable, __file__, "--folder", str(folder), "--measure", what]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes)


def finish(what: str, folder: Path) -> dict[str, Any]:
    """A measurement, once its process has ended."""
    process = child(what, folder)
    printed, told = process.communicate()
    if process.returncode:
        raise SystemExit(told)
    return json.loads(printed)


def kill_between(folder: Path, rng: np.random.Generator, first: int, last: int) -> dict[str, int]:
    """Uploads until a random row is reported as done, then a random moment longer; kills the process."""
    process = child("upload", folder)
    until, told = int(rng.integers(first, last)), 0
    for line in process.stderr:
        told = int(line)
        if told >= until:
            break
    time.sleep(rng.uniform(0, 0.3))  # into the next batch, wherever that is then
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if process.returncode != -signal.SIGKILL:
        raise SystemExit("the upload ended before it was killed")
    return {"told": told}


def measure(folder: Path, rows: int) -> dict[str, Any]:
    """The whole course; see the top of this file."""
    rng, path, database = np.random.default_rng(SEED + 2), folder / "made.h5", folder / "milvus.db"
    shutil.rmtree(database, ignore_errors=True)
    make_material(path, rows)
    load = os.getloadavg()[0]
    ends = np.linspace(0, 0.95 * rows, KILLS + 1).astype(int)  # so that each comes further than the last
    killed = [kill_between(folder, rng, *ends[kill : kill + 2]) for kill in range(KILLS)]
    results: dict[str, Any] = {"rows": rows, "dimensions": DIMENSIONS, "killed": killed}
    results["resumed"] = finish("upload", folder)
    results["again"] = finish("upload", folder)
    results["asked"] = finish("ask", folder)
    results["size"] = sum(file.stat().st_size for file in database.rglob("*") if file.is_file())
    shutil.rmtree(database)
    results["whole"] = finish("upload", folder)
    results["file_size"] = path.stat().st_size
    return {**results, "load": round(load, 2)}


# ---------------------------------------------------------------------------------------------------------
# results


def table(results: dict[str, Any]) -> str:
    """Markdown: one line per figure."""
    whole, resumed, again, asked = (results[name] for name in ("whole", "resumed", "again", "asked"))
    kills = ", ".join(f"{kill['told']:,}" for kill in results["killed"])
    lines = [
        ("vectors", f"{results['rows']:,} of {results['dimensions']} dimensions"),
        ("upload", f"{whole['seconds']:.0f} s, {results['rows'] / whole['seconds']:,.0f} vectors per second"),
        ("upload: processor time", f"{whole['processor']:.0f} s"),
        ("upload: memory", f"{whole['memory'] / 1e9:.2f} GB"),
        (f"killed {len(results['killed'])} times, with this many reported as done", kills),
        (
            "second upload, to the end",
            f"{resumed['seconds']:.0f} s; {resumed['new']:,} new, {resumed['stood']:,} already there",
        ),
        (
            "third upload",
            f"{again['seconds']:.0f} s; {again['new']:,} new, {again['stood']:,} already there",
        ),
        ("vectors in the collection afterwards", f"{again['total']:,}"),
        ("on disk", f"{results['size'] / 1e6:.0f} MB, for a file of {results['file_size'] / 1e6:.0f} MB"),
        ("time to open", f"{asked['open']:.1f} s"),
        ("single query", f"{1000 * asked['alone']:.0f} ms"),
        ("single query: processor time", f"{1000 * asked['processor']:.0f} ms"),
        (f"per query, {TOGETHER} at once", f"{1000 * asked['together']:.0f} ms"),
        ("memory to query", f"{asked['memory'] / 1e9:.2f} GB"),
        (f"recall@10 of {QUESTIONS} queries", f"{asked['recall@10']:.4f}"),
        ("largest error of a score", f"{asked['score_off']:.1g}"),
        ("load of the machine at the start", str(results["load"])),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {figure} |" for name, figure in lines)])


def main() -> None:
    """Measures, or shows what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--measure", choices=["upload", "ask"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.show:
        print(table(json.loads(options.output.read_text())))
        return
    if not options.folder:
        parser.error("--folder is needed")
    if options.measure:
        taken = measure_upload if options.measure == "upload" else measure_asking
        load_pymilvus()  # its import is not to be counted
        with Memory() as memory:
            figures = taken(options.folder / "made.h5", options.folder / "milvus.db")
        print(json.dumps({**figures, "memory": memory.taken}))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    results = measure(options.folder, options.rows)
    options.output.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
