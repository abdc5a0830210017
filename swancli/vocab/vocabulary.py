"""Tokenizer and vocabulary, `vocab.h5`, and the published JSON layout.

    swan vocab --dataset ucm        # dataset.h5 -> vocab.h5

`tokenize` splits a caption into words, `Vocabulary.encode` turns them into indices; 0 is padding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache, cached_property
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swancli.errors import SwanError
from swancli.store.hdf5 import (
    TEXT,
    VOCABULARY,
    array_in,
    create_store,
    damage_named,
    open_store,
    text_attribute,
    texts_in,
)
from swancli.store.text import is_text, read_json, write_json
from swancli.vocab.known_words import has_meaning
from swancli.vocab.word_vectors import WordVectors

if TYPE_CHECKING:
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktSentenceTokenizer

UNKNOWN = "<unk>"
TOKENIZER = "nltk-punkt-untrained+words"  # its name in vocab.h5
PUNCTUATION = frozenset(",.:;?()[]&!*@#$%")  # dropped by the published rule
MAX_WORDS = 47  # longer captions are cut, as the published evaluation cuts them
STOP_WORD_RULES = ("keep", "drop")
MAKE_AGAIN = "make it again: swan vocab"


@cache
def _tokenizers() -> tuple[PunktSentenceTokenizer, NLTKWordTokenizer]:
    from nltk.tokenize import NLTKWordTokenizer  # too slow to import for --help
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    return PunktSentenceTokenizer(), NLTKWordTokenizer()


@cache
def english_stop_words() -> frozenset[str]:
    """NLTK's English stop words, which come with this package."""
    return frozenset(files("swancli.vocab").joinpath("stop_words.txt").read_text(encoding="utf-8").split())


def tokenize(text: str) -> list[str]:
    """The words of a text, in order, by the rule of the published vocabularies.

    Lower case, sentences by an untrained Punkt model, words by NLTK's tokenizer, punctuation dropped.
    """
    sentences, words = _tokenizers()
    text = text.lower().replace("\0", " ")  # HDF5 text cannot hold it
    tokens = (token for sentence in sentences.tokenize(text) for token in words.tokenize(sentence))
    return [token for token in tokens if token not in PUNCTUATION]


@dataclass(frozen=True)
class Vocabulary:
    """The words that a model knows.

    words: (V) in the order of their first appearance, UNKNOWN last. Word i has the index i + 1; 0 is padding.
    counts: (V) of each word, all 0 if imported. That of UNKNOWN includes all words left out.
    min_count: rarer words were left out; 0 if imported.
    stop_words: "keep" or "drop".
    dataset: whose captions were counted; "" if imported from JSON.
    """

    words: tuple[str, ...]
    counts: tuple[int, ...]
    min_count: int
    stop_words: str
    dataset: str

    def __post_init__(self) -> None:
        if UNKNOWN not in self.words:
            raise SwanError(f"vocabulary: no {UNKNOWN} among its {len(self.words)} words", MAKE_AGAIN)
        if len(set(self.words)) != len(self.words):
            raise SwanError("vocabulary: a word occurs twice", MAKE_AGAIN)
        if len(self.counts) != len(self.words):
            problem = f"vocabulary: {len(self.words)} words but {len(self.counts)} counts"
            raise SwanError(problem, MAKE_AGAIN)
        odd = next((word for word in self.words if not isinstance(word, str)), None)
        if odd is not None:
            raise SwanError(f"vocabulary: {odd!r} is not a word", MAKE_AGAIN)
        if not all(isinstance(count, int) and count >= 0 for count in self.counts):
            raise SwanError("vocabulary: a count is not an integer from 0", MAKE_AGAIN)

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self.words, start=1)}

    @property
    def once(self) -> float:
        """The share of the counted words that occur only once, in percent; 0 if imported."""
        return 100 * self.counts.count(1) / (sum(self.counts) or 1)

    def encode(self, text: str) -> list[int]:
        """The index of each word of a text, 1 to V, up to `MAX_WORDS` words; that of UNKNOWN for others.

        A text without words, such as punctuation only, becomes one unknown word.
        """
        unknown = self._index[UNKNOWN]
        return [self._index.get(word, unknown) for word in tokenize(text)[:MAX_WORDS]] or [unknown]

    def encode_all(self, texts: Iterable[str]) -> list[list[int]]:
        """What `encode` gives for each text."""
        return [self.encode(text) for text in texts]

    def unknown(self, text: str) -> list[str]:
        """The words of a text that are not in the vocabulary, in order, including dropped stop words."""
        return [word for word in tokenize(text) if word not in self._index]

    def known(self, text: str) -> list[tuple[str, bool]]:
        """The words of a text in order, each with whether it is in the vocabulary.

        Tokens of signs alone are none, nor are stop words where the vocabulary drops them.
        """
        words = [word for word in tokenize(text) if any(map(str.isalnum, word)) or has_meaning(word)]
        dropped = english_stop_words() if self.stop_words == "drop" else frozenset()
        return [(word, word in self._index) for word in words if word not in dropped]

    def to_plain(self) -> dict[str, Any]:
        """Lists and numbers only, for a checkpoint."""
        return asdict(self) | {"words": list(self.words), "counts": list(self.counts)}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Vocabulary:
        """The inverse of `to_plain`.

        Raises:
            SwanError: a key is missing, or words and counts do not fit.
        """
        try:
            values = {field.name: plain[field.name] for field in fields(cls)}
        except KeyError as error:
            raise SwanError(f"vocabulary: no key {error}", MAKE_AGAIN) from error
        for name in ("words", "counts"):
            if not isinstance(values[name], list):
                raise SwanError("vocabulary: words and counts are not lists", MAKE_AGAIN)
            values[name] = tuple(values[name])
        return cls(**values)


