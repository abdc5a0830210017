"""The measurements, a function a step: each yields rows of the table, tool beside published way beside floor.

A floor is what the step cannot beat on this machine: its products counted from the model over the rate of a
large matrix product, its bytes over the bandwidth of memory or disk, each measured just before. Imports and
start-up are not in it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from subprocess import DEVNULL, PIPE
from time import perf_counter
from typing import Any

import numpy as np
import torch
from material import VIEWS, Material
from measure import (
    Child,
    disk_bandwidth,
    fastest_rate,
    memory_bandwidth,
    operations,
    repeated,
    run_child,
    spread,
    swan,
    timed,
)

from swancli.evaluate.metrics import retrieval_scores
from swancli.evaluate.similarity import matrix_grids
from swancli.images import decode_image
from swancli.model.checkpoint import load_checkpoint
from swancli.model.swan import Swan
from swancli.store.catalogue import Catalogue
from swancli.store.embeddings import Embeddings, read_embeddings, write_embeddings
from swancli.train.losses import hinge_loss

Row = dict[str, Any]
WORDS = 12  # of a caption, about the mean of UCM and RSICD


def row(section: str, what: str, size: int, unit: str, tool: list[float], **more: Any) -> Row:
    """A row: the tool's figures, and of `published`, `floor`, `memory` and `note` those that there are.

    unit: "s", "ms", or "pairs/s" and the like, where more is better. memory: bytes above the bare import.
    """
    if isinstance(more.get("published"), list):
        more["published"] = spread(more["published"])
    return {"section": section, "what": what, "size": size, "unit": unit, "tool": spread(tool), **more}


def beside_rate(action: Callable[[], Any], precision: str = "fp32") -> tuple[Any, float]:
    """The result of an action, and the rate of a product measured before and after it, the higher one."""
    before = fastest_rate(precision)
    result = action()
    return result, max(before, fastest_rate(precision))


def image_operations(model: Swan) -> float:
    """Operations to encode one image."""
    return operations_of(model.encode_images, model.settings.image_size)


def caption_operations(model: Swan, batch: int = 256) -> float:
    """Operations to encode one caption of `WORDS` words."""
    tokens = torch.randint(1, model.settings.words, (batch, WORDS))
    with torch.inference_mode():
        return operations(lambda: model.encode_captions(tokens, torch.full((batch,), WORDS))) / batch


@cache
def bare_import(root: Path) -> int:
    """Bytes of resident memory that torch and torchvision take."""
    return run_child("nothing", root=root).peak


def evaluation(material: Material) -> Iterator[Row]:
    """`swan eval` of test splits of several sizes, results compared with the straightforward path."""
    root, sizes = material.root, material.sizes
    checkpoint = material.trained()
    model = load_checkpoint(checkpoint).model
    costs, bare = (image_operations(model), caption_operations(model)), bare_import(root)
    for count in sizes.evaluated:
        source = material.test_set(count)
        name = source.parent.name
        # Resized once, as the published way does: an odd image resized twice is another image.
        material.prepare(name, source, f"--size={sizes.image_size}")
        command = ["eval", f"--dataset={name}", f"--checkpoint={checkpoint}", "--json"]
        ours, rate = beside_rate(partial(_swans, sizes.runs, *command, root=root))
        distinct = _distinct(source)
        more: Row = {
            "floor": (costs[0] * count + costs[1] * distinct) / rate,
            "memory": max(child.peak for child in ours) - bare,
        }
        work = more | {"note": "after torch's imports"}
        if count == 210 or count == sizes.evaluated[0]:
            whole = run_child("published-evaluation", source, checkpoint, 0, root=root)
            more |= {"published": [whole.whole], "published_memory": whole.peak - bare}
            work |= {"published": [whole.work], "published_pass": spread(_passes(whole))}
            work["largest_difference"] = _compare(material, name, checkpoint, whole.printed, ours[0].printed)
            more["note"] = "published: one run"
        elif count == sizes.evaluated[-1]:
            part = run_child("published-evaluation", source, checkpoint, sizes.passes, root=root)
            each = _passes(part)
            decoded = statistics.median(part.seconds_each("decoded"))
            # Shards that are not full cost less: count images a pass, not passes.
            full = count * -(-5 * count // 128) / 128
            estimate = [seconds * full + decoded * 5 * count for seconds in each]
            passes = json.loads(part.printed.splitlines()[-1])["passes"]
            scaled = f"published: {len(each)} passes measured, scaled to its {passes}"
            more |= {"published": [part.imports + seconds for seconds in estimate], "note": scaled}
            work |= {"published": estimate, "note": f"after torch's imports; {scaled}"}
        yield row("eval", "whole process", count, "s", [child.whole for child in ours], **more)
        yield row("eval", "work", count, "s", [child.work for child in ours], **work)


def _passes(published: Child) -> list[float]:
    """Seconds of each pass over a pair of shards, the first one from when all images were decoded."""
    moments = [at for at, phase, _ in published.events if phase == "decoded"][-1:]
    moments += [at for at, phase, _ in published.events if phase == "passes"]
    return np.diff(moments).tolist()


def _distinct(source: Path) -> int:
    return len({sentence["raw"] for image in _listed(source) for sentence in image["sentences"]})


def _compare(material: Material, name: str, checkpoint: Path, published: str, ours: str) -> float:
    """The largest difference of two similarities; ends the benchmark when it, or a recall, is not equal."""
    similarity = np.load(json.loads(published.splitlines()[-1])["similarity"])
    output = material.root / f"{name}.h5"
    command = ["embed", f"--dataset={name}", f"--checkpoint={checkpoint}", f"--output={output}"]
    swan(*command, root=material.root)
    embeddings = read_embeddings(output)
    difference = float(np.abs(embeddings.image @ embeddings.caption.T - similarity).max())
    if difference > 1e-5:
        raise SystemExit(f"{name}: similarities differ by {difference:.1e}")
    # Equal captions, encoded in different shards, differ in the last digit; under a tie rule they must not.
    _, first, same = np.unique(embeddings.caption, axis=0, return_index=True, return_inverse=True)
    similarity = similarity[:, first[same.ravel()]]
    plain = retrieval_scores(matrix_grids(similarity), embeddings.catalogue.image)
    report = json.loads(ours)
    for short, direction in (("i2t", plain.image_to_text), ("t2i", plain.text_to_image)):
        for k, recall in direction.recall.items():
            if abs(recall - report[short][f"R@{k}"]) > 1e-9:
                raise SystemExit(f"{name}: {short} R@{k} is {report[short][f'R@{k}']}, plainly {recall}")
    return difference


def embedding(material: Material) -> Iterator[Row]:
    """`swan embed --images` of folders of several sizes; published: one straightforward pass an image."""
    root, sizes = material.root, material.sizes
    checkpoint, bare = material.trained(), bare_import(root)
    cost = image_operations(load_checkpoint(checkpoint).model)
    part = run_child("published-evaluation", material.test_set(128), checkpoint, sizes.passes, root=root)
    passes = _passes(part)
    ways = [(count, "fp32") for count in sizes.embedded]
    if sizes.variations:
        ways.append((sizes.embedded[-2], "bf16"))
    for count, precision in ways:
        command = ["embed", f"--images={material.folder(count)}", f"--checkpoint={checkpoint}"]
        command += [f"--output={root / 'embedded.h5'}", f"--precision={precision}"]
        runs = 1 if count >= sizes.long or precision == "bf16" else sizes.runs
        children, rate = beside_rate(partial(_swans, runs, *command, root=root), precision)
        more = {"published": [128 / seconds for seconds in passes], "floor": rate / cost}
        memory = max(child.peak for child in children) - bare
        named = ", bf16" if precision == "bf16" else ""
        running = [rate for child in children for rate in child.rates("images", sizes.runs // runs)]
        if runs < sizes.runs:
            more["note"] = f"one run; once running in {sizes.runs} parts of it"
        yield row("embed", f"once running{named}", count, "images/s", running, **more, memory=memory)
        whole = [count / child.whole for child in children]
        yield row("embed", f"whole process{named}", count, "images/s", whole, **more)


def _swans(runs: int, *command: str, root: Path) -> list[Child]:
    return [swan(*command, root=root) for _ in range(runs)]


def training(material: Material) -> Iterator[Row]:
    """Steps of `swan train`: exact and on features; published: an image decoded and encoded a pair."""
    root, sizes = material.root, material.sizes
    checkpoint = material.trained()
    model = load_checkpoint(checkpoint).model
    standing = sizes.batches[len(sizes.batches) // 2]
    published = run_child(
        "published-training", material.training_set(), checkpoint, standing, sizes.runs + 1, root=root
    )
    slow = [standing / seconds for seconds in published.seconds_each("steps")]
    views = sizes.training * VIEWS + 20
    writing, rate = beside_rate(material.features)
    floor = rate / operations_of(model.backbone, sizes.image_size)
    written = writing.rates("views", sizes.runs)
    note = f"one run, {sizes.runs} parts of it"
    yield row("train", "writing features", views, "images/s", written, floor=floor, note=note)

    exact, features = [*material.network(), "--freeze"], ["--features"]
    ways = {"exact": (exact, 1, sizes.batches), "features": (features, 1, sizes.batches)}
    if sizes.variations:
        ways |= {
            "exact, compiled": ([*exact, "--compile"], 1, (standing,)),
            "exact, bf16": ([*exact, "--precision=bf16"], 1, (standing,)),
            "exact, 5 captions a pass": (exact, 5, (standing,)),
            "features, 5 captions a pass": (features, 5, (standing,)),
        }
    bare = bare_import(root)
    for name, (options, captions, batches) in ways.items():
        for batch in batches:
            run = f"timed-{name.replace(', ', '-').replace(' ', '-')}-{batch}"
            command = ["train", "--dataset=small", "--epochs=1", f"--run={run}", f"--batch-size={batch}"]
            command += [f"--captions-per-image={captions}", *options]
            precision = "bf16" if "bf16" in name else "fp32"
            # The second step still grows the memory, and the last one of an epoch may be smaller.
            enough = min(sizes.runs + 2, 5 * sizes.training // batch)
            child, rate = beside_rate(partial(swan, *command, root=root, steps=enough), precision)
            seconds = child.seconds_each("steps")
            more: Row = {"published": slow} if batch == standing else {}
            more["floor"] = (
                rate * batch / step_operations(model, batch, captions, features=options == features)
            )
            more["memory"] = child.peak - bare
            pairs = [batch / each for each in seconds[1:] or seconds]
            yield row("train", name, batch, "pairs/s", pairs, **more)


def operations_of(encode: Callable[[torch.Tensor], Any], size: int, batch: int = 32) -> float:
    """Operations per picture with sides of `size` pixels."""
    with torch.inference_mode():
        pixels = torch.randn(batch, 3, size, size)
        return operations(lambda: encode(pixels)) / batch


def step_operations(model: Swan, batch: int, captions: int, features: bool) -> float:
    """Operations of a training step, forward and backward, of n captions, several per image.

    Counted for two small batches; all but a thousandth of it grows in proportion.
    """
    small, large = (_counted_step(model, images * captions, captions, features) for images in (4, 8))
    each = (large - small) / (4 * captions)
    return small + each * (batch - 4 * captions)


def _counted_step(model: Swan, batch: int, captions: int, features: bool) -> int:
    images = batch // captions
    model.train()
    pixels = torch.randn(images, 3, model.settings.image_size, model.settings.image_size)
    tokens = torch.randint(1, model.settings.words, (batch, WORDS))
    positive = torch.eye(images, dtype=torch.bool).repeat_interleave(captions, dim=1)[:, :batch]
    encode = partial(model.encode_images, pixels)
    if features:
        with torch.no_grad():
            encode = partial(model.encode_maps, model.backbone(pixels))

    def step() -> None:
        scores = encode() @ model.encode_captions(tokens, torch.full((batch,), WORDS)).T
        hinge_loss(scores, positive, ~positive).backward()

    counted = operations(step)
    model.zero_grad(set_to_none=True)
    model.eval()
    return counted


def preparing(material: Material) -> Iterator[Row]:
    """`swan prepare` of parts of UCM; published: each image decoded once a caption, on one core."""
    root, sizes = material.root, material.sizes
    cores = torch.get_num_threads()
    for count in sizes.prepared:
        source = material.part_of_ucm(count)
        name = source.parent.name
        files = [source.parent / "images" / entry["filename"] for entry in _listed(source)][:200]
        once = repeated(lambda files=files: timed(lambda: _decode(files)) / len(files), sizes.runs)
        children = [material.prepare(name, source) for _ in range(sizes.runs)]
        size = (root / name / "dataset.h5").stat().st_size
        floor = max(count * statistics.median(once) / cores, size / disk_bandwidth(root))
        more: Row = {"published": [5 * count * seconds for seconds in once], "floor": floor}
        more["note"] = "published: decoding alone, once a caption, on one core"
        yield row("prepare", "work", count, "s", [child.work for child in children], **more)


def _decode(files: list[Path]) -> None:
    for file in files:
        decode_image(file.read_bytes(), str(file))


def _listed(source: Path) -> list[dict]:
    return json.loads(source.read_text())["images"]


def querying(material: Material) -> Iterator[Row]:
    """Start-up, a cold `swan query`, and a stream of questions; the published code has none of them."""
    root, sizes = material.root, material.sizes
    checkpoint = material.trained()
    executable = Path(sys.executable).with_name("swan")
    quiet = {"stdout": DEVNULL, "check": True}
    helped = repeated(lambda: timed(lambda: subprocess.run([executable, "--help"], **quiet)), 2 * sizes.runs)
    yield row("query", "swan --help", 0, "s", helped)
    bandwidth = memory_bandwidth()
    for count in sizes.searched:
        path = _searched(root, checkpoint, count)
        command = [executable, "query", "many boats in a harbor", "--json", f"--embeddings={path}"]
        cold, bare = [], []
        for _ in range(2 * sizes.runs):
            bare.append(timed(lambda: subprocess.run([sys.executable, "-c", "import torch"], **quiet)))
            cold.append(timed(lambda command=command: subprocess.run(command, **quiet)))
        yield row(
            "query", "cold", count, "s", cold, floor=statistics.median(bare), note="floor: import torch"
        )
        scan = 1000 * count * 512 * 4 / bandwidth
        singly, together = _stream(executable, path, sizes.questions)
        yield row("query", "--batch, one by one", count, "ms", singly, floor=scan)
        yield row("query", "--batch, in blocks", count, "ms", together)


def _searched(root: Path, checkpoint: Path, count: int) -> Path:
    """An embeddings file of n random images of that checkpoint."""
    path = root / f"searched{count}.h5"
    vectors = np.random.default_rng(0).standard_normal((count, 512), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    catalogue = Catalogue.of((f"{row}.jpg" for row in range(count)), ["field"] * count, ["test"] * count)
    loaded = load_checkpoint(checkpoint)
    embeddings = Embeddings(
        vectors,
        np.empty((0, 512), np.float32),
        catalogue,
        dataset="random",
        made_by=loaded.made_by,
    )
    write_embeddings(path, embeddings, catalogue.filename)
    return path


def _stream(executable: Path, path: Path, questions: int) -> tuple[list[float], list[float]]:
    """Milliseconds a question of `--batch`: each asked after the answer before it, and all at once."""
    command = [executable, "query", "--batch", "--json", "--quiet", f"--embeddings={path}"]
    asked = [f"many boats in a harbor beside {number} roads and a green field" for number in range(questions)]
    singly, together = [], []
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, text=True) as searching:

        def ask(text: str) -> None:
            searching.stdin.write(text)
            searching.stdin.flush()

        for question in asked[:220]:
            begun = perf_counter()
            ask(f"{question}\n")
            searching.stdout.readline()
            singly.append(1000 * (perf_counter() - begun))
        for block in range(5):
            mine = asked[block::5]
            begun = perf_counter()
            ask("".join(f"{question}\n" for question in mine))
            for _ in mine:
                searching.stdout.readline()
            together.append(1000 * (perf_counter() - begun) / len(mine))
        searching.stdin.close()
    return singly[20:], together


SECTIONS = {
    "eval": evaluation,
    "embed": embedding,
    "train": training,
    "prepare": preparing,
    "query": querying,
}
