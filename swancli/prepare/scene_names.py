"""Scenes of images whose source names none: from their folders, or from their file names.

swan prepare --dataset NAME --source PHOTOS --scene-from folder

A single name says little: river_12.jpg is a river, DJI_0012.JPG is a camera. So names are judged together:
several images must share a scene, and most images must have one.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from swancli.store.text import printable

LEAST_SHARE = 0.75  # of the images that share their scene with another image, for scenes to be taken
LEAST_LETTERS = 3  # of a scene in the letters a to z; shorter ones are rows of a grid or codes
TAR = ".tar"  # a member of a tar is named as if the tar was a folder

# What cameras write before the number of a picture.
CAMERAS = frozenset(
    "cimg dcim dji dsc dscf dscn gopr hpim img imgp mavic mvi parrot pict pxl sam sequoia yuneec".split()
)
# What people and programs call pictures, and folders of pictures, whatever they show.
GENERIC = CAMERAS | frozenset(
    "aerial after all annotated band batch before bild bilder block camera cell chip chips color colour copy "
    "crop crops cut data dataset default dev download downloads drone eval export file files flight foto "
    "fotos frame frames gallery geotiff grid image imagery images imgs index input item jpeg jpegimages jpg "
    "large level map mapillary mask masks mosaic new nir number object old original originals ortho "
    "orthophoto output page pan part patch patches photo photos pic pics picture pictures piece png preview "
    "processed query raster raw render result results rgb sample samples satellite scan scene scenes "
    "screenshot sentinel series set shard shards sheet small snap snapshot split still strip subset "
    "test testing thermal thumbnail thumbnails thumbs tif tiff tile tiles train training uav unlabeled "
    "unnamed untitled upload uploads val valid validation version vid video view zoom".split()
)


@dataclass(frozen=True)
class Scenes:
    """The scenes of a listing.

    scene: of each image, None for none; text that can be shown, `caf\\xe9` for a byte that is not UTF-8.
    taken: where they are from, for the user; "none" if no image has one.
    """

    scene: list[str | None]
    taken: str


def found_scenes(filenames: Sequence[str], rule: str | None = None) -> Scenes:
    """The scene of each image of a listing.

    Args:
        filenames: of all images, with `/` between folders.
        rule: "name": the letters before the number, whatever they are. "folder": the folder that an image is
            in, whatever its name. "none". None: folders or else names, if they tell the images apart.
    """
    if rule == "none":
        return Scenes([None] * len(filenames), "none")
    if rule:
        of = {"name": letters_before_number, "folder": _parent}[rule]
        return _taken([of(name) for name in filenames], rule)
    folders = [_telling_folder(name) for name in filenames]
    if _tell_apart([folder and _letters_of(folder) for folder in folders]):
        return _taken(folders, "folder")
    names = [_telling_letters(name) for name in filenames]
    if _tell_apart(names):
        return _taken(names, "name")
    return Scenes([None] * len(filenames), "none")


def letters_before_number(filename: str) -> str | None:
    """The letters before the number in a file name such as river_12.jpg; None for other names."""
    stem = unicodedata.normalize("NFC", PurePosixPath(filename).stem)
    letters = re.sub(r"[_-]?\d+$", "", stem)
    return letters if letters != stem and all(map(_is_word, re.split("[_-]", letters))) else None


def _is_word(text: str) -> bool:
    """Whether a text is letters only, with their marks."""
    return text != "" and all(unicodedata.category(letter)[0] in "LM" for letter in text)


def _taken(scenes: list[str | None], rule: str) -> Scenes:
    """The result; names of folders may have bytes that are not UTF-8, but scenes are always text."""
    where = {"name": "file names", "folder": "folders"}[rule]
    scenes = [scene and printable(scene) for scene in scenes]
    return Scenes(scenes, f"from {where}" if any(scenes) else "none")


def _tell_apart(scenes: Sequence[str | None]) -> bool:
    """Whether there are at least two scenes of several images each, and most images have one of these."""
    counts = Counter(filter(None, scenes))
    shared = [count for count in counts.values() if count > 1]
    return len(shared) > 1 and sum(shared) >= LEAST_SHARE * len(scenes)


def _telling_letters(filename: str) -> str | None:
    """As `letters_before_number`, without those that cameras and programs give."""
    letters = letters_before_number(filename)
    if not letters or re.split("[_-]", letters)[0].lower() in CAMERAS:
        return None
    return letters if _is_telling(letters) else None


def _parent(filename: str) -> str | None:
    """The name of the folder, or of the tar, that an image is in."""
    return next(iter(_folders(filename)), None)


def _folders(filename: str) -> list[str]:
    """The names of the folders above an image, the innermost first."""
    parts = reversed(PurePosixPath(filename).parts[:-1])
    return [unicodedata.normalize("NFC", part.removesuffix(TAR)) for part in parts]


def _telling_folder(filename: str) -> str | None:
    """The innermost folder of an image whose name may be a scene: harbor for harbor/2024-05-01/1.jpg."""
    return next((folder for folder in _folders(filename) if _is_telling(folder)), None)


def _is_telling(name: str) -> bool:
    """Whether a name may be a scene, and is neither a number, a code nor a word for any picture."""
    words = re.findall(r"[^\W\d_]+", name)
    if all(word.lower() in GENERIC for word in words) or re.fullmatch(r"\d{3}[A-Z_]{5}", name):
        return False  # the second are the folders of cameras, such as 100MSDCF
    letters = "".join(words)
    return not letters.isascii() or len(letters) >= LEAST_LETTERS


def _letters_of(folder: str) -> str:
    """A folder's name without digits and signs: folders that differ in their numbers alone are no scenes."""
    return "".join(letter for letter in folder if unicodedata.category(letter)[0] in "LM")
