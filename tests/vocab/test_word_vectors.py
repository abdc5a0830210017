"""Files in GloVe's text format: what is taken from them, and what is refused."""

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swancli.errors import SwanError
from swancli.vocab.vocabulary import UNKNOWN, count_words, read_vectors, read_vocabulary, write_vocabulary
from swancli.vocab.word_vectors import WordVectors, read_word_vectors, second_try


def row(token, first, width=300):
    """A line of the file: a token, then `first` and zeros."""
    return " ".join([token, f"{first:.5f}", *["0"] * (width - 1)])


def write(path, *lines, end="\n"):
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def read(path, *words):
    return read_word_vectors(path, words, lambda *_: None)


def test_words_get_the_vectors_of_their_lines(tmp_path):
    path = write(tmp_path / "g.txt", row("the", 1), row("road", 2), row("pond", -0.5))
    found = read(path, "pond", "harbor", "road")
    assert found.vectors.shape == (3, 300)
    assert found.vectors.dtype == np.float32
    assert found.vectors[:, 0].tolist() == [-0.5, 0, 2]
    assert found.has_vector.tolist() == [True, False, True]
    assert found.retried == 0


def test_token_with_spaces_is_not_taken_for_its_first_word(tmp_path):
    path = write(tmp_path / "g.txt", row(". . .", 9), row("at name@domain.com", 8), row("at", 1), row(".", 7))
    assert read(path, "at").vectors[0, 0] == 1
    assert not read(path, "at", "name@domain.com").has_vector[1]


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("t-shaped", "tshaped"),
        ("st.", "st"),
        ("'s", "s"),
        ("sea/lake", "sea"),
        ("a-b/c", "ab"),
        ("pond", "pond"),
    ],
)
def test_second_try_drops_dashes_dots_and_quotes_and_what_follows_a_slash(tmp_path, word, written):
    assert second_try(word) == written
    found = read(write(tmp_path / "g.txt", row("x", 1), row(written, 3)), word)
    assert found.vectors[0, 0] == 3
    assert found.retried == (word != written)


def test_a_word_that_is_there_is_not_tried_again(tmp_path):
    found = read(write(tmp_path / "g.txt", row("tshaped", 1), row("t-shaped", 2)), "t-shaped")
    assert found.vectors[0, 0] == 2
    assert found.retried == 0


def test_first_of_two_lines_counts(tmp_path):
    assert read(write(tmp_path / "g.txt", row("road", 1), row("road", 2)), "road").vectors[0, 0] == 1


@pytest.mark.parametrize("end", ["\n", "\r\n", " \n"])
def test_line_ends_and_a_word2vec_head_are_understood(tmp_path, end):
    path = write(tmp_path / "g.txt", "2 300", row("the", 1), row("straße", 2), end=end)
    assert read(path, "straße").vectors[0, 0] == 2


def test_first_line_decides_the_width(tmp_path):
    found = read(write(tmp_path / "g.txt", "the 0.5 -1.25", "road 2 3", "pond 4 5"), "pond", "harbor", "the")
    assert found.vectors.tolist() == [[4, 5], [0, 0], [0.5, -1.25]]
    assert found.vectors.dtype == np.float32
    assert found.has_vector.tolist() == [True, False, True]


@pytest.mark.parametrize("width", [1, 50, 100, 200, 301])
def test_vectors_of_any_width_are_read(tmp_path, width):
    found = read(write(tmp_path / "g.txt", row("the", 1, width), row("road", 2, width)), "road")
    assert found.vectors.tolist() == [[2] + [0] * (width - 1)]


def test_word_of_several_fields_may_contain_a_number(tmp_path):
    path = write(tmp_path / "g.txt", "at 7 bridge.com 1 2", "at 5 6", "road 3 4")
    assert read(path, "at", "road").vectors.tolist() == [[5, 6], [3, 4]]


@pytest.mark.parametrize("first", ["7 1 2", "nan 1 2", "1e5 1 2"])
def test_first_field_is_the_word_even_if_it_is_a_number(tmp_path, first):
    found = read(write(tmp_path / "g.txt", first, "road 3 4"), first.split()[0], "road")
    assert found.vectors.tolist() == [[1, 2], [3, 4]]


def test_first_word_that_ends_in_a_number_makes_the_next_line_an_error(tmp_path):
    path = write(tmp_path / "g.txt", "route 66 1 2", "road 3 4")
    with pytest.raises(SwanError, match=r"g\.txt, line 2: 2 dimensions, but 3 in line 1"):
        read(path, "road")


def test_head_decides_the_width_and_is_no_vector(tmp_path):
    path = write(tmp_path / "g.txt", "3 2", "the 1 2", "road 3 4", "3 5 6")
    assert read(path, "road", "3").vectors.tolist() == [[3, 4], [5, 6]]
    with pytest.raises(SwanError, match=r"g\.txt, line 2: 3 dimensions, but 2 in line 1"):
        read(write(tmp_path / "g.txt", "2 2", "road 1 2 3"), "road")


