"""The code and the test of each protection exist; `python tests/faults/protections.py` removes each."""

import pytest
from protections import PROTECTIONS, ROOT

parametrize = pytest.mark.parametrize("protection", PROTECTIONS, ids=lambda protection: protection.name)


@parametrize
def test_code_of_a_protection_is_in_its_file_once(protection):
    assert (ROOT / "swancli" / protection.file).read_text(encoding="utf-8").count(protection.code) == 1


@parametrize
def test_test_of_a_protection_exists(protection):
    file, name = protection.test.split("::")
    assert f"\ndef {name}(" in (ROOT / file).read_text(encoding="utf-8")
