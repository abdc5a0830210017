"""The words a text tower knows: the tokenizer, the `Vocabulary`, and its files.

    swan vocab --dataset ucm        # dataset.h5 -> vocab.h5

A caption becomes words by `tokenize`, and indices by `Vocabulary.encode`; 0 is left for padding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
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
from swancli.vocab.word_vectors import WORD_DIM, WordVectors

if TYPE_CHECKING:
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktSentenceTokenizer

UNKNOWN = "<unk>"
TOKENIZER = "nltk-punkt-untrained+words"  # the name a vocab.h5 records
PUNCTUATION = frozenset(",.:;?()[]&!*@#$%")  # what the published rule drops
STOP_WORD_RULES = ("keep", "drop")
MAKE_AGAIN = "make it with `swan vocab`"


@cache
def _tokenizers() -> tuple[PunktSentenceTokenizer, NLTKWordTokenizer]:
    from nltk.tokenize import NLTKWordTokenizer  # importing nltk takes longer than a --help may
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    return PunktSentenceTokenizer(), NLTKWordTokenizer()


@cache
def stop_words() -> frozenset[str]:
    """NLTK's English stop words, as shipped with this package."""
    return frozenset(files("swancli.vocab").joinpath("stop_words.txt").read_text(encoding="utf-8").split())


def tokenize(text: str) -> list[str]:
    """The words of a text, in order, by the rule of the published vocabularies.

    Lower-case; sentences by an untrained Punkt; NLTK's word tokenizer in each; punctuation dropped.
    """
    sentences, words = _tokenizers()
    text = text.lower().replace("\0", " ")  # HDF5 text cannot hold it
    tokens = (token for sentence in sentences.tokenize(text) for token in words.tokenize(sentence))
    return [token for token in tokens if token not in PUNCTUATION]


@dataclass(frozen=True)
class Vocabulary:
    """The words that a model can tell apart.

    words: (V) in the order of their first appearance, UNKNOWN last; word i has the index i + 1, 0 is
    padding. counts: (V) how often each was seen, all 0 when imported; for UNKNOWN, how many words of the
    captions it stands for. min_count: rarer words were left out (0 when imported). stop_words: "keep" or
    "drop". dataset: whose captions were counted, "" when imported from JSON.
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
            raise SwanError(f"vocabulary: {odd!r} is no word", MAKE_AGAIN)
        if not all(isinstance(count, int) and count >= 0 for count in self.counts):
            raise SwanError("vocabulary: a count is no number from 0 on", MAKE_AGAIN)

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self.words, start=1)}

    def encode(self, text: str) -> list[int]:
        """The index of each word of a text, 1 to V; that of UNKNOWN for a word it does not hold.

        A text without words, of punctuation alone, counts as one unknown word.
        """
        unknown = self._index[UNKNOWN]
        return [self._index.get(word, unknown) for word in tokenize(text)] or [unknown]

    def unknown(self, text: str) -> list[str]:
        """The words of a text that it does not hold, in order; dropped stop words are among them."""
        return [word for word in tokenize(text) if word not in self._index]

    def to_plain(self) -> dict[str, Any]:
        """Lists and numbers only, as a checkpoint carries it."""
        return asdict(self) | {"words": list(self.words), "counts": list(self.counts)}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Vocabulary:
        """The vocabulary that `to_plain` gave.

        Raises:
            SwanError: a key is missing, or words and counts do not fit.
        """
        try:
            if not (isinstance(plain["words"], list) and isinstance(plain["counts"], list)):
                raise SwanError("vocabulary: words and counts are no lists", MAKE_AGAIN)
            return cls(
                words=tuple(plain["words"]),
                counts=tuple(plain["counts"]),
                min_count=plain["min_count"],
                stop_words=plain["stop_words"],
                dataset=plain["dataset"],
            )
        except KeyError as error:
            raise SwanError(f"vocabulary: no {error} in it", MAKE_AGAIN) from error


def count_words(captions: Iterable[str], *, min_count: int, stop_words: str, dataset: str) -> Vocabulary:
    """The words seen at least `min_count` times in the captions, in the order of their first appearance.

    Args:
        stop_words: "keep", or "drop" to leave English stop words out whatever their count.

    Raises:
        SwanError: another stop-word rule, or no word is left.
    """
    if stop_words not in STOP_WORD_RULES:
        raise SwanError(f"--stop-words {stop_words!r}: not a rule", "give keep or drop")
    seen: Counter[str] = Counter()
    for caption, times in Counter(captions).items():  # captions repeat, and tokenizing is the slow part
        for word in tokenize(caption):
            seen[word] += times
    dropped = _dropped(stop_words)
    held = {word: count for word, count in seen.items() if count >= min_count and word not in dropped}
    held.pop(UNKNOWN, None)
    if not held:
        problem = f"{dataset or 'captions'}: no word occurs {min_count} times in them"
        raise SwanError(problem, "lower --min-count, or check that there are captions")
    unknown = seen.total() - sum(held.values())
    return Vocabulary((*held, UNKNOWN), (*held.values(), unknown), min_count, stop_words, dataset)


def _dropped(rule: str) -> frozenset[str]:
    return stop_words() if rule == "drop" else frozenset()


# ---------------------------------------------------------------------------------------------------------
# vocab.h5


def write_vocabulary(
    path: str | PathLike[str], vocabulary: Vocabulary, vectors: WordVectors | None = None
) -> None:
    """Writes a `vocab.h5`: `/words`, `/counts`, and the rule that made them as attributes.

    With vectors, also `/vectors` float32 (V, 300) and `/has_vector` bool (V).
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
    """The word vectors of a `vocab.h5`; None when it, or a published JSON, has none.

    Raises:
        SwanError: they do not fit its words.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        return None
    with open_store(path, VOCABULARY) as file, damage_named(path, VOCABULARY):
        if "vectors" not in file:
            return None
        words = len(texts_in(file, "words"))
        vectors = array_in(file, "vectors", "f", words, WORD_DIM)[:].astype(np.float32)
        has_vector = array_in(file, "has_vector", "b", words)[:]
    odd = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(odd):
        raise SwanError(f"{path}: /vectors[{odd[0]}] holds what is no number", MAKE_AGAIN)
    return WordVectors(vectors, has_vector)


def read_vocabulary(path: str | PathLike[str]) -> Vocabulary:
    """Reads a `vocab.h5`, or the published JSON layout from a path that ends in `.json`.

    Raises:
        SwanError: the file is absent or damaged, or its tokenizer is another one; names file and key.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        return _read_json(path)
    with open_store(path, VOCABULARY) as file, damage_named(path, VOCABULARY):
        plain, tokenizer = _read_store(file), text_attribute(file, "tokenizer")
    try:
        if tokenizer != TOKENIZER:
            raise SwanError(f"tokenizer {tokenizer!r}; this swan knows {TOKENIZER!r}", MAKE_AGAIN)
        return Vocabulary.from_plain(plain)
    except SwanError as error:
        raise SwanError(f"{path}: {error.problem}", error.mend) from error