@pytest.mark.parametrize("line", ["the", "a web page", "", "3 0", "the 1 2 x", "the\t1\t2"])
def test_first_line_without_numbers_is_refused(tmp_path, line):
    with pytest.raises(SwanError, match=r"g\.txt, line 1: not a word and its numbers"):
        read(write(tmp_path / "g.txt", line, "road 3 4"), "road")


@pytest.mark.parametrize(
    ("line", "width"), [("road", 0), ("road 1", 1), ("road 1 2 3", 3), ("road 1 2 3 4", 4)]
)
def test_needed_line_of_another_width_is_named_with_both(tmp_path, line, width):
    path = write(tmp_path / "g.txt", "the 1 2", line)
    with pytest.raises(SwanError, match=rf"g\.txt, line 2: {width} dimensions, but 2 in line 1"):
        read(path, "road", "the")
    assert read(path, "the").vectors.tolist() == [[1, 2]]  # a line that is not needed is not checked


@pytest.mark.parametrize("line", ["road x 2", "road 1 0,5", "road 1 nan", "road inf 2", "road 1 1e39"])
def test_needed_line_with_a_field_that_is_not_a_finite_number_is_named(tmp_path, line):
    with pytest.raises(SwanError, match=r"g\.txt, line 2: not a word and 2 numbers"):
        read(write(tmp_path / "g.txt", "the 1 2", line), "road")


def test_file_that_is_absent_or_of_other_words_is_refused(tmp_path):
    with pytest.raises(SwanError, match=r"none\.txt"):
        read(tmp_path / "none.txt", "road")
    with pytest.raises(SwanError, match="none of the 1 words"):
        read(write(tmp_path / "g.txt", row("the", 1)), "road")
    with pytest.raises(SwanError, match="none of the 1 words"):
        read(write(tmp_path / "empty.txt"), "road")


@settings(deadline=None, max_examples=50)
@given(
    tokens=st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zs", "Zl", "Zp"]), min_size=1)
    ),
)
def test_every_token_of_a_file_is_found_in_it(tmp_path_factory, tokens):
    path = write(
        tmp_path_factory.mktemp("g") / "g.txt",
        *(row(token, i) for i, token in enumerate(tokens)),
        row("z", 5),
    )
    found = read(path, *tokens, "z")
    assert found.has_vector.all()
    first = [tokens.index(token) for token in tokens]
    assert found.vectors[:-1, 0].tolist() == first


def test_vocab_file_holds_the_vectors_beside_the_words(tmp_path):
    vocabulary = count_words(["a road", "a pond"], min_count=1, stop_words="keep", dataset="")
    vectors = read(write(tmp_path / "g.txt", row("road", 4), row("a", 5)), *vocabulary.words)
    path = tmp_path / "vocab.h5"
    write_vocabulary(path, vocabulary, vectors)
    with h5py.File(path) as file:
        assert file["words"].asstr()[:].tolist() == ["a", "road", "pond", UNKNOWN]
        assert file["vectors"].shape == (4, 300)
        assert file["vectors"].dtype == np.float32
        assert file["vectors"][:, 0].tolist() == [5, 4, 0, 0]
        assert file["has_vector"][:].tolist() == [True, True, False, False]
    assert read_vocabulary(path) == vocabulary
    again = read_vectors(path)
    np.testing.assert_array_equal(again.vectors, vectors.vectors)
    np.testing.assert_array_equal(again.has_vector, vectors.has_vector)
    write_vocabulary(path, vocabulary)
    assert read_vectors(path) is None


def test_vectors_that_do_not_fit_the_words_are_refused(tmp_path):
    vocabulary = count_words(["a road"], min_count=1, stop_words="keep", dataset="")
    vectors = read(write(tmp_path / "g.txt", row("road", 4)), "road")
    write_vocabulary(tmp_path / "vocab.h5", vocabulary, vectors)
    with pytest.raises(SwanError, match=r"vocab\.h5: .*vectors has the shape \(1, 300\), not \(3, any\)"):
        read_vectors(tmp_path / "vocab.h5")


def test_vectors_of_a_vocab_file_may_have_any_width_but_none(tmp_path):
    vocabulary = count_words(["a road"], min_count=1, stop_words="keep", dataset="")
    path = tmp_path / "vocab.h5"
    vectors = read(write(tmp_path / "g.txt", "road 4 5", "a 6 7"), *vocabulary.words)
    write_vocabulary(path, vocabulary, vectors)
    assert read_vectors(path).vectors.tolist() == [[6, 7], [4, 5], [0, 0]]
    write_vocabulary(path, vocabulary, WordVectors(np.zeros((3, 0), np.float32), np.zeros(3, bool)))
    with pytest.raises(SwanError, match=r"vocab\.h5: damaged \(/vectors has the shape \(3, 0\)"):
        read_vectors(path)
