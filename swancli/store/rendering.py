"""The record of how samples became colours, so that later pictures are shown in the same way."""

from __future__ import annotations

import h5py

from swancli.errors import SwanError
from swancli.images import Rendering, parse_rendering
from swancli.store.hdf5 import text_attribute


def write_rendering(file: h5py.File, rendering: Rendering) -> None:
    """Writes the attributes `bands` and `stretch`, as the options take them; empty if not given."""
    file.attrs["bands"] = rendering.bands_text
    file.attrs["stretch"] = rendering.stretch_text


def read_rendering(file: h5py.File) -> Rendering:
    """Reads what `write_rendering` wrote.

    Raises:
        KeyError, TypeError, ValueError: an attribute is absent, or is something else.
    """
    try:
        return parse_rendering(text_attribute(file, "bands"), text_attribute(file, "stretch"))
    except SwanError as error:
        raise ValueError(error.problem) from error
