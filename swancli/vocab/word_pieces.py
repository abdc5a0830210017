"""Word pieces of a BERT text encoder, from its `tokenizer.json`.

A text encoder that comes from outside splits captions by its own table, so it needs no `vocab.h5`.
`WordPieces.encode` turns a text into piece numbers; `known` says which words the encoder can know.
"""

from __future__ import annotations

import json
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from swancli.errors import SwanError, SwanWarning
from swancli.vocab.known_words import has_meaning, script_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MOST_PIECES = 128  # longer captions are cut, [CLS] and [SEP] included
START, END, UNKNOWN = "[CLS]", "[SEP]", "[UNK]"
INSIDE = "##"  # a piece that does not begin a word starts with it
HINT = "give the tokenizer.json of a BERT"
# Least number of pieces of a script other than Latin in a table that knows it. That of MiniLM has 8 of two or
# more Cyrillic letters and 488 of one Chinese character; those made for such languages have thousands.
KNOWN_PIECES, KNOWN_CHARACTERS = 100, 1000


class WordPieces:
    """The tokenizer of a BERT."""

    def __init__(self, layout: str, name: str = "tokenizer.json") -> None:
        """Reads the text of a `tokenizer.json`; its stored padding and truncation are turned off.

        Args:
            layout: the text.
            name: of the file, for errors.

        Raises:
            SwanError: it is not a BERT's tokenizer.
        """
        self.layout = layout
        self._tokenizer = _read(layout, name)
        self._warn_of_cut = CutWarning(f"{MOST_PIECES} word pieces")

    def __len__(self) -> int:
        """The rows that the encoder's table needs: one more than the highest piece number."""
        return self._rows

    @cached_property
    def _rows(self) -> int:
        return max(self._tokenizer.get_vocab().values()) + 1

    def encode(self, text: str) -> list[int]:
        """The piece numbers of a text, from [CLS] to [SEP], at most `MOST_PIECES` of them."""
        return _cut(self._tokenizer.encode(text).ids)

    def encode_all(self, texts: Iterable[str]) -> list[list[int]]:
        """What `encode` gives for each text; warns about those that are cut."""
        texts = list(texts)
        encoded = list(self._encoded(texts))
        self._warn_of_cut(texts, [len(numbers) > MOST_PIECES for numbers in encoded])
        return [_cut(numbers) for numbers in encoded]

    def _encoded(self, texts: Iterable[str]) -> Iterator[list[int]]:
        """All piece numbers of each text; a text that repeats, as captions do, is split once.

        The library's `encode_batch` would start threads, and print a warning if the process forks later.
        """
        seen: dict[str, list[int]] = {}
        for text in texts:
            if text not in seen:
                seen[text] = self._tokenizer.encode(text).ids
            yield list(seen[text])

    def known(self, text: str) -> list[tuple[str, bool]]:
        """The words of a text in order, in lower case, each with whether the encoder can know it.

        Words contain a letter or a pictogram: numbers and punctuation are none. Unknown are words with a
        letter of a script that the table does not have, words outside the table ([UNK]), and words of two or
        more letters that break into single ones.
        """
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        pieces: dict[int, list[str]] = {}
        spans: dict[int, tuple[int, int]] = {}
        for word, piece, (start, end) in zip(
            encoding.word_ids, encoding.tokens, encoding.offsets, strict=True
        ):
            pieces.setdefault(word, []).append(piece)
            spans[word] = (spans.get(word, (start, end))[0], end)
        written = {word: text[start:end] for word, (start, end) in spans.items()}
        return [
            (written[word].lower(), not self._is_unknown(written[word], pieces[word]))
            for word in pieces
            if has_meaning(written[word])
        ]

    def unknown(self, text: str) -> list[str]:
        """The words of a text that the encoder cannot know, in order; see `known`."""
        return [word for word, known in self.known(text) if not known]

    def _is_unknown(self, word: str, pieces: list[str]) -> bool:
        letters = [letter for letter in word if unicodedata.category(letter) in ("Lu", "Ll", "Lt", "Lo")]
        if not {script_of(letter) for letter in letters} <= self._scripts or UNKNOWN in pieces:
            return True
        return len(letters) > 1 and all(len(piece.removeprefix(INSIDE)) == 1 for piece in pieces)

    @cached_property
    def _scripts(self) -> set[str]:
        """The scripts that the table has; Latin in any case."""
        several, single = Counter[str](), Counter[str]()
        for piece in self._tokenizer.get_vocab():
            text = piece.removeprefix(INSIDE)
            scripts = {script_of(letter) for letter in text if letter.isalpha()}
            if len(scripts) == 1:
                (single if len(text) == 1 else several)[scripts.pop()] += 1
        known = {script for script, count in several.items() if count >= KNOWN_PIECES}
        return known | {"LATIN"} | ({"CJK"} if single["CJK"] >= KNOWN_CHARACTERS else set())

    def to_plain(self) -> dict[str, Any]:
        """Text only, for a checkpoint."""
        return {"pieces": self.layout}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> WordPieces:
        """The inverse of `to_plain`.

        Raises:
            SwanError: the key is missing, or its value is not a BERT's tokenizer.
        """
        if "pieces" not in plain:
            raise SwanError("word pieces: no key 'pieces'", HINT)
        if not isinstance(plain["pieces"], str):
            raise SwanError("word pieces: 'pieces' is not text", HINT)
        return cls(plain["pieces"], "word pieces")


