"""The rule from samples to RGB, for every format and for images and scenes alike.

A reader delivers samples and what the file says of them (`Said`). The rule decides which bands are shown,
what is no data, and which values become black and white. The table is in `swancli/prepare/README.md`.

    chosen = chosen_bands(said, rendering)         the bands to look at
    view = view_of(said, chosen, rendering, ...)   decided on at most `PROBE` samples a side
    pixels, valid = view.rgb(samples, mask)        for the whole image, or any window of it

Letters in shapes: H x W pixels, C bands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from swancli.errors import ImageError, SwanError
from swancli.images.scale import black_and_white, largest_value

PROBE = 1024  # samples a side, at most, on which a scale is decided
BLOCK_SAMPLES = 2**22  # samples scaled at a time
MEASURED = 1e38  # floats beyond it are no measurements: 3.4e38 often marks no data without a word
COLOURS = ("red", "green", "blue")
INKS = ("cyan", "magenta", "yellow", "black")
CODES = (("b04", "b03", "b02"), ("b4", "b3", "b2"))  # Sentinel-2's names of red, green and blue
NOT_VISIBLE = {"edge", "infrared", "infra", "near", "nir", "swir"}  # beside "red": another band
USUAL = (-9999, -99999, -32768)  # values that mark no data in files that do not say so
FOLDER = "folder"


@dataclass(frozen=True)
class Rendering:
    """What a user says about how samples become colours.

    bands: numbers, from 1, of the bands that are shown as red, green and blue, or of one shown as grey; ()
        lets each file say.
    stretch: the values that become black and white, for samples of more than 8 bits; None for a scale of its
        own for each picture.
    lenient: a picture without these bands is shown as if none were chosen; for pictures to search by.
    """

    bands: tuple[int, ...] = ()
    stretch: tuple[float, float] | None = None
    lenient: bool = False

    @property
    def bands_text(self) -> str:
        """The bands as `--bands` takes them."""
        return ",".join(map(str, self.bands))

    @property
    def stretch_text(self) -> str:
        """The stretch as `--stretch` takes it."""
        return ",".join(f"{value:.12g}" for value in self.stretch or ())


AS_SAID = Rendering()


def parse_rendering(bands: str | None, stretch: str | None) -> Rendering:
    """A rendering from the values of `--bands` and `--stretch`; None and "" are not given.

    Raises:
        SwanError: one of them is something else.
    """
    try:
        numbers = tuple(map(int, bands.split(","))) if bands else ()
        if (bands and len(numbers) not in (1, 3)) or any(number < 1 for number in numbers):
            raise ValueError
    except ValueError:
        hint = "give the numbers, from 1, of red, green and blue, or of one band: --bands 3,2,1"
        raise SwanError(f"--bands {bands}: not three bands or one", hint) from None
    try:
        low, high = map(float, stretch.split(",")) if stretch else (0.0, 1.0)
        if not (np.isfinite([low, high]).all() and low < high):
            raise ValueError
    except ValueError:
        hint = "give the values that become black and white: --stretch 0,3000; or --stretch folder"
        raise SwanError(f"--stretch {stretch}: not two rising numbers", hint) from None
    return Rendering(numbers, (low, high) if stretch else None)


@dataclass(frozen=True)
class Said:
    """What a file says about its samples. Texts are in lower case.

    dtype: of the samples.
    bands: number of bands.
    colours: of each band: red, green, blue, gray, alpha, palette, cyan ..., or "".
    names: the description of each band, or "".
    nodata: the value of each band that marks no data, or None.
    bits: significant bits of a sample, if that is fewer than 8; else 0.
    palette: uint8 (n, 4), RGBA; None if there is none.
    premultiplied: whether colours are multiplied by alpha already.
    inverted: whether 0 is white.
    default_colours: whether the colours may be a writer's default rather than a statement.
    """

    dtype: np.dtype
    bands: int
    colours: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    nodata: tuple[float | None, ...] = ()
    bits: int = 0
    palette: np.ndarray | None = field(default=None, compare=False)
    premultiplied: bool = False
    inverted: bool = False
    default_colours: bool = False

    def colour(self, band: int) -> str:
        """What a band, from 0, is said to show."""
        return self.colours[band] if band < len(self.colours) else ""

    def name(self, band: int) -> str:
        """The description of a band, from 0."""
        return self.names[band] if band < len(self.names) else ""

    def nodata_of(self, band: int) -> float | None:
        """The value that marks no data in a band, from 0."""
        return self.nodata[band] if band < len(self.nodata) else None


# ---------------------------------------------------------------------------------------------------------
# which bands


@dataclass(frozen=True)
class Chosen:
    """The bands to look at, from 0.

    bands: three, one, or the four inks.
    alpha: one that may be a mask; None if there is none.
    doubtful: whether three of more were taken because nothing says which are red, green and blue.
    """

    bands: tuple[int, ...]
    alpha: int | None = None
    doubtful: bool = False

    @property
    def read(self) -> list[int]:
        """All of them."""
        return [*self.bands, *([] if self.alpha is None else [self.alpha])]


def chosen_bands(said: Said, rendering: Rendering, name: str) -> Chosen:
    """The bands that are shown: as the user says, else by colour, else by description, else the first.

    Raises:
        ImageError: the file has fewer bands than the user says.
    """
    alphas = [band for band in range(said.bands) if said.colour(band) == "alpha" and _may_be_mask(said, band)]
    wanted = tuple(number - 1 for number in rendering.bands)
    if wanted and max(wanted) >= said.bands:
        if not rendering.lenient:
            problem = f"{name}: has {said.bands} bands, so there is no band {max(wanted) + 1}"
            raise ImageError(problem, "give others: --bands")
        wanted = ()
    if wanted and said.palette is None:
        return Chosen(wanted, next((band for band in alphas if band not in wanted), None))
    alpha = alphas[0] if alphas else None
    named = _by_colour(said)
    described = _by_name(said)
    if described and (not named or said.default_colours):
        named = described
    if named:
        return Chosen(named, alpha)
    others = [band for band in range(said.bands) if band != alpha] or [0]
    if len(others) < 3 or said.palette is not None:
        return Chosen((others[0],), alpha)
    return Chosen(tuple(others[:3]), alpha, doubtful=len(others) > 3)


def _may_be_mask(said: Said, band: int) -> bool:
    """Whether the description of a band marked as alpha agrees."""
    name = said.name(band)
    return not name or any(word in name for word in ("alpha", "mask", "opacity", "transparen"))


def _by_colour(said: Said) -> tuple[int, ...]:
    for colours in (COLOURS, INKS):
        if set(colours) <= set(said.colours):
            return tuple(said.colours.index(colour) for colour in colours)
    return ()


def _by_name(said: Said) -> tuple[int, ...]:
    words = [set(re.split(r"[^a-z0-9]+", name)) for name in said.names]
    for names in (COLOURS, *CODES):
        places = [
            next((band for band, own in enumerate(words) if name in own and not own & NOT_VISIBLE), None)
            for name in names
        ]
        if None not in places and len(set(places)) == 3:
            return tuple(places)
    return ()


# ---------------------------------------------------------------------------------------------------------
# the view


@dataclass(frozen=True)
class View:
    """How the samples of one image or scene become RGB.

    said: what the file says.
    bands: shown, from 0.
    alpha: the band, from 0, that is a mask; None if there is none.
    opaque: the value of `alpha` where nothing is transparent.
    scale: the values that become black and white; None for samples that are shown as they are.
    false_alpha: whether a band marked as alpha was found to be no mask.
    """

    said: Said
    bands: tuple[int, ...]
    alpha: int | None = None
    opaque: float = 255.0
    scale: tuple[float, float] | None = None
    false_alpha: bool = False

    @property
    def read(self) -> list[int]:
        """The bands that `rgb` takes, from 0."""
        return Chosen(self.bands, self.alpha).read

    def rgb(self, samples: np.ndarray, mask: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The pixels of the image or of a window, black where there is no data, and where there is some.

        Args:
            samples: (H, W, C), the bands of `read`.
            mask: bool (H, W), False where the file's mask says that there is no data; None if it has none.

        Returns:
            uint8 (H, W, 3) and bool (H, W).
        """
        if self._is_ready(samples) and mask is None:
            return np.ascontiguousarray(samples), np.broadcast_to(True, samples.shape[:2])
        height, width = samples.shape[:2]
        pixels, valid = np.empty((height, width, 3), np.uint8), np.empty((height, width), bool)
        rows = max(1, BLOCK_SAMPLES // max(1, width * samples.shape[2]))
        for start in range(0, height, rows):
            block = slice(start, start + rows)
            own_mask = None if mask is None else mask[block]
            pixels[block], valid[block] = self._block(samples[block], own_mask)
        return pixels, valid

    def _is_ready(self, samples: np.ndarray) -> bool:
        """Whether samples are pixels already."""
        plain = self.scale is None and self.said.palette is None and not self.said.inverted
        no_value = all(self.said.nodata_of(band) is None for band in self.bands)
        return plain and no_value and samples.dtype == np.uint8 and len(self.bands) == samples.shape[2] == 3

    def _block(self, samples: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        shown = samples[..., : len(self.bands)]
        valid = has_data(shown, self.said, self.bands)
        if mask is not None:
            valid &= mask
        opacity = None
        if self.said.palette is not None and self.said.colour(self.bands[0]) == "palette":
            last = len(self.said.palette) - 1
            entries = self.said.palette[np.clip(shown[..., 0], 0, last).astype(np.int64)]
            colours, opacity = entries[..., :3], entries[..., 3] / np.float32(255)
        else:
            colours = self._scaled(shown)
        if self.alpha is not None:
            opacity = samples[..., -1].astype(np.float32) / np.float32(self.opaque)
        if opacity is not None:
            valid &= opacity > 0
            if not self.said.premultiplied and (opacity < 1).any():
                weighted = np.rint(colours * np.clip(opacity, 0, 1)[..., None])
                colours = weighted.astype(np.uint8)
        if len(self.bands) == 4:
            colours = _from_inks(colours)
        if colours.shape[2] == 1:
            colours = np.repeat(colours, 3, axis=2)
        return np.where(valid[..., None], colours, np.uint8(0)), valid

    def _scaled(self, samples: np.ndarray) -> np.ndarray:
        if self.scale is None:
            pixels = samples.astype(np.uint8)
        else:
            black, white = self.scale
            known = np.nan_to_num(magnitudes(samples), nan=black, posinf=white, neginf=black)
            pixels = np.rint((known.clip(black, white) - black) * (255 / (white - black))).astype(np.uint8)
        return 255 - pixels if self.said.inverted else pixels


Probe = tuple[np.ndarray, np.ndarray | None]


def view_of(said: Said, chosen: Chosen, rendering: Rendering, probe: Callable[[], Probe]) -> View:
    """Decides how an image or a scene is shown, on a part of its samples.

    Args:
        said: what the file says.
        chosen: the bands to look at.
        rendering: what the user says.
        probe: gives samples (H, W, C) of the bands of `chosen.read`, every n-th of the image, see
            `every_nth`, and bool (H, W) as in `View.rgb`; called only if something depends on them.
    """
    known, scale = known_scale(said, chosen, rendering)
    if known and chosen.alpha is None:
        return View(said, chosen.bands, scale=scale)
    samples, mask = probe()
    alpha, opaque = chosen.alpha, 255.0
    if alpha is not None:
        opaque = float(max(1, samples[..., -1].max(initial=0)))
        alpha = alpha if is_mask(samples[..., -1]) else None
    if not known:
        values = measured_values(said, chosen, samples, mask)
        scale = black_and_white(values, largest_value(said.dtype))
    return View(said, chosen.bands, alpha, opaque, scale, alpha != chosen.alpha)


def known_scale(said: Said, chosen: Chosen, rendering: Rendering) -> tuple[bool, tuple[float, float] | None]:
    """Whether the scale does not depend on the samples, and the scale."""
    if said.palette is not None and said.colour(chosen.bands[0]) == "palette":
        return True, None
    if said.dtype in (np.uint8, np.bool_):
        return True, (0.0, 2.0**said.bits - 1) if said.bits else None
    return rendering.stretch is not None, rendering.stretch


def every_nth(length: int, most: int = PROBE) -> np.ndarray:
    """int64 (n,): the rows, or columns, that a scale is decided on: those that GDAL's nearest would read."""
    count = min(length, most)
    return (2 * np.arange(count) + 1) * length // (2 * max(1, count))


def magnitudes(samples: np.ndarray) -> np.ndarray:
    """Samples as floats that hold their values; of complex ones, the amplitude."""
    if np.iscomplexobj(samples):
        return np.abs(samples).astype(np.float64)
    return samples.astype(np.float32 if samples.dtype.itemsize <= 2 else np.float64)


def measured_values(said: Said, chosen: Chosen, samples: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """float (n,): the values that decide a scale, of samples that have data and are not transparent.

    Args:
        said: what the file says.
        chosen: the bands to look at.
        samples: (H, W, C), the bands of `chosen.read`.
        mask: as in `View.rgb`.
    """
    shown = samples[..., : len(chosen.bands)]
    valid = has_data(shown, said, chosen.bands)
    if mask is not None:
        valid &= mask
    if chosen.alpha is not None and is_mask(samples[..., -1]):
        valid &= samples[..., -1] > 0
    parts = []
    for place, band in enumerate(chosen.bands):
        values = shown[..., place][valid]
        marked = _marks_nodata(values, said.nodata_of(band))
        parts.append(magnitudes(values if marked is None else values[~marked]))
    return np.concatenate(parts)


def has_data(samples: np.ndarray, said: Said, bands: Sequence[int]) -> np.ndarray:
    """bool (H, W): where all samples (H, W, C) are measurements, and not all of them mark no data."""
    valid = np.ones(samples.shape[:2], bool)
    if np.issubdtype(samples.dtype, np.inexact):
        with np.errstate(all="ignore"):
            valid &= (np.abs(samples) < MEASURED).all(axis=2)  # also False for NaN and infinity
    marks = [_marks_nodata(samples[..., place], said.nodata_of(band)) for place, band in enumerate(bands)]
    if marks and all(mark is not None for mark in marks):
        valid &= ~np.logical_and.reduce(marks)
    return valid


def _marks_nodata(samples: np.ndarray, value: float | None) -> np.ndarray | None:
    """Where samples equal the value that marks no data; None if there is no such value of their type.

    If the file names none, `USUAL` values do.
    """
    if value is None or np.isnan(value):
        signed = not np.issubdtype(samples.dtype, np.unsignedinteger) and samples.dtype.itemsize > 1
        return np.isin(samples, USUAL) if signed else None
    if np.issubdtype(samples.dtype, np.integer):
        limits = np.iinfo(samples.dtype)
        if not (limits.min <= value <= limits.max and value == int(value)):
            return None
        return samples == samples.dtype.type(int(value))
    with np.errstate(over="ignore"):
        return samples == samples.dtype.type(value)


def is_mask(alpha: np.ndarray) -> bool:
    """Whether samples of alpha are those of a mask: as many are opaque as lie between, or more.

    So soft edges are allowed. Of another band, such as near infrared, few samples have its largest value.
    """
    opaque = alpha.max(initial=0)
    between = np.count_nonzero((alpha > 0) & (alpha < opaque))
    return between <= np.count_nonzero(alpha == opaque) or not opaque


def _from_inks(inks: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) from cyan, magenta, yellow and black, as Pillow does it."""
    light = 255 - inks.astype(np.uint16)
    product = light[..., :3] * light[..., 3:] + 128
    return ((product + (product >> 8)) >> 8).astype(np.uint8)
