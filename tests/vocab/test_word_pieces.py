"""Word pieces of a BERT: numbers, cuts, unknown words, and what is no tokenizer of a BERT."""

import json
import os
import subprocess
import sys

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from swancli.errors import SwanError, SwanWarning
from swancli.vocab.word_pieces import MOST_PIECES, WordPieces

PIECES = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "road", "near", "cafe", "q", "##z", "##x", "x", "##5", "3"),
    *(".", "-", "##way", "river", "р", "##е", "##ка", "µ", "##m"),
)
NUMBER = {piece: number for number, piece in enumerate(PIECES)}


def made_tokenizer():
    """A small tokenizer of the kind that comes with a BERT, with padding and truncation stored."""
    tokenizer = Tokenizer(models.WordPiece(NUMBER, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(piece, NUMBER[piece]) for piece in ("[CLS]", "[SEP]")]
    )
    tokenizer.enable_padding(length=32, pad_token="[PAD]")
    tokenizer.enable_truncation(8)
    return tokenizer


@pytest.fixture(scope="module")
def layout():
    return made_tokenizer().to_str()


@pytest.fixture(scope="module")
def pieces(layout):
    return WordPieces(layout)


# ---------------------------------------------------------------------------------------------------------
# encoding


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "[CLS] [SEP]"),
        ("A Roadway near a CAFÉ.", "[CLS] a road ##way near a cafe . [SEP]"),
        ("qzx, 河", "[CLS] q ##z ##x [UNK] [UNK] [SEP]"),
        ("a a a a a a a a a a", "[CLS] a a a a a a a a a a [SEP]"),  # more than the stored truncation
    ],
)
def test_text_becomes_the_numbers_of_its_pieces(pieces, text, expected):
    assert pieces.encode(text) == [NUMBER[piece] for piece in expected.split()]


def test_long_text_is_cut_and_keeps_its_end_piece(pieces):
    fits, cut = "a " * (MOST_PIECES - 2), "a " * (MOST_PIECES - 1)
    whole = [NUMBER["[CLS]"], *[NUMBER["a"]] * (MOST_PIECES - 2), NUMBER["[SEP]"]]
    assert pieces.encode(fits) == pieces.encode(cut) == whole
    with pytest.warns(SwanWarning, match="2 of 4 texts are cut: they have more than 128 word pieces"):
        assert pieces.encode_all([fits, cut, "a", cut])[1] == whole


def test_a_text_that_is_cut_is_reported_once(layout, recwarn):
    pieces, cut = WordPieces(layout), "a " * MOST_PIECES
    for texts in ([cut], ["a", cut], [cut + "a", cut, "a"]):
        pieces.encode_all(texts)
    assert [str(one.message)[:6] for one in recwarn] == ["1 of 1", "2 of 3"]


def test_many_texts_are_encoded_as_each_alone(pieces):
    texts = ["a road", "", "a road", "near a river - 3.", "qzx"]
    assert pieces.encode_all(texts) == [pieces.encode(text) for text in texts]
    assert pieces.encode_all([]) == []


def test_equal_texts_do_not_share_a_list(pieces):
    first, second = pieces.encode_all(["a road", "a road"])
    first.append(0)
    assert second == pieces.encode("a road")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_process_that_forks_after_encoding_prints_nothing(layout, tmp_path):
    (tmp_path / "tokenizer.json").write_text(layout, encoding="utf-8")
    code = (
        "import os, pathlib, sys; from swancli.vocab.word_pieces import WordPieces;"
        "pieces = WordPieces(pathlib.Path(sys.argv[1]).read_text(encoding='utf-8'));"
        "pieces.encode_all(map(str, range(100))); child = os.fork(); pieces.encode_all(['a', 'b']);"
        "os.waitpid(child, 0) if child else None"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "tokenizer.json")]
    environment = {key: value for key, value in os.environ.items() if key != "TOKENIZERS_PARALLELISM"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout + done.stderr == ""


# ---------------------------------------------------------------------------------------------------------
# unknown words


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("", []),
        ("A Roadway near a café.", []),
        ("Road qzx QZX", ["qzx", "qzx"]),  # single letters
        ("q x", []),  # which are known where they are words
        ("x5", []),  # one letter and a digit
        ("a Zebra", ["zebra"]),  # [UNK]
        ("Crème", ["crème"]),  # as it is written
        ("a река", ["река"]),  # known pieces, but not Latin
        ("a 河流 road", ["河", "流"]),  # the tokenizer takes each as a word
        ("µ", []),  # of Latin-1
        ("4 77 ½ ,;!", []),  # [UNK], but numbers and punctuation
        ("+ €", []),
        ("road🛩 🛩", ["road🛩", "🛩"]),
        ("near-road", []),
        ("a" * 101, ["a" * 101]),  # longer than the tokenizer reads
    ],
)
def test_unknown_words_are_listed_in_order(pieces, text, unknown):
    assert pieces.unknown(text) == unknown


