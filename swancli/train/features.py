"""What frozen towers make of the data, computed once: an epoch then trains the heads alone.

swan prepare --dataset ucm --features --backbone resnet50 --weights resnet50.pth
swan train --dataset ucm --features

Stored in half precision: the four maps of a few views of each image, and, if the text tower is a transformer,
the states of each caption's word pieces.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np
import torch

from swancli.errors import StoreError, SwanError
from swancli.machine.device import autocast, image_batch, move
from swancli.machine.progress import Progress, quiet
from swancli.machine.threads import read_ahead
from swancli.model.backbone import DEPTHS, Backbone, preprocessing_of
from swancli.model.checkpoint import Model
from swancli.model.encoder import CAPTIONS, Encoder
from swancli.model.inputs import Preprocessing, stack_images
from swancli.model.settings import GRU, ModelSettings
from swancli.model.start import frozen_bert
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
from swancli.train.caption_states import CaptionStates, states_of

Result = TypeVar("Result")

GIGABYTE = 10**9
HALF = 2  # bytes
HALF_HINT = "train without --features, or take other weights: --weights FILE or --text NAME"


@dataclass(frozen=True)
class FeatureSettings:
    """What features are made of; a run that trains on them takes all of it over.

    backbone: as in `ModelSettings`.
    weights: absolute path of the backbone's weights; "" for the random ones of the seed.
    image_size: as in `ModelSettings`.
    augmentation: as in `TrainSettings`.
    text: the text tower, as in `RunConfig`; that of the GRU is trained, so it has no features.
    views: number of varied views of each training image.
    seed: as in `TrainSettings`.
    """

    backbone: str
    weights: str
    image_size: int
    augmentation: str
    text: str = GRU
    views: int = 4
    seed: int = 0


class Towers:
    """The frozen towers that features are made with.

    Attributes:
        settings: what they are made of.
        backbone: in evaluation mode, on the CPU.
        shapes: (C, H, W) of each map.
        bert: the text transformer, likewise; None for the GRU.
        pieces: its tokenizer.
    """

    def __init__(self, settings: FeatureSettings) -> None:
        self.settings = settings
        torch.manual_seed(settings.seed)
        self.backbone = Backbone(settings.backbone, frozen=True).eval()
        if settings.weights:
            self.backbone.load_weights(settings.weights)
        self.shapes = self.backbone.map_shapes(settings.image_size)
        self.bert, self.pieces = (None, None) if settings.text == GRU else frozen_bert(settings.text)

    def view_bytes(self) -> int:
        """Bytes that one view takes."""
        return HALF * sum(int(np.prod(shape)) for shape in self.shapes.values())

    def caption_bytes(self, dataset: Dataset) -> int:
        """Bytes that the states of all captions take; captions of the same words are stored once."""
        if not self.bert:
            return 0
        tokens = self.pieces.encode_all(_texts(dataset))
        return HALF * self.bert.shape.width * sum(map(len, tokens))


def _texts(dataset: Dataset) -> list[str]:
    """The different captions of the training and validation images, in order."""
    catalogue = dataset.catalogue
    wanted = np.isin(catalogue.split[catalogue.image], ("train", "val"))
    return list(dict.fromkeys(catalogue.text[wanted]))


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


def features_cost(dataset: Dataset, towers: Towers, path: str | PathLike[str], most: float) -> FeatureCost:
    """The disk use of features, before they are made.

    Args:
        dataset: whose training and validation images, and whose captions, are counted.
        towers: that make the features.
        path: where they will be written.
        most: the cap, in GB (10^9 bytes).

    Raises:
        SwanError: they take more than the cap, or than the disk has free; names the views that would fit.
    """
    training, validation = (len(dataset.rows_of(split)) for split in ("train", "val"))
    one, captions, views = towers.view_bytes(), towers.caption_bytes(dataset), towers.settings.views
    cost = FeatureCost(training, validation, views, one * (training * views + validation) + captions)
    folder = next(parent for parent in Path(path).resolve().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if cost.size > min(most * GIGABYTE, free):
        capped = most * GIGABYTE <= free
        limit = f"--max-gb {most:g}" if capped else f"the {free / GIGABYTE:.1f} GB free there"
        fitting = int(((min(most * GIGABYTE, free) - captions) / one - validation) // training)
        smaller = f"{'raise --max-gb' if capped else 'make room'}, or take a smaller --image-size"
        raise SwanError(
            f"{path}: {views} views of {training} images take {cost.size / GIGABYTE:.1f} GB, "
            f"more than {limit}",
            f"take --views {fitting}" if fitting > 0 else smaller,
        )
    return cost


def write_features(
    dataset: Dataset, towers: Towers, path: Path, device: torch.device, progress: Progress
) -> None:
    """Writes a `features.h5`: varied views of the training images, one plain view of each validation image.

    With a text transformer, also the states of the captions, each text once.

    Raises:
        SwanError: a map is too large for half precision, or there is no train or val split.
    """
    settings = towers.settings
    digest = towers.backbone.digest()
    towers.backbone.to(device, memory_format=torch.channels_last)
    rows = np.concatenate([np.repeat(dataset.rows_of("train"), settings.views), dataset.rows_of("val")])
    varied = np.arange(len(rows)) < settings.views * len(dataset.rows_of("train"))
    with create_store(path, FEATURES) as file:
        file.attrs.update(asdict(settings))
        file.attrs.update(dataset=dataset.name, dataset_digest=dataset.digest, backbone_digest=digest)
        file.attrs["text_digest"] = towers.bert.digest() if towers.bert else ""
        file.create_dataset("views/image", data=rows)
        file.create_dataset("views/varied", data=varied)
        _write_views(file, dataset, towers, rows, varied, device, progress)
        if towers.bert:
            _write_states(file, dataset, towers, device, progress)


def _write_views(
    file: h5py.File,
    dataset: Dataset,
    towers: Towers,
    rows: np.ndarray,
    varied: np.ndarray,
    device: torch.device,
    progress: Progress,
) -> None:
    backbone, settings = towers.backbone, towers.settings
    preprocessing = replace(preprocessing_of(settings.backbone), size=settings.image_size)
    progress("views", 0, len(rows))
    for start, pixels in read_ahead(_view_pixels(dataset, settings, preprocessing, rows, varied, device)):
        with torch.inference_mode(), autocast(device, "fp32"):
            maps = backbone(preprocessing.normalise(move(pixels, device)))
        for depth in DEPTHS:
            halved = _halved(maps[depth], f"{settings.weights or 'random weights'}: maps of the backbone")
            _append(file, depth, halved, len(rows), start)
        file.check()
        progress("views", start + len(pixels), len(rows))


def _write_states(
    file: h5py.File, dataset: Dataset, towers: Towers, device: torch.device, progress: Progress
) -> None:
    """`/captions/states` (T, H), piece by piece, `/captions/start` (U + 1,) and `/captions/text` (M,).

    The states of the text with number u of `/captions/text` are rows start[u] to start[u + 1]; -1 is none.
    """
    number = {text: place for place, text in enumerate(_texts(dataset))}
    tokens = towers.pieces.encode_all(number)
    found = states_of(towers.bert.to(device), tokens, device, "fp32", progress)
    if not found:
        raise SwanError("the states of the text transformer exceed half precision", HALF_HINT)
    text = np.array([number.get(text, -1) for text in dataset.catalogue.text])
    file.create_dataset("captions/text", data=np.where(text < 0, -1, found.wording[text]))
    file.create_dataset("captions/start", data=found.start)
    file.create_dataset("captions/states", data=found.states)


def _halved(values: torch.Tensor, what: str) -> torch.Tensor:
    """The values in half precision, on the CPU."""
    halved = values.half().cpu()
    if not halved.isfinite().all():
        raise SwanError(f"{what} exceed half precision", HALF_HINT)
    return halved


def _view_pixels(
    dataset: Dataset,
    settings: FeatureSettings,
    preprocessing: Preprocessing,
    rows: np.ndarray,
    varied: np.ndarray,
    device: torch.device,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Batches of views as uint8 (B, 3, S, S), with the row of the first; varied and plain ones apart."""
    generator = torch.Generator().manual_seed(settings.seed)
    size = image_batch(device)
    for kind, places in ((settings.augmentation, np.flatnonzero(varied)), ("none", np.flatnonzero(~varied))):
        source = stored_size(settings.image_size, kind)
        for first in range(0, len(places), size):
            batch = places[first : first + size]
            pixels = stack_images(preprocessing.resized(dataset.image(row), source) for row in rows[batch])
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
        plain = {
            field.name: text_attribute(self._file, field.name)
            if field.type == "str"
            else int(attributes[field.name])
            for field in fields(FeatureSettings)
        }
        self.settings = FeatureSettings(**plain)
        try:
            ModelSettings(0, self.settings.backbone, self.settings.image_size)
        except SwanError as error:
            raise ValueError(error.problem) from error
        digests = ("dataset_digest", "backbone_digest", "text_digest")
        self._digests = {name: text_attribute(self._file, name) for name in digests}
        self.identity = content_digest([asdict(self.settings), *self._digests.values()])
        self._image = array_in(self._file, "views/image", "iu", None)[:]
        count = len(self._image)
        varied = array_in(self._file, "views/varied", "b", count)[:]
        self._maps = {
            name: array_in(self._file, f"views/{name}", "f", count, None, None, None) for name in DEPTHS
        }
        self._varied = self._rows_by_image(varied)
        self._plain = self._rows_by_image(~varied)
        self._states = None
        if self.has_states:
            text = array_in(self._file, "captions/text", "iu", None)[:]
            start = array_in(self._file, "captions/start", "iu", None)[:]
            states = array_in(self._file, "captions/states", "f", int(start[-1]), None)
            rising = start[0] == 0 and (np.diff(start) > 0).all()
            if not (rising and ((text >= -1) & (text < len(start) - 1)).all()):
                raise ValueError("its captions and their states do not belong together")
            self._states = CaptionStates(states, start, text)

    @property
    def has_states(self) -> bool:
        """Whether it has states of the captions."""
        return self.settings.text != GRU

    def _rows_by_image(self, wanted: np.ndarray) -> dict[int, np.ndarray]:
        rows = np.flatnonzero(wanted)
        images, starts = np.unique(self._image[rows], return_index=True)
        return dict(zip(images.tolist(), np.split(rows, starts[1:]), strict=True))

    def check(self, dataset: Dataset, model: Model, augmentation: str) -> None:
        """Refuses a run that these features were not made for.

        Raises:
            SwanError: it would train one of the towers, or they come from another data set, other weights,
                another image size or other views.
        """
        own = model.settings
        again = f"make them again, also with --weights: swan prepare --dataset {dataset.name} --features"
        if not own.frozen:
            problem = "--features trains the heads alone, the backbone stays frozen"
            raise SwanError(problem, "leave --fine-tune and --freeze-stages out")
        if own.quirks.drifting_statistics:
            raise SwanError(
                "--features: the published backbone's maps depend on the batch they are in (its item 6)",
                "train without --features, or --variant repaired",
            )
        if self._digests["dataset_digest"] != dataset.digest:
            raise SwanError(
                f"{self.path}: made from another data set, or before it was prepared again", again
            )
        wanted = {"backbone": own.backbone, "image_size": own.image_size, "augmentation": augmentation}
        for name, value in wanted.items():
            if getattr(self.settings, name) != value:
                option = "--" + name.replace("_", "-")
                problem = f"{self.path}: made with {option} {getattr(self.settings, name)}, not {value}"
                raise SwanError(problem, f"leave {option} out, or {again}")
        if self._digests["backbone_digest"] != model.backbone.digest():
            raise SwanError(f"{self.path}: made with other weights of the backbone", again)
        for name, (channels, height, width) in model.backbone.map_shapes(own.image_size).items():
            if self._maps[name].shape[1:] != (height, width, channels):
                raise StoreError(f"{self.path}: damaged (/views/{name} has another shape)", again)
        if self.has_states:
            self._check_text(model, again)
        for split, views in (("train", self._varied), ("val", self._plain)):
            lacking = [row for row in dataset.rows_of(split).tolist() if row not in views]
            if lacking:
                problem = f"no view of {len(lacking)} {split} images, first {lacking[0]}"
                raise SwanError(f"{self.path}: {problem}", again)

    def _check_text(self, model: Model, again: str) -> None:
        bert, text = model.text_tower.bert, self.settings.text
        if not bert:
            raise SwanError(f"{self.path}: made with --text {text}, not with the GRU", f"add --text {text}")
        if bert.frozen < bert.shape.layers:
            raise SwanError(
                "--features trains the heads alone, the text transformer stays frozen",
                f"leave --freeze-text out, or give all its layers: --freeze-text {bert.shape.layers}",
            )
        if self._digests["text_digest"] != bert.digest():
            raise SwanError(f"{self.path}: made with other weights of the text transformer", again)

    def varied(self, images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """A random varied view, as its row int64 (n,), of each of some images."""
        return np.array([generator.choice(self._varied[image]) for image in images.tolist()])

    def plain(self, images: np.ndarray) -> np.ndarray:
        """The plain view, as its row int64 (n,), of each of some validation images."""
        return np.array([self._plain[image][0] for image in images.tolist()])

    def read(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """The maps of a batch of views, float16 (n, C, H, W) each, as `train.batches.Batch` holds them.

        Raises:
            StoreError: the file is damaged there, or a map contains NaN or infinity.
        """
        with damage_named(self.path, FEATURES):
            maps = {
                name: torch.from_numpy(np.stack([array[row] for row in rows])).permute(0, 3, 1, 2)
                for name, array in self._maps.items()
            }
        for name, values in maps.items():
            self._check_finite(values, f"/views/{name}", rows)
        return maps

    def read_states(self, captions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """The states float16 (n, L, H) of captions of the data set, zero past each end, and lengths (n,).

        Raises:
            StoreError: the file is damaged there, or a state contains NaN or infinity.
        """
        with damage_named(self.path, FEATURES):
            states, lengths = self._states.read(captions)
        self._check_finite(states, "/captions/states of text", self._states.wording[captions])
        return states, lengths

    def _check_finite(self, values: torch.Tensor, name: str, rows: np.ndarray) -> None:
        if not values.isfinite().all():
            first = rows[values.isfinite().flatten(1).all(dim=1).logical_not().nonzero()[0, 0]]
            again = f"make it again: {WRITTEN_BY[FEATURES]}"
            raise StoreError(f"{self.path}: {name}[{first}] contains NaN or infinity", again)

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
    rows, show = features.plain(images), partial(progress, "images")
    return encoder.views(_in_batches(features.read, rows, encoder.batch_size, show))


def encode_feature_captions(
    encoder: Encoder, features: Features, captions: np.ndarray, progress: Progress = quiet
) -> np.ndarray:
    """Embeddings of captions from the states of the frozen text transformer.

    Args:
        encoder: of the model whose heads are applied.
        features: of the data set of the captions.
        captions: int64 (m,), their numbers in the data set, at least one.
        progress: called after each batch.

    Returns:
        float32 (m, D), L2-normalised.
    """
    return encoder.states(
        _in_batches(features.read_states, captions, CAPTIONS, partial(progress, "captions"))
    )


def _in_batches(
    read: Callable[[np.ndarray], Result], rows: np.ndarray, size: int, show: Callable[[int, int], None]
) -> Iterator[Result]:
    """What is read of some rows, `size` of them at a time; shows how many are done after each batch."""
    for start in range(0, len(rows), size):
        yield read(rows[start : start + size])
        show(min(start + size, len(rows)), len(rows))
