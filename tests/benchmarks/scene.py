"""Memory and time of searching one large scene, with a small model: the scene's size is what is measured.

    python tests/benchmarks/scene.py
    python tests/benchmarks/scene.py --side 10000 --folder DIR

A scene of noise is written by windows into a temporary folder (2.7 GB for 30,000 pixels a side) and removed
afterwards. Memory is above what `import torch, torchvision` takes.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
from pathlib import Path

import numpy as np
import rasterio
import torch
from measure import MEGABYTE, Child, run_child, swan
from rasterio.windows import Window

from swancli.model.checkpoint import save_checkpoint
from swancli.model.settings import ModelSettings
from swancli.model.swan import Swan
from swancli.vocab.vocabulary import UNKNOWN, Vocabulary

BLOCK = 512  # pixels, of the tiled GeoTIFF
WORDS = ("a", "stadium", "beside", "river", UNKNOWN)


def write_scene(path: Path, side: int) -> None:
    """A GeoTIFF of coarse noise in UTM zone 32, uncompressed, in blocks of 512 pixels."""
    rng = np.random.default_rng(0)
    affine = rasterio.Affine(0.3, 0, 500000, 0, -0.3, 5000000)
    shape = {"height": side, "width": side, "count": 3, "dtype": "uint8"}
    blocks = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK}
    with rasterio.open(
        path, "w", driver="GTiff", crs="EPSG:32632", transform=affine, **shape, **blocks
    ) as file:
        for _, window in file.block_windows(1):
            coarse = rng.integers(0, 256, (3, BLOCK // 16, BLOCK // 16), np.uint8)
            pixels = coarse.repeat(16, axis=1).repeat(16, axis=2)
            file.write(pixels[:, : window.height, : window.width], window=Window(*window.flatten()))


def write_checkpoint(path: Path) -> None:
    """A small model of random weights: resnet18 at 32 pixels with 32 dimensions."""
    torch.manual_seed(0)
    model = Swan(ModelSettings(words=len(WORDS), image_size=32, embed_dim=32))
    vocabulary = Vocabulary(WORDS, (1,) * len(WORDS), 1, "keep", "")
    save_checkpoint(path, model, vocabulary, {"dataset": "", "run": "", "epoch": 0})


def _processor_seconds() -> float:
    """Of the processes that this one started and that have ended; other work hardly changes them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Prints a line for each command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=30000, help="pixels")
    parser.add_argument("--folder", type=Path, default=None, help="where the scene is written")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        scene, root, checkpoint = folder / "big.tif", folder / "root", folder / "best.pt"
        write_scene(scene, options.side)
        write_checkpoint(checkpoint)
        bare = run_child("nothing", root=root).peak
        question = ["query", "a stadium beside a river", "--scene-image", scene, "--json"]
        files = ["--geojson", folder / "hits.geojson", "--heatmap", folder / "heat.tif"]
        files += ["--overlay", folder / "heat.png"]
        kept = ["--embeddings", folder / "tiles.h5"]
        commands = {
            "query, nothing kept": [*question, *files, "--checkpoint", checkpoint],
            "embed": ["embed", "--scene-image", scene, "--checkpoint", checkpoint, "--output", kept[1]],
            "query, tiles kept": [*question, *kept],
            "query, tiles kept, three files": [*question, *kept, *files],
        }
        for name, command in commands.items():
            before = _processor_seconds()
            done: Child = swan(*command, root=root)
            print(
                json.dumps(
                    {
                        "command": name,
                        "side": options.side,
                        "seconds": round(done.whole, 2),
                        "seconds_after_imports": round(done.work, 2),
                        "processor_seconds": round(_processor_seconds() - before, 2),
                        "memory_above_imports_MB": round((done.peak - bare) / MEGABYTE),
                    }
                ),
                flush=True,
            )
        print(json.dumps({"tiles.h5_MB": round(kept[1].stat().st_size / MEGABYTE)}))


if __name__ == "__main__":
    main()
