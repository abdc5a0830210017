"""What a recipe is worth: the default of `swan train` beside the published one, from the same weights.

python tests/benchmarks/recipes.py --data FOLDER --root DIR         # hours on two cores; resumes
python tests/benchmarks/recipes.py --data FOLDER --root DIR --gpu    # resnet50 at 256 px
python tests/benchmarks/recipes.py --data FOLDER --root DIR --ship   # the checkpoint that comes with swan
python tests/benchmarks/recipes.py --show                            # the tables of recipes.json

FOLDER holds `ucm/` and `rsicd/`. The figures for RSICD are those of its validation split, which serves as the
test split here; a tenth of the training images, drawn within each scene, validates in its place. Both recipes
start from a backbone that was trained to classify the scenes of the data set's own training images.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swancli.store.atomic import atomic_path

RECIPES = Path(__file__).with_name("recipes.json")
SHIPPED = Path(__file__).resolve().parents[2] / "assets" / "shipped.pt"
SHARED = Path(__file__).resolve().parents[3] / "shared" / "datasets"
SEEDS = (0, 1, 2)
SETTINGS = {"frozen": "--freeze", "fine-tuned": "--fine-tune"}
VARIANTS = {"default": "repaired", "published": "published"}
WAYS = {"i2t": "image-to-text", "t2i": "text-to-image"}
AT = (1, 5, 10)


@dataclass(frozen=True)
class Size:
    """What a machine can bear. pretrain: epochs by data set; epochs: by data set and setting."""

    backbone: str
    image_size: int
    embed_dim: int
    pretrain: dict[str, int]
    epochs: dict[tuple[str, str], int]
    workers: int

    @property
    def shape(self) -> list[str]:
        """The options that every training shares."""
        return [
            f"--backbone={self.backbone}",
            f"--image-size={self.image_size}",
            f"--embed-dim={self.embed_dim}",
            "--precision=bf16",
        ]


CPU = Size(
    backbone="resnet18",
    image_size=96,
    embed_dim=256,
    pretrain={"ucm": 50, "rsicd": 30},
    epochs={
        ("ucm", "frozen"): 4,
        ("ucm", "fine-tuned"): 3,
        ("rsicd", "frozen"): 2,
        ("rsicd", "fine-tuned"): 1,
    },
    workers=2,
)
GPU = Size(
    backbone="resnet50",
    image_size=256,
    embed_dim=512,
    pretrain={"ucm": 100, "rsicd": 60},
    epochs={(dataset, setting): 30 for dataset in ("ucm", "rsicd") for setting in SETTINGS},
    workers=2,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("--root", type=Path, default=Path("recipes"))
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--only", action="append", choices=["ucm", "rsicd"])
    parser.add_argument("--setting", action="append", choices=list(SETTINGS))
    parser.add_argument("--seed", action="append", type=int, help="one of them; default: 0, 1 and 2")
    parser.add_argument("--ship", action="store_true", help="train and write assets/shipped.pt, no more")
    parser.add_argument("--show", action="store_true", help="train nothing")
    options = parser.parse_args()
    if options.ship:
        return ship(options.data, options.root, CPU)
    if not options.show:
        size, machine = (GPU, "gpu") if options.gpu else (CPU, "cpu")
        prepare(options.data, options.root)
        datasets = options.only or ("ucm", "rsicd")
        weights = {dataset: scene_backbone(options.root, size, dataset) for dataset in datasets}
        planned = [
            (dataset, setting, recipe, seed)
            for seed in options.seed or SEEDS
            for dataset in datasets
            for setting in options.setting or SETTINGS
            for recipe in ("published", "default")
        ]
        with ThreadPoolExecutor(size.workers) as pool:
            rows = [
                pool.submit(measure, options.root, size, weights[plan[0]], machine, *plan) for plan in planned
            ]
            for row in as_completed(rows):
                keep(row.result())
    print(table(json.loads(RECIPES.read_text())) if RECIPES.exists() else "nothing measured yet")


def swan(root: Path, *arguments: str, workers: int = 1) -> str:
    """Standard output of a command; ends the script with what it said when it fails."""
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    done = subprocess.run(
        [sys.executable, "-m", "swancli", *arguments],
        env={**os.environ, "SWAN_ROOT": str(root), "OMP_NUM_THREADS": threads},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"swan {' '.join(arguments)}\n{done.stderr}")
    return done.stdout


def prepare(data: Path, root: Path) -> None:
    """Both data sets and their vocabularies."""
    root.mkdir(parents=True, exist_ok=True)
    listed = json.loads((data / "rsicd" / "dataset_rsicd.json").read_text())
    listed["images"] = [image for image in listed["images"] if image["split"] != "test"]
    for image in listed["images"]:
        image["split"] = "test" if image["split"] == "val" else image["split"]
    source = root / "rsicd.json"
    source.write_text(json.dumps(listed))
    drawn = ["--split=stratified", "--val-fraction=0.1", "--missing=skip"]
    for name, options in {
        "ucm": [f"--source={data / 'ucm'}"],
        "rsicd": [f"--source={source}", f"--images={data / 'rsicd' / 'images'}", *drawn],
    }.items():
        if not (root / name / "dataset.h5").exists():
            swan(root, "prepare", f"--dataset={name}", *options)
        if not (root / name / "vocab.h5").exists():
            swan(root, "vocab", f"--dataset={name}")


def scene_backbone(root: Path, size: Size, dataset: str) -> Path:
    """A backbone that was trained to tell the scenes of a data set's training images apart."""
    path = root / dataset / f"backbone-{size.backbone}.pt"
    if not path.exists():
        shape = [option for option in size.shape if "embed-dim" not in option]
        print(
            swan(root, "pretrain", f"--dataset={dataset}", f"--epochs={size.pretrain[dataset]}", *shape),
            flush=True,
        )
    return path