def _read_store(file: h5py.File) -> dict[str, Any]:
    """What `Vocabulary.from_plain` takes."""
    return {
        "words": texts_in(file, "words").tolist(),
        "counts": array_in(file, "counts", "iu", None)[:].tolist(),
        "min_count": int(file.attrs["min_count"]),
        "stop_words": text_attribute(file, "stop_words"),
        "dataset": text_attribute(file, "dataset"),
    }


# ---------------------------------------------------------------------------------------------------------
# the published JSON layout: {"word2idx": {word: 1..V}, "idx2word": {"1": word, ...}, "idx": V + 1}


def export_json(path: str | PathLike[str], vocabulary: Vocabulary) -> None:
    """Writes the published JSON layout, which the published code and `--import` read."""
    numbered = dict(enumerate(vocabulary.words, start=1))
    layout = {
        "word2idx": {word: index for index, word in numbered.items()},
        "idx2word": numbered,
        "idx": len(vocabulary) + 1,
    }
    write_json(path, layout)


def _read_json(path: Path) -> Vocabulary:
    """The layout holds words alone: the stop-word rule is seen from them, the counts are unknown."""
    mend = 'it needs {"word2idx": {word: 1 to V}, "idx2word": {"1": word, ...}, "idx": V + 1}'
    layout = read_json(path, mend)
    problem = _json_problem(layout)
    if problem:
        raise SwanError(f"{path}: {problem}", mend)
    indices = layout["word2idx"]
    words = tuple(sorted(indices, key=indices.get))
    rule = "drop" if stop_words().isdisjoint(words) else "keep"
    return Vocabulary(words, (0,) * len(words), min_count=0, stop_words=rule, dataset="")


def _json_problem(layout: object) -> str | None:
    """What is wrong with the decoded JSON, naming the key; None when nothing is."""
    if not isinstance(layout, dict):
        return "not a JSON object"
    for key, kind in (("word2idx", dict), ("idx2word", dict), ("idx", int)):
        if key not in layout:
            return f"no key {key!r}"
        if not isinstance(layout[key], kind):
            return f"{key!r} is not {'an object' if kind is dict else 'a number'}"
    indices = layout["word2idx"]
    wrong = next((word for word, index in indices.items() if type(index) is not int), None)
    if wrong is not None:
        return f"word2idx[{wrong!r}] is {indices[wrong]!r}, not a number"
    if sorted(indices.values()) != list(range(1, len(indices) + 1)):
        return f"the numbers of 'word2idx' are not 1 to {len(indices)}, each once"
    if UNKNOWN not in indices:
        return f"no {UNKNOWN} in 'word2idx'"
    odd = next((word for word in indices if not is_text(word)), None)
    if odd is not None:
        return f"word2idx[{odd!r}] is no word"
    if layout["idx2word"] != {str(index): word for word, index in indices.items()}:
        return "'idx2word' does not agree with 'word2idx'"
    if layout["idx"] != len(indices) + 1:
        return f"'idx' is {layout['idx']}, {len(indices)} words need {len(indices) + 1}"
    return None
