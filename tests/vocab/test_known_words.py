"""The share of caption words that a text tower knows: a vocabulary, MiniLM, and a BERT of another script."""

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from swancli.model.towers import text_tower
from swancli.vocab.known_words import known_words, script_of
from swancli.vocab.vocabulary import count_words
from swancli.vocab.word_pieces import WordPieces


@pytest.fixture(scope="module")
def minilm():
    return WordPieces(text_tower()[2])


def of(*captions, **rules):
    """A vocabulary of captions."""
    return count_words(captions, **{"min_count": 1, "stop_words": "keep", "dataset": "small"} | rules)


def made_bert(words):
    """The tokenizer of a BERT with these pieces."""
    number = {piece: place for place, piece in enumerate(("[UNK]", "[CLS]", "[SEP]", *words))}
    tokenizer = Tokenizer(models.WordPiece(number, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(piece, number[piece]) for piece in ("[CLS]", "[SEP]")]
    )
    return WordPieces(tokenizer.to_str())


def test_words_of_a_vocabulary_are_counted_with_their_repetitions():
    captions = ["two boats , in a harbor .", "two boats , in a harbor .", "a big bridge"]
    found = known_words(captions, of("boats in a harbor"))
    assert (found.words, found.known, found.unknown) == (13, 9, ("two", "big", "bridge"))
    assert found.percent == pytest.approx(100 * 9 / 13)
    assert str(found) == "69.2 % of 13"
    assert found.warning == "few words of the captions are known: 69.2 % of 13 (unknown: two, big, bridge)"


def test_stop_words_that_a_vocabulary_drops_and_rare_ones_that_it_has_not():
    captions = ["a river near a road"] * 2 + ["a pond near the road"]
    found = known_words(captions, of(*captions, stop_words="drop", min_count=2))
    assert (found.words, found.known, found.unknown) == (9, 8, ("pond",))


def test_no_captions_have_no_words():
    found = known_words([], of("a"))
    assert (found.words, found.percent, str(found), found.unknown) == (0, 0, "no words", ())


def test_many_captions_are_looked_at_in_part_and_evenly():
    captions = [f"road{number} {'river' if number < 5000 else 'lake'}" for number in range(10_000)]
    found = known_words(captions, of("river"))
    assert (found.words, found.known) == (4000, 1000)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("MANY BOATS ARE DOCKED IN THE HARBOR", 100),
        ("a caf\xe9 beside a for\xeat", 100),
        ("many boats at Z\xfcrich", 100),
        ("\uff54\uff57\uff4f \uff42\uff4f\uff41\uff54\uff53 in a harbor", 60),  # wide letters
        ("\U0001d42d\U0001d430\U0001d428 boats", 50),  # letters of mathematics
        ("boats \U0001f6a2 harbor", 2 / 3 * 100),
        ("12 boats, 3 piers", 100),
        ("\u8bb8\u591a\u8239\u505c\u5728\u6e2f\u53e3\u91cc 3", 0),  # Chinese
        ("\u0e40\u0e23\u0e37\u0e2d\u0e08\u0e2d\u0e14\u0e17\u0e48\u0e32\u0e40\u0e23\u0e37\u0e2d", 0),  # Thai
        (
            "\u0642\u0648\u0627\u0631\u0628 \u0641\u064a \u0627\u0644\u0645\u064a\u0646\u0627\u0621",
            0,
        ),  # Arabic
        ("\u043b\u043e\u0434\u043a\u0438 \u0432 \u0433\u0430\u0432\u0430\u043d\u0438", 0),  # Russian
        ("\u0928\u093e\u0935 \u092c\u0902\u0926\u0930\u0917\u093e\u0939", 0),  # Hindi
        ("\ubc30\uac00 \ud56d\uad6c\uc5d0", 0),  # Korean
        ("\U0001f6a2\U0001f6a2 \u2693\ufe0f", 0),
        ("12 345 6.7", 0),
        ("... !?", 0),
    ],
)
def test_what_minilm_knows(minilm, text, share):
    assert known_words([text], minilm).percent == pytest.approx(share)


def test_what_is_wrong_with_the_captions_is_said():
    vocabulary = of("a")
    assert "in another column" in known_words(["..."], vocabulary).warning
    sentence = "\u8bb8\u591a\u8239\u505c\u5728\u6e2f\u53e3\u91cc"
    assert "separate its words by spaces" in known_words([sentence], vocabulary).warning
    assert known_words([sentence], of(sentence)).warning == ""
    assert known_words(["lots of boats"], vocabulary).hint == ""


def test_numbers_are_words_of_a_vocabulary_that_has_them():
    found = known_words(["12 345"], of("12"))
    assert (found.words, found.known) == (2, 1)


CYRILLIC = [chr(first) + chr(second) for first in range(0x430, 0x43A) for second in range(0x430, 0x43A)]


@pytest.mark.parametrize(
    ("pieces", "text", "share"),
    [
        (CYRILLIC, "\u0430\u0431 \u0436\u0437", 100),  # a hundred pieces of two letters
        (CYRILLIC[1:], "\u0430\u0431 \u0436\u0437", 0),
        ([chr(0x4E00 + number) for number in range(1000)], "\u4e00\u4e8c \u9f8d", 2 / 3 * 100),
        ([chr(0x4E00 + number) for number in range(999)], "\u4e00\u4e8c", 0),
    ],
)
def test_a_bert_of_another_script_is_judged_by_its_own_table(pieces, text, share):
    assert known_words([text], made_bert(pieces)).percent == pytest.approx(share)


@pytest.mark.parametrize(
    ("letter", "script"),
    [("a", "LATIN"), ("\xb5", "LATIN"), ("\u0142", "LATIN"), ("\u0436", "CYRILLIC"), ("\u8239", "CJK")],
)
def test_script_of_a_letter(letter, script):
    assert script_of(letter) == script
