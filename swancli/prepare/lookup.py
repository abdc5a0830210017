"""Finds the files that a list of images names, also where the disk has a name in another form."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath

from swancli.prepare.entries import Entry
from swancli.prepare.listing import list_folder
from swancli.prepare.scene_names import letters_before_number


class Lookup:
    """The images of a folder, by the names in a list.

    A name is taken as it is written. Only if no file has it, a file is taken whose name differs by its
    Unicode form, the case of its suffix, blanks around it, or `\\` for `/`; and that no other entry names.

    Args:
        folder: of the images; it may not exist.
        listed: all names in the list.
        scenes: name -> scene, of those whose scene the list names.
    """

    def __init__(self, folder: Path, listed: Iterable[str], scenes: Mapping[str, str]) -> None:
        self._folder, self._taken, self._scenes = folder, set(listed), scenes

    def find(self, entry: Entry) -> tuple[str, Path]:
        """The entry's file name as the disk has it, and its path: in the folder, or in that of its scene.

        Raises:
            FileNotFoundError: there is none.
            OSError: the system does not say.
        """
        scenes = (self._scenes.get(entry.filename), letters_before_number(entry.filename))
        places = ["", *(f"{scene}/" for scene in scenes if scene)]
        for place in places:
            path = self._folder / f"{place}{entry.filename}"
            if path.is_file():
                return entry.filename, path
        for place in places:
            found = [
                name for name in self._alike.get(_form(place + entry.filename), []) if self._is_free(name)
            ]
            if len(found) == 1:
                self._taken.add(found[0])
                return found[0].removeprefix(place), self._folder / found[0]
        raise FileNotFoundError

    def similar(self, names: Iterable[str]) -> tuple[str, str]:
        """The first of some names that differs from a file's by case or suffix alone, and that file.

        Both are "" if there is none.
        """
        pairs = ((name, self._offered.get(_stem(name), "")) for name in names)
        return next(((name, other) for name, other in pairs if other), ("", ""))

    def _is_free(self, name: str) -> bool:
        return name not in self._taken

    @cached_property
    def _names(self) -> list[str]:
        return list(list_folder(self._folder).names) if self._folder.is_dir() else []

    @cached_property
    def _offered(self) -> dict[str, str]:
        return {_stem(name): name for name in self._names if self._is_free(name)}

    @cached_property
    def _alike(self) -> dict[str, list[str]]:
        alike: dict[str, list[str]] = {}
        for name in self._names:
            alike.setdefault(_form(name), []).append(name)
        return alike


def _form(name: str) -> str:
    """What names have in common that are taken for one."""
    path = PurePosixPath(unicodedata.normalize("NFC", name.strip().replace("\\", "/")))
    return str(path.with_suffix(path.suffix.lower())) if path.name else str(path)


def _stem(name: str) -> str:
    """What names have in common that are offered for one another."""
    path = PurePosixPath(_form(name).casefold())
    return str(path.with_suffix("")) if path.name else str(path)
