"""Detects captions that belong to the wrong images, as when a list is off by one line.

Two signs, neither of which needs pixels. Captions of one image share words: if they share more after all
captions move by a line or two, the lines are off. Captions within a scene share words too, often its name: if
they fit the scenes better after all captions move by an image, the images are off.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from swancli.prepare.entries import Entry
from swancli.store.catalogue import Catalogue

LINES = (-2, -1, 1, 2)  # shifts that are tried; of five captions per image, four on are like one back
IMAGES = (-1, 1)
MOST = 2000  # images that are examined, the last ones: a list that goes wrong stays wrong to its end
FARTHEST = 9  # lines between two captions that are compared at most
LEAST = 12  # images that are needed as evidence
SURE = 4.0  # standard errors by which a shift must fit better
WORD = re.compile(r"\w+")


def misplaced_captions(entries: Sequence[Entry]) -> str:
    """A warning that captions seem to belong to other images, and by how much they are off; "" if they fit.

    Examines all entries in their order, and those of each split, since a split may have a list of its own.
    """
    described = [entry for entry in entries if entry.captions]
    splits = [name for name in dict.fromkeys(entry.split for entry in described) if name]
    parts = {"": described}
    if len(splits) > 1:
        parts |= {f" of {name}": [entry for entry in described if entry.split == name] for name in splits}
    for whose, part in parts.items():
        part = part[-MOST:]
        words = [[frozenset(WORD.findall(text.lower())) for text in entry.captions] for entry in part]
        by_lines = _surest({shift: [_line_gains(words, shift)] for shift in LINES})
        if by_lines:
            return f"the captions{whose} of an image fit each other better {_moved(by_lines, 'line')}"
        by_images = _surest(
            {shift: [_image_gains(part, words, shift), _name_gains(part, shift)] for shift in IMAGES}
        )
        if by_images:
            return f"the captions{whose} fit the scenes of their images better {_moved(by_images, 'image')}"
    return ""


def described_images(catalogue: Catalogue) -> list[Entry]:
    """The images of a data set with their captions, as entries of a source."""
    captions: list[list[str]] = [[] for _ in catalogue.filename]
    for row, text in zip(catalogue.image, catalogue.text, strict=True):
        if row >= 0:
            captions[row].append(text)
    columns = zip(catalogue.filename, captions, catalogue.split, catalogue.scene, strict=True)
    return [Entry(name, tuple(texts), split, scene) for name, texts, split, scene in columns]


def _moved(shift: int, what: str) -> str:
    count, way = f"{abs(shift)} {what}{'s' if abs(shift) > 1 else ''}", "later" if shift > 0 else "earlier"
    return f"when those {count} {way} in the list are taken"


def _surest(gains: dict[int, list[np.ndarray]]) -> int:
    """The shift with the most significant gains; 0 if all may be chance.

    Args:
        gains: for each shift float (n,) arrays, one per sign; one sign is enough.
    """
    sure = {shift: max(map(_standard_errors, signs)) for shift, signs in gains.items()}
    best = max(sure, key=sure.__getitem__)
    return best if sure[best] > SURE else 0


def _standard_errors(gains: np.ndarray) -> float:
    """The mean of float (n,) in standard errors; 0 if there are too few."""
    if len(gains) < LEAST:
        return 0.0
    return float(gains.mean() / max(gains.std(ddof=1) / np.sqrt(len(gains)), 1e-9))


def _line_gains(words: Sequence[Sequence[frozenset[str]]], shift: int) -> np.ndarray:
    """float (n,): for each image, how much more its captions share if they are those `shift` lines later.

    All pairs count, so that words shared by, say, the first captions of all images count equally in any
    window of this length.
    """
    flat = [caption for own in words for caption in own]
    reach = min(FARTHEST, max(map(len, words), default=1) - 1)
    shared = [
        np.array([_shared(*pair) for pair in zip(flat, flat[apart:], strict=False)])
        for apart in range(1, reach + 1)
    ]

    def together(start: int, end: int) -> float:
        pairs = [part[start : max(start, end - apart)] for apart, part in enumerate(shared, start=1)]
        return np.concatenate(pairs).mean()

    gains = []
    ends = np.cumsum([len(own) for own in words])
    for start, end in zip(ends - [len(own) for own in words], ends, strict=True):
        if end - start > 1 and start + shift >= 0 and end + shift <= len(flat):
            gains.append(together(start + shift, end + shift) - together(start, end))
    return np.array(gains)


def _shared(first: frozenset[str], second: frozenset[str]) -> float:
    """Jaccard similarity of two captions' words."""
    return len(first & second) / max(1, len(first | second))


def _other_scenes(entries: Sequence[Entry], shift: int) -> list[tuple[int, int]]:
    """Rows of images, each with the row of the image that gets its captions after the shift."""
    pairs = [(row, row - shift) for row in range(len(entries)) if 0 <= row - shift < len(entries)]
    return [(row, other) for row, other in pairs if entries[row].scene and entries[other].scene]


def _image_gains(
    entries: Sequence[Entry], words: Sequence[Sequence[frozenset[str]]], shift: int
) -> np.ndarray:
    """float (n,): how much better captions fit the scene of the image that gets them, if it is another scene.

    The fit is the log-probability of the captions under the word frequencies of the scene, which are counted
    before and after the shift.
    """
    pairs = _other_scenes(entries, shift)
    own, other = ([entries[pair[side]].scene for pair in pairs] for side in (0, 1))
    captions = [words[row] for row, _ in pairs]
    moved = [before != after for before, after in zip(own, other, strict=True)]
    return (_fits(captions, other) - _fits(captions, own))[moved]


def _name_gains(entries: Sequence[Entry], shift: int) -> np.ndarray:
    """float (n,): the same for the share of captions that contain the scene's name."""
    gains = []
    for row, other in _other_scenes(entries, shift):
        scenes = entries[row].scene, entries[other].scene
        if scenes[0] != scenes[1]:
            own, moved = (_naming(entries[row].captions, scene) for scene in scenes)
            gains.append(moved - own)
    return np.array(gains)


def _naming(captions: Sequence[str], scene: str) -> float:
    name = scene.lower().replace("_", " ")
    return sum(name in caption.lower() for caption in captions) / len(captions)


def _fits(words: Sequence[Sequence[frozenset[str]]], scenes: Sequence[str]) -> np.ndarray:
    """float (n,): the log-probability of each image's words, given its scene's other images."""
    own = [Counter(word for caption in captions for word in caption) for captions in words]
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for count, scene in zip(own, scenes, strict=True):
        counts[scene].update(count)
    sizes = {scene: count.total() for scene, count in counts.items()}
    different = len({word for count in counts.values() for word in count})
    fits = []
    for count, scene in zip(own, scenes, strict=True):
        others, size = counts[scene], sizes[scene] - count.total() + different
        logarithms = sum(times * math.log(others[word] - times + 1) for word, times in count.items())
        fits.append(logarithms - count.total() * math.log(size))
    return np.array(fits, dtype=float)
