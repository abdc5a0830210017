"""What several tests share: the reference values, and the folder of real data, where they are at hand."""

from pathlib import Path

import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def parity_folder():
    """The folder of reference values of the published code."""
    folder = SHARED / "parity"
    if not folder.is_dir():
        pytest.skip("the reference values of the published code are not at hand (shared/parity)")
    return folder


@pytest.fixture(scope="session")
def parity(parity_folder):
    """Reference values of the published code."""
    with np.load(parity_folder / "swan_reference.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def real_data():
    """The folder of real data sets."""
    folder = SHARED / "datasets"
    if not folder.is_dir():
        pytest.skip("the real data sets are not at hand (shared/datasets)")
    return folder