# ---------------------------------------------------------------------------------------------------------
# the file, and a checkpoint's values


def test_length_is_the_rows_that_the_table_needs(pieces):
    assert len(pieces) == len(PIECES)
    tokenizer = made_tokenizer()
    tokenizer.model = models.WordPiece({**NUMBER, "pond": 99}, unk_token="[UNK]")
    assert len(WordPieces(tokenizer.to_str())) == 100


def test_plain_values_hold_the_whole_tokenizer(pieces, layout):
    plain = pieces.to_plain()
    assert plain == {"pieces": layout}
    assert WordPieces.from_plain(plain).encode("a roadway") == pieces.encode("a roadway")


@pytest.mark.parametrize("plain", [{}, {"pieces": None}, {"pieces": b"{}"}, {"pieces": "{}"}])
def test_plain_values_that_are_no_tokenizer_are_refused(plain):
    with pytest.raises(SwanError, match="word pieces: ") as error:
        WordPieces.from_plain(plain)
    assert error.value.hint


def changed(change):
    """The text of the made tokenizer after a change of its JSON."""
    content = json.loads(made_tokenizer().to_str())
    change(content)
    return json.dumps(content)


def without(piece):
    """The made tokenizer without one of its pieces."""
    return changed(lambda content: content["model"]["vocab"].pop(piece))


def other_model():
    return changed(lambda content: content.update(model=json.loads(models.BPE().__getstate__())))


def other_frame(single):
    """The made tokenizer, which puts a text between other pieces."""
    tokenizer = made_tokenizer()
    special = [(piece, NUMBER[piece]) for piece in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
    return tokenizer.to_str()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a tokenizer"),
        ("{", "not a tokenizer"),
        ("[1]", "not a tokenizer"),
        (other_model(), "BPE, not WordPiece"),
        (changed(lambda content: content["model"].update(unk_token="<unk>")), r"\[UNK\] and ##"),
        (changed(lambda content: content["model"].update(continuing_subword_prefix="@")), r"\[UNK\] and ##"),
        (without("[UNK]"), r"no \[UNK\]"),
        (without("[CLS]"), r"no \[CLS\]"),
        (without("[SEP]"), r"no \[SEP\]"),
        (changed(lambda content: content.update(post_processor=None)), r"between \[CLS\] and \[SEP\]"),
        (other_frame("$A [SEP]"), r"between \[CLS\] and \[SEP\]"),
        (other_frame("[CLS] [SEP] $A"), r"between \[CLS\] and \[SEP\]"),
        (
            changed(lambda content: content["post_processor"]["special_tokens"].pop("[SEP]")),
            r"between \[CLS\] and \[SEP\]",
        ),
        (
            changed(lambda content: content["post_processor"]["special_tokens"]["[SEP]"].update(ids=[999])),
            r"between \[CLS\] and \[SEP\]",
        ),
    ],
)
def test_what_is_no_tokenizer_of_a_bert_is_refused_by_name(text, said):
    with pytest.raises(SwanError, match=said) as error:
        WordPieces(text, "folder/tokenizer.json")
    assert error.value.problem.startswith("folder/tokenizer.json: ")
    assert "\n" not in error.value.problem
    assert error.value.hint