def ship(data: Path, root: Path, size: Size) -> None:
    """Trains on the training images of both data sets together; writes the best checkpoint, halved."""
    from swancli.model.checkpoint import load_checkpoint, save_checkpoint
    from swancli.store.dataset import Dataset

    prepare(data, root)
    weights = scene_backbone(root, size, "rsicd")
    folders = {"ucm": "ucm/images", "rsicd": "rsicd/images"}
    source = root / "overhead.csv"
    with source.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "caption", "split", "scene"])
        for name, folder in folders.items():
            with Dataset(root / name / "dataset.h5") as dataset:
                catalogue = dataset.catalogue
            for text, row in zip(catalogue.text, catalogue.image, strict=True):
                where = f"{folder}/{catalogue.filename[row]}"
                writer.writerow([where, text, catalogue.split[row], catalogue.scene[row] or ""])
    named = "--dataset=overhead"
    if not (root / "overhead" / "dataset.h5").exists():
        swan(root, "prepare", named, f"--source={source}", f"--images={data}", "--size=150")
    swan(root, "vocab", named, "--min-count=2")
    shape = [option for option in size.shape if "image-size" not in option]
    recipe = [f"--weights={weights}", "--fine-tune", "--image-size=128", "--epochs=6", "--batch-size=200"]
    recipe += ["--captions-per-image=5", "--lr=1e-3"]  # which `train` took by itself when this was measured
    begun = (root / "overhead" / "runs" / "joint" / "config.json").exists()
    swan(root, "train", named, "--run=joint", *(["--resume"] if begun else [*shape, *recipe]))
    best = load_checkpoint(root / "overhead" / "runs" / "joint" / "best.pt")
    origin = {
        "dataset": "",  # so that it belongs to none, and embeds whatever is at hand
        "run": "shipped",
        "epoch": best.origin["epoch"],
        "val_mR": best.origin["val_mR"],
        "match_threshold": best.origin["match_threshold"],
        "trained_on": "training splits of RSICD and UCM-Captions",
    }
    save_checkpoint(SHIPPED, best.model.half(), best.tokenizer, origin)
    print(f"wrote {SHIPPED}: {SHIPPED.stat().st_size / 1e6:.1f} MB")