def count_words(captions: Iterable[str], *, min_count: int, stop_words: str, dataset: str) -> Vocabulary:
    """The words that occur at least `min_count` times, in the order of their first appearance.

    Args:
        captions: repeated ones count every time.
        min_count: of a word that is kept.
        stop_words: "keep", or "drop" to leave out English stop words whatever their count.
        dataset: name of the data set, for the file and for errors.

    Raises:
        SwanError: another stop-word rule, or no word is left.
    """
    if stop_words not in STOP_WORD_RULES:
        raise SwanError(f"--stop-words {stop_words!r}: no such rule", "give keep or drop")
    seen: Counter[str] = Counter()
    for caption, times in Counter(captions).items():  # captions repeat, and tokenizing is slow
        for word in tokenize(caption):
            seen[word] += times
    dropped = {UNKNOWN} | (english_stop_words() if stop_words == "drop" else set())
    kept = {word: count for word, count in seen.items() if count >= min_count and word not in dropped}
    if not kept:
        problem = f"{dataset or 'captions'}: no word occurs {min_count} times in them"
        raise SwanError(problem, "lower --min-count, or check that there are captions")
    unknown = seen.total() - sum(kept.values())
    return Vocabulary((*kept, UNKNOWN), (*kept.values(), unknown), min_count, stop_words, dataset)


# ---------------------------------------------------------------------------------------------------------
# vocab.h5


def write_vocabulary(
    path: str | PathLike[str], vocabulary: Vocabulary, vectors: WordVectors | None = None
) -> None:
    """Writes a `vocab.h5`: `/words` and `/counts`, with the rule that made them as attributes.

    With vectors, also `/vectors` float32 (V, E) and `/has_vector` bool (V).
    """
    with create_store(path, VOCABULARY) as file:
        file.create_dataset("words", data=np.array(vocabulary.words, dtype=object), dtype=TEXT)
        file.create_dataset("counts", data=np.array(vocabulary.counts, dtype=np.int64))
        file.attrs["tokenizer"] = TOKENIZER
        for name in ("min_count", "stop_words", "dataset"):
            file.attrs[name] = getattr(vocabulary, name)
        if vectors:
            file.create_dataset("vectors", data=vectors.vectors)
            file.create_dataset("has_vector", data=vectors.has_vector)