class CutWarning:
    """Warns about the texts that a tokenizer cuts; about each one once, since a training encodes it often.

    Args:
        most: what a text may have, in words: "77 tokens".
    """

    def __init__(self, most: str) -> None:
        self._most = most
        self._known: set[int] = set()  # hashes of cut texts

    def __call__(self, texts: Sequence[str], cut: Sequence[bool]) -> None:
        """Warns with the count, if there is a new one among the texts that are cut."""
        new = {hash(text) for text, is_cut in zip(texts, cut, strict=True) if is_cut} - self._known
        if new:
            text = f"{sum(cut)} of {len(texts)} texts are cut: they have more than {self._most}"
            warnings.warn(text, SwanWarning, stacklevel=3)
        self._known |= new


def _read(layout: str, name: str) -> Tokenizer:
    from tokenizers import Tokenizer  # only models with such an encoder need it
    from tokenizers.models import WordPiece

    try:
        tokenizer = Tokenizer.from_str(layout)
    except Exception as error:  # the library has no class of its own for it
        reason = str(error).split("\n")[0]
        raise SwanError(f"{name}: not a tokenizer ({reason})", HINT) from error
    if not isinstance(tokenizer.model, WordPiece):
        raise SwanError(f"{name}: its model is {type(tokenizer.model).__name__}, not WordPiece", HINT)
    if (tokenizer.model.unk_token, tokenizer.model.continuing_subword_prefix) != (UNKNOWN, INSIDE):
        raise SwanError(f"{name}: its word pieces are not written with {UNKNOWN} and {INSIDE}", HINT)
    numbers = {piece: tokenizer.model.token_to_id(piece) for piece in (START, END, UNKNOWN)}
    missing = next((piece for piece, number in numbers.items() if number is None), None)
    if missing:
        raise SwanError(f"{name}: no {missing} among its pieces", HINT)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    probe = [] if undefined_pieces(tokenizer) else tokenizer.encode("a").ids
    if len(probe) != 3 or (probe[0], probe[-1]) != (numbers[START], numbers[END]):
        raise SwanError(f"{name}: it does not put a text between {START} and {END}", HINT)
    return tokenizer


def undefined_pieces(tokenizer: Tokenizer) -> list[str]:
    """The pieces that a tokenizer puts around a text and does not define: the library crashes at them."""
    if not tokenizer.post_processor:
        return []
    return _undefined(json.loads(tokenizer.post_processor.__getstate__()))


def _undefined(processor: dict[str, Any]) -> list[str]:
    if "processors" in processor:
        return [piece for part in processor["processors"] for piece in _undefined(part)]
    pieces = [part["SpecialToken"]["id"] for part in processor.get("single", []) if "SpecialToken" in part]
    return [piece for piece in pieces if piece not in processor["special_tokens"]]


def _cut(numbers: list[int]) -> list[int]:
    """At most `MOST_PIECES` of them; the last one stays [SEP]."""
    return numbers if len(numbers) <= MOST_PIECES else [*numbers[: MOST_PIECES - 1], numbers[-1]]