def measure(
    root: Path, size: Size, weights: Path, machine: str, dataset: str, setting: str, recipe: str, seed: int
) -> dict[str, Any]:
    """Trains a run to its end, or resumes it, and evaluates it; one row of the results."""
    name, epochs = f"{setting}-{recipe}-{seed}", size.epochs[dataset, setting]
    folder, began = root / dataset / "runs" / name, time.perf_counter()
    if folder.joinpath("config.json").exists():
        swan(root, "train", "--resume", f"--dataset={dataset}", f"--run={name}", workers=size.workers)
    else:
        recipe_options = [f"--variant={VARIANTS[recipe]}", f"--epochs={epochs}", f"--seed={seed}"]
        start = [f"--weights={weights}", SETTINGS[setting]]
        options = [f"--dataset={dataset}", f"--run={name}", *recipe_options, *start, *size.shape]
        swan(root, "train", *options, workers=size.workers)
    evaluated = ["--json", "--scene-recall", "--ceiling", "--new-captions"]
    printed = swan(root, "eval", f"--dataset={dataset}", f"--run={name}", *evaluated, workers=size.workers)
    record = json.loads(printed)
    for key in ("checkpoint", "run"):
        del record[key]
    lines = folder.joinpath("metrics.csv").read_text().splitlines()
    seconds = sum(float(line.split(",")[-1]) for line in lines[1:])
    print(f"{dataset} {name}: mR {record['mR']:.2f} ({time.perf_counter() - began:.0f} s)", flush=True)
    made = {"machine": machine, "setting": setting, "recipe": recipe, "seed": seed, "epochs": epochs}
    return {**made, "minutes": round(seconds / 60, 1), **record}


def keep(row: dict[str, Any]) -> None:
    """Puts a row into the results, in place of an older one of the same run."""
    names = ("machine", "dataset", "setting", "recipe", "seed")
    rows = json.loads(RECIPES.read_text()) if RECIPES.exists() else []
    rows = [other for other in rows if any(other[name] != row[name] for name in names)] + [row]
    rows.sort(key=lambda other: [str(other[name]) for name in names])
    with atomic_path(RECIPES) as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + "\n")


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line per data set, setting and recipe; means over the seeds, mR with its spread."""
    heads = ["data set", "backbone", "recipe", "seeds", "epochs", "minutes per run"]
    heads += [f"{way} R@{k}" for way in WAYS for k in AT]
    heads += ["mR", "scene recall@10 i2t", "t2i", "mR of new captions", "times published"]
    lines = [heads, ["---"] * len(heads)]
    groups: dict[tuple[str, str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["machine"], row["dataset"], row["setting"], row["recipe"]), []).append(row)
    for (machine, dataset, setting, recipe), runs in groups.items():
        published = groups.get((machine, dataset, setting, "published"))
        ratio = mean(runs, "mR") / mean(published, "mR") if published and recipe == "default" else None
        lines.append(
            [
                dataset,
                setting,
                recipe,
                ", ".join(str(run["seed"]) for run in runs),
                str(runs[0]["epochs"]),
                f"{mean(runs, 'minutes'):.0f}",
                *(f"{mean(runs, way, f'R@{k}'):.2f}" for way in WAYS for k in AT),
                f"**{mean(runs, 'mR'):.2f}** ± {spread(runs, 'mR'):.2f}",
                *(f"{mean(runs, 'scene_recall', way, 'SR@10'):.1f}" for way in WAYS),
                f"{mean(runs, 'new_captions', 'mR'):.2f}",
                f"{ratio:.2f}" if ratio else "",
            ]
        )
        if recipe == "default":
            ceiling = [f"{runs[0]['ceiling'][way][f'R@{k}']:.2f}" for way in WAYS for k in AT]
            lines.append(
                [dataset, "", "ceiling", "", "", "", *ceiling, f"{runs[0]['ceiling']['mR']:.2f}", *[""] * 4]
            )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def figures(rows: list[dict[str, Any]], *path: str) -> list[float]:
    """One figure of each row, found by its keys."""
    found = []
    for row in rows:
        value: Any = row
        for key in path:
            value = value[key]
        found.append(float(value))
    return found


def mean(rows: list[dict[str, Any]], *path: str) -> float:
    """Over the seeds."""
    return statistics.fmean(figures(rows, *path))


def spread(rows: list[dict[str, Any]], *path: str) -> float:
    """The standard deviation over the seeds (n - 1); 0 for one."""
    values = figures(rows, *path)
    return statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
