"""How many of the words in captions a text tower knows: the check of `vocab`, `train` and `eval`.

swan vocab --dataset ucm

A vocabulary of other captions, or captions in a language that a text transformer does not know, train and
evaluate without an error, and mean nothing.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

MOST_CAPTIONS = 2000  # different ones that are looked at, spread over all
# Percent of the words, below which there is a warning. Of UCM, RSICD and RSITMD, 95 to 100 % of the words are
# in a vocabulary of their own and in MiniLM. Of other data sets, 54 to 80 % are in that of UCM.
FEW = 90.0
EXAMPLES = 5  # unknown words that are named
SENTENCE = 5  # letters, from which on a word in such a script is a sentence
UNSPACED = (
    "CJK",
    "HIRAGANA",
    "KATAKANA",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
    "TIBETAN",
)  # scripts without spaces


class Judge(Protocol):
    """A tokenizer of captions."""

    def known(self, text: str) -> list[tuple[str, bool]]:
        """The words of a text in order, each with whether it is known."""
        ...


@dataclass(frozen=True)
class KnownWords:
    """How many words of some captions are known.

    words: their number; repeated ones count every time.
    known: number of those that are known.
    unknown: the most frequent of the others.
    """

    words: int
    known: int
    unknown: tuple[str, ...]

    @property
    def percent(self) -> float:
        """The share of known words; 0 if there are no words."""
        return 100 * self.known / self.words if self.words else 0.0

    @property
    def are_few(self) -> bool:
        """Whether too few words are known for the captions to keep their meaning."""
        return self.percent < FEW

    @property
    def hint(self) -> str:
        """What may be the reason, by the look of the unknown words; "" if they show nothing."""
        if not self.words:
            return "the captions contain no words, only numbers or signs: are they in another column?"
        if any(len(word) >= SENTENCE and _scripts(word) & set(UNSPACED) for word in self.unknown):
            return "the captions are in a language without spaces: separate its words by spaces"
        return ""

    @property
    def warning(self) -> str:
        """A warning if few words are known; "" otherwise."""
        if not self.are_few:
            return ""
        examples = f" (unknown: {', '.join(self.unknown)})" if self.unknown else ""
        known = f"few words of the captions are known: {self}{examples}" if self.words else ""
        return "; ".join(filter(None, (known, self.hint)))

    def __str__(self) -> str:
        return f"{shown_percent(self.percent)} of {self.words:,}" if self.words else "no words"

    def record(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"words": self.words, "known": self.known, "percent": self.percent}


def shown_percent(share: float) -> str:
    """A share in percent with one digit; 100 and 0 only where all or none is meant."""
    if 0 < share < 0.1:
        return "under 0.1 %"
    return "over 99.9 %" if 99.9 < share < 100 else f"{share:.1f} %"


def known_words(captions: Iterable[str], tokenizer: Judge) -> KnownWords:
    """How many words of captions a tokenizer knows; of many captions, a part of them is looked at."""
    counts = Counter(captions)
    texts: Sequence[str] = list(counts)
    words, unknown = 0, Counter[str]()
    for text in texts[:: -(-len(texts) // MOST_CAPTIONS) or 1]:
        judged = tokenizer.known(text)
        words += counts[text] * len(judged)
        for word, known in judged:
            if not known:
                unknown[word] += counts[text]
    examples = tuple(word[:20] for word, _ in unknown.most_common(EXAMPLES))
    return KnownWords(words, words - unknown.total(), examples)


def _scripts(word: str) -> set[str]:
    """The scripts of a word's letters, by the first words of their names in Unicode."""
    return {script_of(letter) for letter in word if unicodedata.category(letter)[0] == "L"}


def script_of(letter: str) -> str:
    """The script of a letter, such as LATIN, CJK or ARABIC; all letters of Latin-1 are Latin."""
    if letter <= "\xff":
        return "LATIN"
    name = unicodedata.name(letter, "")
    return "LATIN" if "LATIN" in name else name.partition(" ")[0]


def has_meaning(word: str) -> bool:
    """Whether a word contains a letter or a pictogram; numbers and punctuation say nothing by themselves."""
    kinds = {unicodedata.category(letter) for letter in word}
    return "So" in kinds or any(kind[0] == "L" for kind in kinds)
