"""The tokenizer's rule, the vocabulary it makes, and the files that hold it."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swancli.errors import SwanError
from swancli.vocab.vocabulary import (
    UNKNOWN,
    Vocabulary,
    count_words,
    english_stop_words,
    export_json,
    read_vectors,
    read_vocabulary,
    tokenize,
    write_vocabulary,
)
from swancli.vocab.word_vectors import WordVectors

SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture
def vocabulary():
    captions = ["A road near the pond.", "the pond, the road!", "a pond"]
    return count_words(captions, min_count=2, stop_words="keep", dataset="ucm")


# ---------------------------------------------------------------------------------------------------------
# words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \t\n", []),
        ("Many Planes are parked.", ["many", "planes", "are", "parked"]),
        ("a road. a pond .", ["a", "road", "a", "pond"]),
        (", . : ; ? ( ) [ ] & ! * @ # $ %", []),
        ("it's the port, isn't it?", ["it", "'s", "the", "port", "is", "n't", "it"]),
        ('a "big" road', ["a", "``", "big", "''", "road"]),
        ("a T-shaped road", ["a", "t-shaped", "road"]),
        ("3.5 km and 1,000 cars", ["3.5", "km", "and", "1,000", "cars"]),
        ("un café naïve 河", ["un", "café", "naïve", "河"]),
        ("a plane 🛩️", ["a", "plane", "🛩️"]),
        ("a\0road", ["a", "road"]),
        ("Is it a road?Or a pond! [a] {b} a/b (c);d", "is it a road or a pond a { b } a/b c d".split()),
    ],
)
def test_words_of_a_text(text, words):
    assert tokenize(text) == words


@settings(deadline=None, max_examples=100)
@given(st.text())
def test_no_text_is_too_odd_to_tokenize(text):
    assert all(tokenize(text))


def test_stop_words_are_the_179_of_nltk():
    assert len(english_stop_words()) == 179
    assert {"a", "the", "don't", "wouldn't", "ourselves"} <= english_stop_words()


def test_stop_words_hold_all_that_the_published_vocabularies_drop():
    path = SHARED / "parity" / "stop_words.txt"
    if not path.is_file():
        pytest.skip("the reference values are not beside this repository")
    assert set(path.read_text(encoding="utf-8").split()) <= english_stop_words()


# ---------------------------------------------------------------------------------------------------------
# counting and encoding


def test_words_are_in_the_order_of_first_appearance(vocabulary):
    assert vocabulary.words == ("a", "road", "the", "pond", UNKNOWN)
    assert vocabulary.counts == (2, 2, 3, 3, 1)  # "near" alone is unknown
    assert len(vocabulary) == 5


def test_stop_words_are_dropped_when_asked():
    captions = ["a road near the pond", "a road"]
    assert count_words(captions, min_count=1, stop_words="drop", dataset="").words == (
        "road",
        "near",
        "pond",
        UNKNOWN,
    )


def test_unknown_words_get_the_index_of_unk(vocabulary):
    assert vocabulary.encode("the big pond") == [3, 5, 4]
    assert vocabulary.unknown("the big pond, big road") == ["big", "big"]
    assert vocabulary.encode("") == vocabulary.encode("!") == [len(vocabulary)]
    assert vocabulary.unknown("") == []


def test_captions_are_cut_at_47_words_and_the_cut_ones_are_counted(vocabulary):
    fits, longer = " ".join(["road"] * 46 + ["pond"]), " ".join(["road"] * 46 + ["pond"] * 13)
    assert vocabulary.encode(longer) == vocabulary.encode(fits) == [2] * 46 + [4]
    assert vocabulary.encode_all(["the pond", longer]) == [[3, 4], [2] * 46 + [4]]


@pytest.mark.parametrize("captions", [[], ["..."], ["one two"]])
def test_no_word_left_is_an_error(captions):
    with pytest.raises(SwanError, match=r"ucm: no word occurs 2 times") as error:
        count_words(captions, min_count=2, stop_words="keep", dataset="ucm")
    assert "--min-count" in error.value.hint


def test_an_unknown_stop_word_rule_is_an_error():
    with pytest.raises(SwanError, match="Drop") as caught:
        count_words(["a"], min_count=1, stop_words="Drop", dataset="")
    assert caught.value.hint == "give keep or drop"


def test_rsitmd_gives_the_published_number_of_words():
    folder = SHARED / "datasets" / "rsitmd_precomp"
    if not folder.is_dir():
        pytest.skip("the RSITMD lists are not beside this repository")
    captions = [
        line
        for name in ("train_caps.txt", "test_caps.txt")
        for line in (folder / name).read_text(encoding="utf-8").splitlines()
    ]
    vocabulary = count_words(captions, min_count=5, stop_words="drop", dataset="rsitmd")
    assert len(vocabulary) == 1349
    assert vocabulary.words[-1] == UNKNOWN


# ---------------------------------------------------------------------------------------------------------
# files


def test_vocab_h5_comes_back_whole(vocabulary, tmp_path):
    write_vocabulary(tmp_path / "vocab.h5", vocabulary)
    assert read_vocabulary(tmp_path / "vocab.h5") == vocabulary
    with h5py.File(tmp_path / "vocab.h5") as file:
        assert file["words"].asstr()[:].tolist() == list(vocabulary.words)
        assert file["counts"].dtype == "int64"
        assert {name: file.attrs[name] for name in ("min_count", "stop_words", "dataset")} == {
            "min_count": 2,
            "stop_words": "keep",
            "dataset": "ucm",
        }
        assert file.attrs["tokenizer"]


def test_words_of_every_script_come_back_from_both_files(tmp_path):
    vocabulary = count_words(["café 河 🛩️ 'quoted' \\ {}"], min_count=1, stop_words="keep", dataset="")
    write_vocabulary(tmp_path / "vocab.h5", vocabulary)
    export_json(tmp_path / "vocab.json", vocabulary)
    assert read_vocabulary(tmp_path / "vocab.h5") == vocabulary
    assert read_vocabulary(tmp_path / "vocab.json").words == vocabulary.words


@pytest.mark.parametrize("missing", ["words", "counts"])
def test_a_damaged_vocab_h5_names_its_file(vocabulary, tmp_path, missing):
    path = tmp_path / "vocab.h5"
    write_vocabulary(path, vocabulary)
    with h5py.File(path, "a") as file:
        del file[missing]
    with pytest.raises(SwanError, match=r"vocab\.h5") as error:
        read_vocabulary(path)
    assert missing in str(error.value)


def test_another_tokenizer_is_refused(vocabulary, tmp_path):
    path = tmp_path / "vocab.h5"
    write_vocabulary(path, vocabulary)
    with h5py.File(path, "a") as file:
        file.attrs["tokenizer"] = "bpe"
    with pytest.raises(SwanError, match=r"vocab\.h5: tokenizer 'bpe'") as caught:
        read_vocabulary(path)
    assert caught.value.hint == "make it again: swan vocab"


def test_plain_values_hold_the_whole_vocabulary(vocabulary):
    plain = vocabulary.to_plain()
    assert json.loads(json.dumps(plain)) == plain
    assert Vocabulary.from_plain(plain) == vocabulary


def test_plain_values_without_a_key_are_refused(vocabulary):
    plain = vocabulary.to_plain()
    del plain["counts"]
    with pytest.raises(SwanError, match="no key 'counts'") as caught:
        Vocabulary.from_plain(plain)
    assert caught.value.hint == "make it again: swan vocab"
    with pytest.raises(SwanError, match=UNKNOWN):
        Vocabulary.from_plain(plain | {"words": ["a"], "counts": [1]})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"words": ["a", "b"]}, "no <unk> among its 2 words"),
        ({"words": ["a", "a", UNKNOWN], "counts": [1, 1, 1]}, "a word occurs twice"),
        ({"counts": [1]}, "2 words but 1 counts"),
        ({"words": [7, UNKNOWN]}, "7 is not a word"),
        ({"counts": [-1, 0]}, "a count is not an integer from 0"),
        ({"counts": [1.0, 0]}, "a count is not an integer from 0"),
        ({"words": "ab"}, "words and counts are not lists"),
        ({"counts": {"a": 1}}, "words and counts are not lists"),
    ],
)
def test_plain_values_that_are_no_vocabulary_are_refused(changed, said):
    plain = Vocabulary(("a", UNKNOWN), (1, 0), 1, "keep", "").to_plain()
    with pytest.raises(SwanError, match=f"^vocabulary: {said}") as caught:
        Vocabulary.from_plain(plain | changed)
    assert caught.value.hint == "make it again: swan vocab"


def test_vectors_are_stored_beside_their_words(vocabulary, tmp_path):
    path, values = tmp_path / "vocab.h5", np.arange(10, dtype=np.float32).reshape(5, 2)
    write_vocabulary(path, vocabulary, WordVectors(values, np.array([True, True, False, True, False])))
    with h5py.File(path) as file:
        assert file["vectors"][:].tolist() == values.tolist()
        assert file["has_vector"][:].tolist() == [True, True, False, True, False]
    read = read_vectors(path)
    assert (read.vectors.dtype, read.vectors.tolist()) == (np.float32, values.tolist())
    assert read.has_vector.tolist() == [True, True, False, True, False]
    assert read_vocabulary(path) == vocabulary
    write_vocabulary(path, vocabulary)
    assert read_vectors(path) is None
    assert read_vectors(tmp_path / "vocab.JSON") is None


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        (
            "vectors",
            np.zeros((4, 2), np.float32),
            r"damaged \(/vectors has the shape \(4, 2\), not \(5, any\)",
        ),
        ("vectors", np.zeros((5, 0), np.float32), r"damaged \(/vectors has the shape \(5, 0\)\)"),
        ("vectors", np.zeros((5, 2), np.int32), r"damaged \(/vectors contains int32\)"),
        ("vectors", np.array([[0, 1]] * 3 + [[0, np.inf]] * 2), r"/vectors\[3\] contains NaN or infinity"),
        ("vectors", np.array([[np.nan, 1]] + [[0, 1]] * 4), r"/vectors\[0\] contains NaN or infinity"),
        ("has_vector", np.zeros(4, bool), r"damaged \(/has_vector has the shape \(4,\), not \(5\)"),
        ("has_vector", np.zeros(5, np.int8), r"damaged \(/has_vector contains int8\)"),
    ],
)
def test_vectors_that_do_not_fit_their_words_are_refused(vocabulary, tmp_path, name, values, said):
    path = tmp_path / "vocab.h5"
    write_vocabulary(path, vocabulary, WordVectors(np.ones((5, 2), np.float32), np.ones(5, bool)))
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = values
    with pytest.raises(SwanError, match=f"vocab.h5: {said}") as caught:
        read_vectors(path)
    assert caught.value.hint == "make it again: swan vocab"


def test_imported_words_show_whether_stop_words_were_dropped(tmp_path):
    path = tmp_path / "words.json"
    for words, rule in ((["road", UNKNOWN], "drop"), (["road", "the", UNKNOWN], "keep")):
        export_json(path, Vocabulary(tuple(words), (1,) * len(words), 1, "keep", ""))
        assert read_vocabulary(path).stop_words == rule


def test_damaged_words_of_a_file_name_it_and_say_what_to_do(vocabulary, tmp_path):
    path = tmp_path / "vocab.h5"
    write_vocabulary(path, vocabulary)
    with h5py.File(path, "r+") as file:
        file["words"][0] = "pond"
    with pytest.raises(SwanError, match=r"vocab\.h5: vocabulary: a word occurs twice") as caught:
        read_vocabulary(path)
    assert caught.value.hint == "make it again: swan vocab"


def test_json_has_the_published_layout(vocabulary, tmp_path):
    path = tmp_path / "vocab.json"
    export_json(path, vocabulary)
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "word2idx": {"a": 1, "road": 2, "the": 3, "pond": 4, UNKNOWN: 5},
        "idx2word": {"1": "a", "2": "road", "3": "the", "4": "pond", "5": UNKNOWN},
        "idx": 6,
    }
    imported = read_vocabulary(path)
    assert imported == Vocabulary(vocabulary.words, (0,) * 5, min_count=0, stop_words="keep", dataset="")
    assert [item.name for item in tmp_path.iterdir()] == ["vocab.json"]


def layout(**changes):
    whole = {"word2idx": {"road": 1, UNKNOWN: 2}, "idx2word": {"1": "road", "2": UNKNOWN}, "idx": 3}
    return json.dumps({key: value for key, value in (whole | changes).items() if value is not None})


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        (layout(word2idx=None), "'word2idx'"),
        (layout(idx2word=None), "'idx2word'"),
        (layout(idx=None), "'idx'"),
        (layout(word2idx=["road"]), "'word2idx'"),
        (layout(word2idx={"road": "1", UNKNOWN: 2}), "word2idx['road']"),
        (layout(word2idx={"road": 0, UNKNOWN: 1}), "'word2idx'"),
        (layout(word2idx={"road": 1, "pond": 1, UNKNOWN: 2}), "'word2idx'"),
        (layout(word2idx={"road": 1, "pond": 2}), UNKNOWN),
        (layout(idx2word={"1": UNKNOWN, "2": "road"}), "'idx2word'"),
        (layout(idx=2), "'idx' is 2; 2 words need 3"),
    ],
)
def test_a_wrong_json_names_its_file_and_key(tmp_path, text, names):
    path = tmp_path / "words.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SwanError) as error:
        read_vocabulary(path)
    assert "words.json" in error.value.problem
    assert names in error.value.problem
    assert error.value.hint


def test_an_absent_file_is_named(tmp_path):
    for name in ("vocab.h5", "vocab.json"):
        with pytest.raises(SwanError, match=name):
            read_vocabulary(tmp_path / name)


def test_a_binary_file_named_json_is_refused(tmp_path):
    (tmp_path / "words.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SwanError, match="not UTF-8 text"):
        read_vocabulary(tmp_path / "words.json")
