"""What is measured on: parts of UCM and RSICD as data sets of their own, and a ResNet-50 with trained heads.

The backbone has random weights, its batch norms the statistics of real images; the heads are trained on its
features. So its embeddings tell images apart, and nothing has to be downloaded.
"""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from measure import Child, swan
from torchvision.models import get_model

from swancli.images import decode_image
from swancli.model.inputs import Preprocessing, stack_images

VIEWS = 4


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    runs: of each measurement.
    long: from this number of images on, there is one run, which is divided into `runs` parts.
    variations: bf16, compiled, and several captions per pass as well.
    """

    backbone: str
    image_size: int
    variations: bool
    runs: int
    long: int
    evaluated: tuple[int, ...]  # test images, the largest from RSICD
    embedded: tuple[int, ...]
    prepared: tuple[int, ...]
    searched: tuple[int, ...]
    training: int  # training images, five captions each
    batches: tuple[int, ...]  # captions in a step
    questions: int
    passes: int  # of the published evaluation, where it is measured in part


FULL = Sizes(
    backbone="resnet50",
    image_size=256,
    variations=True,
    runs=5,
    long=1000,
    evaluated=(50, 105, 210, 1093),
    embedded=(100, 200, 1000, 5000),
    prepared=(100, 500, 1000, 2100),
    searched=(1000, 10_000, 30_000, 100_000),
    training=300,
    batches=(25, 50, 100, 200),
    questions=2000,
    passes=5,
)
QUICK = Sizes(
    backbone="resnet18",
    image_size=128,
    variations=False,
    runs=1,
    long=5000,
    evaluated=(32,),
    embedded=(64,),
    prepared=(100,),
    searched=(1000,),
    training=40,
    batches=(50,),
    questions=100,
    passes=1,
)


class Material:
    """Data sets below a root, made once for all sections."""

    def __init__(self, data: Path, root: Path, sizes: Sizes) -> None:
        self.root, self.sizes = root, sizes
        self._data = data
        self._ucm_images, self._rsicd_images = data / "ucm" / "images", data / "rsicd" / "images"

    @cached_property
    def _ucm(self) -> list[dict]:
        return _entries(self._data / "ucm" / "dataset.json")

    @cached_property
    def _rsicd(self) -> list[dict]:
        """Those whose image is there."""
        entries = _entries(self._data / "rsicd" / "dataset_rsicd.json")
        return [image for image in entries if (self._rsicd_images / image["filename"]).exists()]

    def captions(self) -> Path:
        """A source of all captions in use, for a vocabulary."""
        return _write(self.root / "captions", [*self._ucm, *self._rsicd], None)

    def test_set(self, count: int) -> Path:
        """The source of a data set of n test images: UCM's own test split, or images of RSICD."""
        of_ucm = [image for image in self._ucm if image["split"] == "test"]
        if count <= len(of_ucm):
            return _write(self.root / f"test{count}", of_ucm[:count], self._ucm_images)
        chosen = [{**image, "split": "test"} for image in self._rsicd[-count:]]
        return _write(self.root / f"test{count}", chosen, self._rsicd_images)

    def training_set(self) -> Path:
        """The source of a data set to train on, with a few images to validate and to test."""
        count = self.sizes.training
        shuffled = random.Random(0).sample(self._ucm, len(self._ucm))
        parts = {"train": count, "val": 20, "test": 20}
        chosen = [
            image
            for split, size in parts.items()
            for image in [image for image in shuffled if image["split"] == split][:size]
        ]
        return _write(self.root / "small", chosen, self._ucm_images)

    def part_of_ucm(self, count: int) -> Path:
        """The source of the first n images of UCM."""
        return _write(self.root / f"part{count}", self._ucm[:count], self._ucm_images)

    def folder(self, count: int) -> Path:
        """A folder of n images, those of UCM first."""
        files = [self._ucm_images / image["filename"] for image in self._ucm]
        files += [self._rsicd_images / image["filename"] for image in self._rsicd]
        folder = self.root / f"folder{count}"
        folder.mkdir(exist_ok=True)
        for place, file in enumerate(files[:count]):
            link = folder / f"{place:05}{file.suffix}"
            if not link.exists():
                shutil.copyfile(file, link)  # a symbolic one would lead out of the folder
        return folder

    def backbone(self) -> Path:
        """A state dict of random weights, its statistics taken from images of UCM."""
        path = self.root / f"{self.sizes.backbone}.pt"
        if not path.exists():
            torch.manual_seed(0)
            network = get_model(self.sizes.backbone, weights=None)
            files = [self._ucm_images / image["filename"] for image in self._ucm[::33]]
            input_of = Preprocessing(self.sizes.image_size)
            pictures = [input_of.resized(decode_image(file.read_bytes(), str(file))) for file in files]
            with torch.no_grad():
                for start in range(0, len(pictures), 16):
                    network(input_of.normalise(stack_images(pictures[start : start + 16])))
            torch.save(network.state_dict(), path)
        return path

    def trained(self) -> Path:
        """The checkpoint of heads trained on features of the small data set, made when it is not there."""
        checkpoint = self.root / "small" / "runs" / "heads" / "best.pt"
        if not checkpoint.exists():
            self.prepare("small", self.training_set())
            swan("vocab", "--dataset=small", f"--source={self.captions()}", "--splits=all", root=self.root)
            self.features()
            self.train_heads("heads", "--epochs=3", "--lr=1e-3")
        return checkpoint

    def prepare(self, name: str, source: Path, *options: str) -> Child:
        """Prepares a data set."""
        images = source / "images"
        if images.is_symlink():  # one that leads elsewhere is taken only if it is given
            options = (f"--images={images}", *options)
        return swan("prepare", f"--dataset={name}", f"--source={source}", *options, root=self.root)

    def features(self) -> Child:
        """Computes the features of the small data set."""
        options = ["--dataset=small", "--features", f"--views={VIEWS}", *self.network()]
        return swan("prepare", *options, root=self.root)

    def network(self) -> list[str]:
        """The options that name the towers, the backbone's weights and the size of its images."""
        named = {"backbone": self.sizes.backbone, "weights": self.backbone(), "text": "gru"}
        named["image-size"] = self.sizes.image_size
        return [f"--{name}={value}" for name, value in named.items()]

    def train_heads(self, run: str, *options: str) -> Child:
        """Trains heads of the paper's size on the features."""
        return swan("train", "--dataset=small", f"--run={run}", "--features", *options, root=self.root)


def _entries(path: Path) -> list[dict]:
    """The images of a list that have five captions."""
    images = json.loads(path.read_text())["images"]
    return [image for image in images if len(image["sentences"]) == 5]


def _write(folder: Path, images: list[dict], pictures: Path | None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if pictures and not (folder / "images").exists():
        (folder / "images").symlink_to(pictures)
    path = folder / "dataset.json"
    path.write_text(json.dumps({"dataset": folder.name, "images": images}))
    return path
