"""Folders of text lists as sources, formats `precomp` and `ucm`.

    precomp   train_caps.txt, one caption per line, beside train_filename.txt, and the same for other splits
    ucm       descriptions_*.txt, lines of image number and caption, beside filenames_train.txt and so on

Errors name the file and, if it is in a single line, the line.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

from swancli.errors import SwanError
from swancli.prepare.entries import SPLIT_NAMES, Entry, check_caption, check_distinct, check_filename
from swancli.store.text import read_text


def _read_lines(path: Path) -> list[str]:
    # Not str.splitlines, which also breaks at other characters than line feeds.
    lines = [line.strip() for line in read_text(path).split("\n")]
    return lines if lines[-1] else lines[:-1]


def _read_names(path: Path) -> list[tuple[str, str]]:
    """(file name, place) of each line that is not blank."""
    return [
        (check_filename(line, f"{path}: line {row}"), f"{path}: line {row}")
        for row, line in enumerate(_name_lines(path), start=1)
        if line
    ]


def _name_lines(path: Path) -> list[str]:
    # A name may start with a blank; at its end one is a slip, since no suffix of an image ends so.
    return [line.rstrip() for line in read_text(path).split("\n")]


# ---------------------------------------------------------------------------------------------------------
# precomp


def read_precomp(folder: Path) -> list[Entry]:
    """The entries of a folder, split by split; verify lists divide its training images."""
    plain = [name for name in ("train", "val", "dev", "test") if (folder / f"{name}_caps.txt").is_file()]
    verify = [name for name in ("train", "val") if (folder / f"{name}_filename_verify.txt").is_file()]
    parts = [(name, "") for name in plain]
    if "train" not in plain:  # the verify lists have the captions too
        parts = [(name, "_verify") for name in verify] + parts
    entries, places = [], []
    for name, ending in parts:
        listed = _read_caption_list(folder, name, ending)
        entries += [Entry(*row, SPLIT_NAMES[name]) for row in listed]
        places += [(row[0], f"{folder / f'{name}_filename{ending}.txt'}") for row in listed]
    check_distinct(places)
    return _divide_training(folder, entries, verify) if verify and "train" in plain else entries


def _divide_training(folder: Path, entries: list[Entry], names: list[str]) -> list[Entry]:
    """The entries with their training images divided by the verify lists."""
    assigned: dict[str, str] = {}
    for name in names:
        for filename, place in _read_names(folder / f"{name}_filename_verify.txt"):
            if assigned.setdefault(filename, name) != name:
                raise SwanError(f"{place}: {filename} is in train too", "keep it in one of the lists")
    odd = sorted({entry.filename for entry in entries if entry.split == "train"} ^ assigned.keys())
    if odd:
        raise SwanError(
            f"{folder}: {len(odd)} images are not in both train_filename.txt and a *_filename_verify.txt, "
            f"first {odd[0]}",
            "correct the verify lists, or remove them to keep train whole",
        )
    return [
        replace(entry, split=assigned[entry.filename]) if entry.split == "train" else entry
        for entry in entries
    ]


def _read_caption_list(folder: Path, name: str, ending: str) -> list[tuple[str, tuple[str, ...]]]:
    """(file name, captions) of each image, from a caption list and its list of file names."""
    caption_file = folder / f"{name}_caps{ending}.txt"
    name_file = folder / f"{name}_filename{ending}.txt"
    for file, other in ((name_file, caption_file), (caption_file, name_file)):
        if not file.is_file():
            raise SwanError(f"{file}: no such file, but {other.name} exists", "a precomp list needs both")
    captions, names = _read_lines(caption_file), _read_names(name_file)
    if not (names and captions) or len(captions) % len(names):
        raise SwanError(
            f"{caption_file} has {len(captions)} captions, no multiple of {len(names)}, "
            f"the number of file names in {name_file}",
            "write one caption per line, in the order of the file names, equally many for each image",
        )
    each = len(captions) // len(names)
    if each > 1:
        check_distinct(names)
    lines: dict[str, list[int]] = {}
    for line in range(len(captions)):
        lines.setdefault(names[line // each][0], []).append(line)
    entries = []
    for filename, own in lines.items():
        # RSITMD as published has four training images with blank lines only: images without captions.
        written = own if any(captions[line] for line in own) else []
        checked = (
            check_caption(captions[line], f"{caption_file}: line {line + 1}", filename) for line in written
        )
        entries.append((filename, tuple(checked)))
    return entries


# ---------------------------------------------------------------------------------------------------------
# ucm


def find_descriptions(folder: Path) -> list[Path]:
    return sorted(folder.glob("descriptions_*.txt")) or sorted(folder.glob("filenames/descriptions_*.txt"))


def ucm_filenames(folder: Path) -> set[str]:
    """The file names in the lists of a folder with descriptions."""
    lists = find_descriptions(folder)[0].parent.glob("filenames_*.txt")
    return {name for file in lists for name in _name_lines(file) if name}


def read_ucm(folder: Path) -> list[Entry]:
    """The entries of a folder, in the order of its captions."""
    descriptions = find_descriptions(folder)
    if len(descriptions) > 1:
        names = ", ".join(file.name for file in descriptions)
        raise SwanError(f"{folder}: several lists of captions: {names}", "keep one of them there")
    listed = _read_ucm_names(descriptions[0].parent)
    captions: dict[int, list[str]] = {}
    for row, line in enumerate(_read_lines(descriptions[0]), start=1):
        if not line:
            continue
        place = f"{descriptions[0]}: line {row}"
        number, _, text = line.partition(" ")
        if not _is_number(number):
            problem = f"{place} does not start with an image number: {line[:60]!r}"
            raise SwanError(problem, "write lines as <image number> <caption>")
        if int(number) not in listed:
            raise SwanError(
                f"{place}: image {number} is in no filenames_*.txt", "add it to one, or remove it"
            )
        caption = check_caption(text, f"{place}: the caption", listed[int(number)].filename)
        captions.setdefault(int(number), []).append(caption)
    without = [entry.filename for number, entry in listed.items() if number not in captions]
    if without:
        raise SwanError(f"{descriptions[0]}: no caption for {len(without)} listed images, first {without[0]}")
    return [replace(listed[number], captions=tuple(texts)) for number, texts in captions.items()]


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) < 20


def _read_ucm_names(folder: Path) -> dict[int, Entry]:
    """The entry of each image number, without captions."""
    entries: dict[int, Entry] = {}
    for name, split in SPLIT_NAMES.items():
        file = folder / f"filenames_{name}.txt"
        for filename, place in _read_names(file) if file.is_file() else []:
            stem = PurePosixPath(filename.strip()).stem
            if not _is_number(stem):
                raise SwanError(f"{place}: {filename[:60]} is not <image number>.<suffix>")
            if int(stem) in entries:
                raise SwanError(f"{place}: image {stem} is listed twice", "keep one of them")
            entries[int(stem)] = Entry(filename, split=split)
    if not entries:
        problem = f"{folder}: no file names in filenames_train.txt and so on"
        raise SwanError(problem, "list them, one per line")
    return entries
