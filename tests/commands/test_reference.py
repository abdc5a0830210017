"""The reference of the commands is what the app says today."""

from reference import FILE, reference


def test_reference_is_up_to_date():
    assert FILE.read_text(encoding="utf-8") == reference(), "run: python tests/commands/reference.py"


def test_reference_has_each_option_and_its_default():
    text = reference()
    assert "| `--seed N` | Seed for weights, batches, views and dropout. [default: 0] |" in text
    assert "| `--missing error\\|skip` |" in text
    assert text.count("## swan ") == 9
