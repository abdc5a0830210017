"""The frozen backbone's maps of a few views an image, computed once: an epoch then trains the heads alone.

swan prepare --dataset ucm --features --backbone resnet50 --weights resnet50.pth
swan train --dataset ucm --features

A view costs about 1.2 MB with resnet50 at 256 px: what the heads read of the three deep maps, in half
precision, and the view's pixels, from which the shallow map is computed again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from os import PathLike
from pathlib import Path

import h5py
import numpy as np
import torch

from swancli.errors import StoreError, SwanError
from swancli.machine.device import autocast, image_batch, move
from swancli.machine.progress import Progress, quiet
from swancli.machine.threads import read_ahead
from swancli.model.backbone import Backbone
from swancli.model.encoder import Encoder
from swancli.model.inputs import normalise, stack_images
from swancli.model.settings import CHANNELS
from swancli.model.swan import Swan
from swancli.store.dataset import Dataset
from swancli.store.digest import content_digest
from swancli.store.hdf5 import (
    FEATURES,
    WRITTEN_BY,
    array_in,
    create_store,
    damage_named,
    open_store,
    text_attribute,
)
from swancli.train.batches import augment, draw_views, stored_size

DEEP = ("deep1", "deep2", "deep3")
STRIDES = (16, 16, 32)  # of the deep maps, deep1 at every second pixel
GIGABYTE = 10**9


@dataclass(frozen=True)
class FeatureSettings:
    """What features are made of; a run that trains on them takes all of it over.

    backbone: as in `ModelSettings`.
    weights: absolute path of the backbone's weights; "" for the random ones of the seed.
    image_size: as in `ModelSettings`.
    augmentation: as in `TrainSettings`.
    views: number of varied views of each training image.
    seed: as in `TrainSettings`.
    """

    backbone: str
    weights: str
    image_size: int
    augmentation: str
    views: int = 4
    seed: int = 0

    def view_bytes(self) -> int:
        """Bytes that one view takes."""
        sides = (-(-self.image_size // stride) for stride in STRIDES)
        cells = sum(
            side**2 * channels for side, channels in zip(sides, CHANNELS[self.backbone][1:], strict=True)
        )
        return 2 * cells + 3 * self.image_size**2


@dataclass(frozen=True)
class FeatureCost:
    """What features take.

    training: number of training images.
    validation: number of validation images.
    views: number of varied views of each training image.
    size: in bytes.
    """

    training: int
    validation: int
    views: int
    size: int


def features_cost(
    dataset: Dataset, settings: FeatureSettings, path: str | PathLike[str], most: float
) -> FeatureCost:
    """The disk use of features, before they are made.

    Args:
        dataset: whose training and validation images are counted.
        settings: of the features.
        path: where they will be written.
        most: the cap, in GB (10^9 bytes).

    Raises:
        SwanError: they take more than the cap, or than the disk has free; names the views that would fit.
    """
    training, validation = (len(dataset.rows_of(split)) for split in ("train", "val"))
    one = settings.view_bytes()
    cost = FeatureCost(training, validation, settings.views, one * (training * settings.views + validation))
    folder = next(parent for parent in Path(path).resolve().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if cost.size > min(most * GIGABYTE, free):
        capped = most * GIGABYTE <= free
        limit = f"--max-gb {most:g}" if capped else f"the {free / GIGABYTE:.1f} GB free there"
        fitting = int((min(most * GIGABYTE, free) / one - validation) // training)
        smaller = f"{'raise --max-gb' if capped else 'make room'}, or take a smaller --image-size"
        raise SwanError(
            f"{path}: {settings.views} views of {training} images take {cost.size / GIGABYTE:.1f} GB, "
            f"more than {limit}",
            f"take --views {fitting}" if fitting > 0 else smaller,
        )
    return cost


def write_features(
    dataset: Dataset,
    settings: FeatureSettings,
    path: Path,
    device: torch.device,
    progress: Progress,
) -> None:
    """Writes a `features.h5`: varied views of the training images, one plain view of each validation image.

    Raises:
        SwanError: the weights do not fit the backbone, its maps are too large for half precision, or there is
            no train or val split.
    """
    torch.manual_seed(settings.seed)
    backbone = Backbone(settings.backbone, frozen=True)
    if settings.weights:
        backbone.load_weights(Path(settings.weights))
    digest = backbone.digest()
    backbone = backbone.eval().to(device, memory_format=torch.channels_last)
    rows = np.concatenate([np.repeat(dataset.rows_of("train"), settings.views), dataset.rows_of("val")])
    varied = np.arange(len(rows)) < settings.views * len(dataset.rows_of("train"))
    with create_store(path, FEATURES) as file:
        file.attrs.update(asdict(settings))
        file.attrs.update(dataset=dataset.name, dataset_digest=dataset.digest, backbone_digest=digest)
        file.create_dataset("views/image", data=rows)
        file.create_dataset("views/varied", data=varied)
        progress("views", 0, len(rows))
        for start, pixels in read_ahead(_view_pixels(dataset, settings, rows, varied, device)):
            stop = start + len(pixels)
            with torch.inference_mode(), autocast(device, "fp32"):
                maps = backbone(normalise(move(pixels, device)))
            _append(file, "pixels", pixels, len(rows), start)
            for depth in DEEP:
                halved = maps[depth].half().cpu()
                if not halved.isfinite().all():
                    raise SwanError(
                        f"{settings.weights or 'random weights'}: maps of the backbone exceed half precision",
                        "train without --features, or give trained weights: --weights FILE",
                    )
                _append(file, depth, halved, len(rows), start)
            file.check()
            progress("views", stop, len(rows))


def _view_pixels(
    dataset: Dataset, settings: FeatureSettings, rows: np.ndarray, varied: np.ndarray, device: torch.device
) -> Iterator[tuple[int, torch.Tensor]]:
    """Batches of views as uint8 (B, 3, S, S), with the row of the first; varied and plain ones apart."""
    generator = torch.Generator().manual_seed(settings.seed)
    size = image_batch(device)
    for kind, places in ((settings.augmentation, np.flatnonzero(varied)), ("none", np.flatnonzero(~varied))):
        source = stored_size(settings.image_size, kind)
        for first in range(0, len(places), size):
            batch = places[first : first + size]
            pixels = stack_images((dataset.image(row) for row in rows[batch]), source)
            views = draw_views(len(batch), source, settings.image_size, kind, generator)
            yield int(batch[0]), augment(pixels, views).round().to(torch.uint8)


def _append(file: h5py.File, name: str, batch: torch.Tensor, count: int, start: int) -> None:
    """Writes (B, C, H, W) as rows of (count, H, W, C), one chunk a row."""
    rows = batch.permute(0, 2, 3, 1).numpy()
    name = f"views/{name}"
    if name not in file:
        file.create_dataset(name, (count, *rows.shape[1:]), rows.dtype, chunks=(1, *rows.shape[1:]))
    file[name][start : start + len(rows)] = rows


class Features:
    """A `features.h5` opened for reading; use it as a context manager.

    Attributes:
        settings: what it is made of. identity: a hash of that, of the data set and of the backbone's weights.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = path = Path(path)
        self._file = open_store(path, FEATURES)
        try:
            with damage_named(path, FEATURES):
                self._read_layout()
        except StoreError:
            self._file.close()
            raise

    def _read_layout(self) -> None:
        attributes = self._file.attrs
        plain = {field.name: attributes[field.name] for field in fields(FeatureSettings)}
        self.settings = FeatureSettings(
            **{name: value if isinstance(value, str) else int(value) for name, value in plain.items()}
        )
        if self.settings.backbone not in CHANNELS:
            raise ValueError(f"its backbone is {self.settings.backbone!r}")
        self._dataset_digest, self._backbone_digest = (
            text_attribute(self._file, name) for name in ("dataset_digest", "backbone_digest")
        )
        self.identity = content_digest([asdict(self.settings), self._dataset_digest, self._backbone_digest])
        self._image = array_in(self._file, "views/image", "iu", None)[:]
        count, size = len(self._image), self.settings.image_size
        varied = array_in(self._file, "views/varied", "b", count)[:]
        self._arrays = {"pixels": array_in(self._file, "views/pixels", "u", count, size, size, 3)}
        channels = CHANNELS[self.settings.backbone][1:]
        for name, stride, deep in zip(DEEP, STRIDES, channels, strict=True):
            side = -(-size // stride)
            self._arrays[name] = array_in(self._file, f"views/{name}", "f", count, side, side, deep)
        self._varied = self._rows_by_image(varied)
        self._plain = self._rows_by_image(~varied)

    def _rows_by_image(self, wanted: np.ndarray) -> dict[int, np.ndarray]:
        rows = np.flatnonzero(wanted)
        images, starts = np.unique(self._image[rows], return_index=True)
        return dict(zip(images.tolist(), np.split(rows, starts[1:]), strict=True))

    def check(self, dataset: Dataset, model: Swan, augmentation: str) -> None:
        """Refuses a run that these features were not made for.

        Raises:
            SwanError: it would train the backbone, or they come from another data set, other weights, another
                image size or other views.
        """
        own = model.settings
        again = f"make them again, also with --weights: swan prepare --dataset {dataset.name} --features"
        if not own.frozen:
            raise SwanError(
                "--features trains the heads alone, the backbone stays frozen", "drop --fine-tune"
            )
        if own.quirks.drifting_statistics:
            raise SwanError(
                "--features: the published backbone's maps depend on the batch they are in (its item 6)",
                "train without --features, or --variant repaired",
            )
        if self._dataset_digest != dataset.digest:
            raise SwanError(
                f"{self.path}: made from another data set, or before it was prepared again", again
            )
        wanted = {"backbone": own.backbone, "image_size": own.image_size, "augmentation": augmentation}
        for name, value in wanted.items():
            if getattr(self.settings, name) != value:
                option = "--" + name.replace("_", "-")
                problem = f"{self.path}: made with {option} {getattr(self.settings, name)}, not {value}"
                raise SwanError(problem, f"leave {option} out, or {again}")
        if self._backbone_digest != model.backbone.digest():
            raise SwanError(f"{self.path}: made with other weights of the backbone", again)
        for split, views in (("train", self._varied), ("val", self._plain)):
            lacking = [row for row in dataset.rows_of(split).tolist() if row not in views]
            if lacking:
                problem = f"no view of {len(lacking)} {split} images, first {lacking[0]}"
                raise SwanError(f"{self.path}: {problem}", again)

    def varied(self, images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """A random varied view, as its row int64 (n,), of each of some images."""
        return np.array([generator.choice(self._varied[image]) for image in images.tolist()])

    def plain(self, images: np.ndarray) -> np.ndarray:
        """The plain view, as its row int64 (n,), of each of some validation images."""
        return np.array([self._plain[image][0] for image in images.tolist()])

    def read(self, rows: np.ndarray) -> tuple[torch.Tensor, None, dict[str, torch.Tensor]]:
        """`pixels`, `views` (none) and `deep` of a batch of views, as `train.batches.Batch` holds them.

        Raises:
            StoreError: the file is damaged there, or a map contains NaN or infinity.
        """
        with damage_named(self.path, FEATURES):
            parts = {
                name: torch.from_numpy(np.stack([array[row] for row in rows])).permute(0, 3, 1, 2)
                for name, array in self._arrays.items()
            }
        for name, values in parts.items():
            if name != "pixels" and not values.isfinite().all():
                first = rows[values.isfinite().flatten(1).all(dim=1).logical_not().nonzero()[0, 0]]
                again = f"make it again: {WRITTEN_BY[FEATURES]}"
                raise StoreError(f"{self.path}: /views/{name}[{first}] contains NaN or infinity", again)
        return parts.pop("pixels"), None, parts

    def __enter__(self) -> Features:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def encode_features(
    encoder: Encoder, features: Features, images: np.ndarray, progress: Progress = quiet
) -> np.ndarray:
    """Embeddings of the plain views of validation images.

    Args:
        encoder: of the model whose heads are applied.
        features: of the data set of the images.
        images: int64 (n,), their rows in the data set, at least one.
        progress: called after each batch.

    Returns:
        float32 (n, D), L2-normalised.
    """
    rows = features.plain(images)

    def batches() -> Iterator[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
        for start in range(0, len(rows), encoder.batch_size):
            pixels, _, deep = features.read(rows[start : start + encoder.batch_size])
            yield pixels, deep
            progress("images", start + len(pixels), len(rows))

    return encoder.views(batches())