def read_vectors(path: str | PathLike[str]) -> WordVectors | None:
    """The word vectors of a `vocab.h5`; None if there are none, as in the published JSON.

    Raises:
        SwanError: they do not fit the words, or are not finite.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        return None
    with open_store(path, VOCABULARY) as file, damage_named(path, VOCABULARY):
        if "vectors" not in file:
            return None
        words = len(texts_in(file, "words"))
        vectors = array_in(file, "vectors", "f", words, None)[:].astype(np.float32)
        if not vectors.shape[1]:
            raise ValueError(f"/vectors has the shape {vectors.shape}")
        has_vector = array_in(file, "has_vector", "b", words)[:]
    odd = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(odd):
        raise SwanError(f"{path}: /vectors[{odd[0]}] contains NaN or infinity", MAKE_AGAIN)
    return WordVectors(vectors, has_vector)


def read_vocabulary(path: str | PathLike[str]) -> Vocabulary:
    """Reads a `vocab.h5`, or the published JSON layout from a path that ends in `.json`.

    Raises:
        SwanError: the file is absent or damaged, or was made by another tokenizer; names file and key.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        return _read_json(path)
    with open_store(path, VOCABULARY) as file, damage_named(path, VOCABULARY):
        tokenizer = text_attribute(file, "tokenizer")
        plain = {
            "words": texts_in(file, "words").tolist(),
            "counts": array_in(file, "counts", "iu", None)[:].tolist(),
            "min_count": int(file.attrs["min_count"]),
            "stop_words": text_attribute(file, "stop_words"),
            "dataset": text_attribute(file, "dataset"),
        }
    try:
        if tokenizer != TOKENIZER:
            raise SwanError(f"tokenizer {tokenizer!r}; this swan knows {TOKENIZER!r}", MAKE_AGAIN)
        return Vocabulary.from_plain(plain)
    except SwanError as error:
        raise SwanError(f"{path}: {error.problem}", error.hint) from error


# ---------------------------------------------------------------------------------------------------------
# the published JSON layout: {"word2idx": {word: 1..V}, "idx2word": {"1": word, ...}, "idx": V + 1}


def export_json(path: str | PathLike[str], vocabulary: Vocabulary) -> None:
    """Writes the published JSON layout, which the published code and `--import` read."""
    write_json(path, _layout(vocabulary.words))


def _layout(words: Sequence[str]) -> dict[str, Any]:
    numbered = {str(index): word for index, word in enumerate(words, start=1)}
    indices = {word: index for index, word in enumerate(words, start=1)}
    return {"word2idx": indices, "idx2word": numbered, "idx": len(words) + 1}


def _read_json(path: Path) -> Vocabulary:
    """Reads the published layout, which has no counts and no stop-word rule; the words show the rule."""
    hint = 'it needs {"word2idx": {word: 1 to V}, "idx2word": {"1": word, ...}, "idx": V + 1}'
    layout = read_json(path, hint)
    problem = _json_problem(layout)
    if problem:
        raise SwanError(f"{path}: {problem}", hint)
    words = tuple(sorted(layout["word2idx"], key=layout["word2idx"].get))
    rule = "drop" if english_stop_words().isdisjoint(words) else "keep"
    return Vocabulary(words, (0,) * len(words), min_count=0, stop_words=rule, dataset="")


def _json_problem(layout: object) -> str:
    """What is wrong with the decoded JSON, naming the key; "" if nothing is."""
    if not isinstance(layout, dict):
        return "not a JSON object"
    missing = next((key for key in ("word2idx", "idx2word", "idx") if key not in layout), None)
    if missing:
        return f"no key {missing!r}"
    indices = layout["word2idx"]
    if not isinstance(indices, dict):
        return "'word2idx' is not an object"
    for word, index in indices.items():
        if type(index) is not int:
            return f"word2idx[{word!r}] is {index!r}, not a number"
        if not is_text(word):
            return f"word2idx[{word!r}] is not a word"
    if sorted(indices.values()) != list(range(1, len(indices) + 1)):
        return f"the numbers of 'word2idx' are not 1 to {len(indices)}, each once"
    if UNKNOWN not in indices:
        return f"no {UNKNOWN} in 'word2idx'"
    if layout["idx2word"] != _layout(sorted(indices, key=indices.get))["idx2word"]:
        return "'idx2word' does not agree with 'word2idx'"
    if layout["idx"] != len(indices) + 1:
        return f"'idx' is {layout['idx']!r}; {len(indices)} words need {len(indices) + 1}"
    return ""
