"""A sound file is read; whatever else a file holds, its reader refuses it with a SwanError or reads it.

These are a few examples, always the same. For more of them set SWAN_FUZZ to a number of examples for each
reader; `fuzz.py` is guided by coverage.
"""

import os
import warnings
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from readers import READERS
from spoiling import cut_bytes, spoil_bytes, spoil_hdf5

from swancli.errors import SwanError

EXAMPLES = int(os.environ.get("SWAN_FUZZ", "6"))
few = settings(
    max_examples=EXAMPLES,
    derandomize="SWAN_FUZZ" not in os.environ,
    database=None,
    deadline=None,
    phases=[Phase.generate] if EXAMPLES < 100 else [Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The path of a reader's input and the bytes of a sound one, which is made once."""
    made = {}

    def get(name):
        if name not in made:
            path = tmp_path_factory.mktemp("sound") / READERS[name].file
            READERS[name].write(path)
            made[name] = path, path.read_bytes()
        return made[name]

    return get


def read(name, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(SwanError):
            READERS[name].read(path)


@pytest.mark.parametrize("name", READERS)
def test_a_sound_file_is_read(tmp_path, name):
    READERS[name].write(tmp_path / READERS[name].file)
    READERS[name].read(tmp_path / READERS[name].file)


@pytest.mark.parametrize("name", READERS)
@given(data=st.binary(max_size=200))
@few
def test_any_bytes_are_refused_or_read(sound, name, data):
    path, _ = sound(name)
    path.write_bytes(data)
    read(name, path)


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
@few
def test_a_sound_file_with_other_bytes_is_refused_or_read(sound, name, data):
    path, whole = sound(name)
    path.write_bytes(whole)
    # On other bytes in its heaps the HDF5 library itself may run for ever, which nobody above it can end.
    spoil = cut_bytes if READERS[name].spoil is spoil_hdf5 else spoil_bytes
    spoil(path, lambda count: data.draw(st.integers(0, max(0, count - 1))))
    read(name, path)


@pytest.mark.parametrize("name", [name for name, reader in READERS.items() if reader.spoil])
@given(data=st.data())
@few
def test_a_sound_file_with_another_structure_is_refused_or_read(sound, name, data):
    path, whole = sound(name)
    path.write_bytes(whole)
    try:
        READERS[name].spoil(path, lambda count: data.draw(st.integers(0, max(0, count - 1))))
    except (TypeError, ValueError, UnicodeEncodeError):
        return  # what cannot be written is no input
    read(name, path)
