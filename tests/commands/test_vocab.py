"""`swan vocab --vectors`: word vectors of any width, from a text file to vocab.h5."""

import pytest
from conftest import invoke

from swancli.vocab.vocabulary import UNKNOWN, Vocabulary, export_json, read_vectors


@pytest.fixture
def vocab(tmp_path):
    """`swan vocab` with the words road and pond and a file of vectors with these lines."""
    words = Vocabulary(("road", "pond", UNKNOWN), (0, 0, 0), 0, "keep", "")
    export_json(tmp_path / "words.json", words)

    def run(*lines):
        (tmp_path / "vectors.txt").write_text("".join(f"{line}\n" for line in lines))
        options = ["--import", tmp_path / "words.json", "--output", tmp_path / "vocab.h5"]
        return invoke("vocab", *options, "--vectors", tmp_path / "vectors.txt", root=tmp_path)

    return run


def test_vectors_are_stored_and_their_width_is_shown(vocab, tmp_path):
    shown = vocab("the 1 2", "road 3 4")
    assert shown.returncode == 0, shown.stderr
    assert ["dimensions", "2"] in [line.split() for line in shown.stdout.splitlines()]
    assert "1 of 3 words have a vector (33.3 %)" in shown.stdout
    assert read_vectors(tmp_path / "vocab.h5").vectors.tolist() == [[3, 4], [0, 0], [0, 0]]


def test_width_is_shown_only_with_vectors(tmp_path, vocab):
    vocab("road 3 4")
    shown = invoke("vocab", "--import", tmp_path / "words.json", "--output", tmp_path / "b.h5", root=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "dimensions" not in shown.stdout


def test_line_of_another_width_is_refused_and_nothing_written(vocab, tmp_path):
    refused = vocab("the 1 2", "road 3 4 5")
    assert refused.returncode == 2
    assert "vectors.txt, line 2: 3 dimensions, but 2 in line 1" in refused.stderr
    assert not (tmp_path / "vocab.h5").exists()
