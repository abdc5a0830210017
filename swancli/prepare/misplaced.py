"""Whether captions stand beside their images: a list that is off by one gives figures, only wrong ones.

Two signs, both without a look at pixels. Captions of one image share words: when they share more after all of
them move by a line or two, the lines are off. Captions of a scene's images share words too, often its name:
when they tell scenes better after all of them move by an image, the images are off.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from swancli.prepare.entries import Entry
from swancli.store.catalogue import Catalogue

LINES = (-2, -1, 1, 2)  # by how many captions a list may be off; another image's five are as many as two back
IMAGES = (-1, 1)
MOST = 2000  # images that are looked at, the last ones: what goes wrong in a list stays wrong to its end
FARTHEST = 9  # lines between two captions that are compared
LEAST = 12  # images that must tell of it
SURE = 4.0  # standard errors by which a shifted map must fit better
WORD = re.compile(r"\w+")


def misplaced_captions(entries: Sequence[Entry]) -> str:
    """In words, by how much captions seem to stand beside the wrong images; "" when they fit as they are.

    Looks at all entries in their order, and at those of each split, since a list may be of one split.
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
    """The images of a data set with their captions, as a source lists them."""
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
    """The shift whose gains are the surest, of those whose gains are not chance; 0 when there is none.

    Args:
        gains: for each shift float (n,) arrays, one a sign; one sign is enough.
    """
    sure = {shift: max(map(_errors_above_none, signs)) for shift, signs in gains.items()}
    best = max(sure, key=sure.__getitem__)
    return best if sure[best] > SURE else 0


def _errors_above_none(gains: np.ndarray) -> float:
    """By how many standard errors the mean of float (n,) is above 0; 0 of too few."""
    if len(gains) < LEAST:
        return 0.0
    return float(gains.mean() / max(gains.std(ddof=1) / np.sqrt(len(gains)), 1e-9))


def _line_gains(words: Sequence[Sequence[frozenset[str]]], shift: int) -> np.ndarray:
    """float (n,): for each image, how much more its captions share when they are those `shift` lines on.

    All pairs count, so that what the first caption of every image has in common, or every last one, counts
    the same in any window of as many lines.
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
    """The share of two captions' words that both have (Jaccard)."""
    return len(first & second) / max(1, len(first | second))


def _other_scenes(entries: Sequence[Entry], shift: int) -> list[tuple[int, int]]:
    """Rows of images, and of those that would get their captions if each took those `shift` later."""
    pairs = [(row, row - shift) for row in range(len(entries)) if 0 <= row - shift < len(entries)]
    return [(row, other) for row, other in pairs if entries[row].scene and entries[other].scene]


def _image_gains(
    entries: Sequence[Entry], words: Sequence[Sequence[frozenset[str]]], shift: int
) -> np.ndarray:
    """float (n,): how much better captions fit the scene of the image that would get them, if it is another.

    The fit is the captions' logarithmic probability, in the words' frequencies among the captions of a scene.
    Both maps are judged by the frequencies that they give themselves.
    """
    pairs = _other_scenes(entries, shift)
    own, other = ([entries[pair[side]].scene for pair in pairs] for side in (0, 1))
    captions = [words[row] for row, _ in pairs]
    moved = [before != after for before, after in zip(own, other, strict=True)]
    return (_fits(captions, other) - _fits(captions, own))[moved]


def _name_gains(entries: Sequence[Entry], shift: int) -> np.ndarray:
    """float (n,): the same in the share of captions that name the scene, where its name is a word."""
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
    """float (n,): the logarithmic probability of each image's words, given its scene's other images."""
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
