"""Tokenizers of open_clip models: from a text to the numbers that their text tower takes.

Most models use the English byte pairs of CLIP, which come with open_clip. Others have a Hugging Face
tokenizer, whose `tokenizer.json` is read by the `tokenizers` library and kept in the checkpoint.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swancli.errors import SwanError
from swancli.store.text import is_text, read_json, read_text
from swancli.vocab.known_words import has_meaning, script_of
from swancli.vocab.word_pieces import CutWarning, undefined_pieces

if TYPE_CHECKING:
    from open_clip import SimpleTokenizer
    from tokenizers import Tokenizer

CLEAN = ("lower", "whitespace", "canonicalize")
SIDES = ("left", "right")
TOKENIZER, SPECIAL = "tokenizer.json", ("tokenizer_config.json", "special_tokens_map.json")
LEFT = ("Llama", "Gemma")  # kinds of tokenizers that pad on the left unless their files say otherwise
CONTEXT_LENGTH, WORDS = 77, 49408  # open_clip's, where a configuration has none
LONGEST = 10_000  # numbers per text; far beyond any model, since a damaged length would fill the memory
DAMAGED = "take another checkpoint"


@dataclass(frozen=True)
class ClipTokenizer:
    """The tokenizer of an open_clip model, with the numbers that open_clip's own gives.

    words: rows of the model's table of tokens; all numbers are below it.
    context_length: L, numbers per text, padding included.
    clean: how a text is cleaned first, one of `CLEAN`, as open_clip calls it.
    special: special tokens besides start and end; of the byte pairs only.
    json: the content of a `tokenizer.json`; "" for the byte pairs of CLIP. What follows is for it alone.
    pad: the number of the padding.
    pad_side: "left" or "right".
    cut_side: the end at which a long text is cut, likewise.
    zeroed: the number that is replaced by 0, of the separator; None for none.
    """

    words: int = WORDS
    context_length: int = CONTEXT_LENGTH
    clean: str = "lower"
    special: tuple[str, ...] = ()
    json: str = ""
    pad: int = 0
    pad_side: str = "right"
    cut_side: str = "right"
    zeroed: int | None = None

    def __post_init__(self) -> None:
        numbers = {"words": 1, "context_length": 3, "pad": 0, "zeroed": 0}
        for name, smallest in numbers.items():
            value = getattr(self, name)
            if type(value) is not int and not (name == "zeroed" and value is None):
                raise SwanError(f"tokenizer: {name} is {value!r}, not a whole number", DAMAGED)
            if value is not None and value < smallest:
                raise SwanError(f"tokenizer: {name} is {value}, less than {smallest}", DAMAGED)
        if self.context_length > LONGEST:
            raise SwanError(f"tokenizer: context_length is {self.context_length}, over {LONGEST}", DAMAGED)
        for name, known in {"clean": CLEAN, "pad_side": SIDES, "cut_side": SIDES}.items():
            if getattr(self, name) not in known:
                problem = f"tokenizer: {name} is {getattr(self, name)!r}, not {' or '.join(known)}"
                raise SwanError(problem, DAMAGED)
        if not (isinstance(self.special, tuple) and all(isinstance(token, str) for token in self.special)):
            raise SwanError(f"tokenizer: special tokens {self.special!r} are not texts", DAMAGED)
        if not isinstance(self.json, str):
            raise SwanError(f"tokenizer: {TOKENIZER} is not text", DAMAGED)

    def __len__(self) -> int:
        return self.words

    def encode(self, text: str) -> list[int]:
        """The L numbers of a text, padding included; a text that is too long is cut.

        Raises:
            SwanError: the model has no such number.
        """
        return self._encoded([text])[0][0]

    def encode_all(self, texts: Iterable[str]) -> list[list[int]]:
        """What `encode` gives for each text; warns about those that are cut."""
        texts = list(texts)
        rows, cut = self._encoded(texts)
        self._warn_of_cut(texts, cut)
        return rows

    def _encoded(self, texts: list[str]) -> tuple[list[list[int]], list[bool]]:
        """The numbers of each text, and whether it is cut."""
        rows, cut = self._by_json(texts) if self.json else self._by_byte_pairs(texts)
        most = max((max(row) for row in rows), default=0)
        if most >= self.words:
            problem = f"tokenizer: gives the number {most}, but the model has {self.words} tokens"
            raise SwanError(problem, "give the tokenizer that the model was trained with")
        return rows, cut

    def _by_json(self, texts: list[str]) -> tuple[list[list[int]], list[bool]]:
        found = self._tokenizer.encode_batch([self._cleaned(text) for text in texts])
        rows = [[0 if number == self.zeroed else number for number in one.ids] for one in found]
        return rows, [bool(one.overflowing) for one in found]

    def _by_byte_pairs(self, texts: list[str]) -> tuple[list[list[int]], list[bool]]:
        rows, most = self._byte_pairs(texts).tolist(), self.context_length - 2  # without start and end
        cut = [
            row[-1] != 0 and len(self._byte_pairs.encode(text)) > most
            for row, text in zip(rows, texts, strict=True)
        ]
        return rows, cut

    def known(self, text: str) -> list[tuple[str, bool]]:
        """The words of a text in order, each with whether it means something to the tokenizer.

        Words contain a letter. To the byte pairs of CLIP, words in another script than Latin, of which they
        know single bytes, and words that break into single letters mean nothing. To another tokenizer, words
        that contain its unknown token mean nothing.
        """
        words = [_bare(word) for word in self._cleaned(text).split()]
        means_nothing = self._is_unknown if self.json else self._is_foreign
        return [(word, not means_nothing(word)) for word in words if has_meaning(word)]

    def unknown(self, text: str) -> list[str]:
        """The words of a text that mean nothing to the tokenizer, in order; see `known`."""
        return [word for word, known in self.known(text) if not known]

    def _is_unknown(self, word: str) -> bool:
        return self._unknown_number in self._plain_tokenizer.encode(word, add_special_tokens=False).ids

    def _is_foreign(self, word: str) -> bool:
        parts = re.findall(r"[^\W\d_]+", word)  # runs of letters
        if not all(script_of(letter) == "LATIN" for part in parts for letter in part):
            return True
        return any(len(part) > 1 and len(self._byte_pairs.encode(part)) >= len(part) for part in parts)

    def to_plain(self) -> dict[str, Any]:
        """Numbers and texts only, for a checkpoint."""
        return {"clip": dataclasses.asdict(self) | {"special": list(self.special)}}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> ClipTokenizer:
        """The inverse of `to_plain`.

        Raises:
            SwanError: a key is missing or unknown, or a value is of another kind.
        """
        try:
            values = dict(plain["clip"])
            return cls(**values | {"special": tuple(values["special"])})
        except (KeyError, TypeError, ValueError) as error:
            raise SwanError(f"tokenizer: damaged ({error!r})", DAMAGED) from error

    def _cleaned(self, text: str) -> str:
        from open_clip.tokenizer import get_clean_fn

        return get_clean_fn(self.clean)(text)

    @property
    def _byte_pairs(self) -> SimpleTokenizer:
        return _byte_pairs_of(self.special, self.context_length, self.clean)

    @cached_property
    def _warn_of_cut(self) -> CutWarning:
        return CutWarning(f"{self.context_length} tokens")

    @cached_property
    def _plain_tokenizer(self) -> Tokenizer:
        """The tokenizer of the JSON, without padding and without cutting."""
        return _tokenizer_of(self.json)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        tokenizer = _tokenizer_of(self.json)
        tokenizer.enable_truncation(self.context_length, direction=self.cut_side)
        tokenizer.enable_padding(length=self.context_length, pad_id=self.pad, direction=self.pad_side)
        return tokenizer

    @cached_property
    def _unknown_number(self) -> int | None:
        import json

        model = json.loads(self.json)["model"]
        if isinstance(model.get("unk_id"), int):
            return model["unk_id"]
        return self._plain_tokenizer.token_to_id(model.get("unk_token") or "")


@cache  # it takes a tenth of a second
def _byte_pairs_of(special: tuple[str, ...], context_length: int, clean: str) -> SimpleTokenizer:
    from open_clip import SimpleTokenizer

    return SimpleTokenizer(
        additional_special_tokens=list(special), context_length=context_length, clean=clean
    )


def _bare(word: str) -> str:
    """A word without the punctuation around it."""
    kinds = [unicodedata.category(letter)[0] in "PSC" for letter in word]
    inside = [place for place, around in enumerate(kinds) if not around]
    return word[inside[0] : inside[-1] + 1] if inside else ""


def _tokenizer_of(text: str) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`, without padding and without cutting, whatever it says."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing more exact
        reason = str(error).split("\n")[0]
        raise SwanError(f"{TOKENIZER}: not a tokenizer ({reason})", DAMAGED) from error
    if pieces := undefined_pieces(tokenizer):
        raise SwanError(f"{TOKENIZER}: does not define {pieces[0]}, which it adds to a text", DAMAGED)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def read_clip_tokenizer(text_cfg: Mapping[str, Any], folder: Path | None, name: str) -> ClipTokenizer:
    """The tokenizer of an open_clip model, as open_clip chooses it.

    Args:
        text_cfg: of the model's configuration.
        folder: with the tokenizer of a model that has its own; None if there is no folder.
        name: of the model, for errors.

    Raises:
        SwanError: the model has its own tokenizer and there is no folder with it, or it is of a kind that
            swan does not know.
    """
    options = dict(text_cfg.get("tokenizer_kwargs") or {})
    own = text_cfg.get("hf_tokenizer_name")
    known = {"clean", "strip_sep_token"} if own else {"clean", "additional_special_tokens"}
    odd = [f"tokenizer_kwargs.{key}" for key in options if key not in known]
    odd += ["tokenizer_mode"] if text_cfg.get("tokenizer_mode") else []
    if odd:
        raise SwanError(f"{name}: its tokenizer needs {odd[0]}, which swan cannot do", "take another model")
    size = {
        "words": text_cfg.get("vocab_size", WORDS),
        "context_length": text_cfg.get("context_length", CONTEXT_LENGTH),
    }
    if own and folder is None:
        raise SwanError(
            f"{name}: its tokenizer, {own}, would come from a hub, and swan downloads nothing",
            f"give a folder with open_clip_config.json, the weights and {TOKENIZER}: open_clip:FOLDER",
        )
    if own:
        clean, strip = options.get("clean", "whitespace"), bool(options.get("strip_sep_token"))
        return _read_own(folder, own, strip, size | {"clean": clean})
    special = tuple(options.get("additional_special_tokens") or ())
    try:
        tokenizer = ClipTokenizer(**size, clean=options.get("clean", "lower"), special=special)
        tokenizer.encode("")  # its start and end are its last numbers
    except SwanError as error:
        raise SwanError(f"{name}: {error.problem}", error.hint) from error
    return tokenizer


def _read_own(folder: Path, own: str, strip: bool, values: dict[str, Any]) -> ClipTokenizer:
    """The tokenizer in a folder; what `tokenizer.json` leaves open, other files of the folder say."""
    path = folder / TOKENIZER
    if not path.is_file():
        raise SwanError(
            f"{folder}: no {TOKENIZER}, and the model has its own tokenizer, {own}",
            f"copy {TOKENIZER} and {SPECIAL[0]} of {own} to the folder",
        )
    text = read_text(path)
    said: dict[str, Any] = {}
    for name in reversed(SPECIAL):  # the first one has the last word
        file = folder / name
        content = read_json(file, "copy it again") if file.is_file() else {}
        said |= content if isinstance(content, dict) else {}
    try:
        tokenizer = _own_from(text, said, strip, values)
        tokenizer.encode("")
    except SwanError as error:
        problem = error.problem.removeprefix(f"{TOKENIZER}: ").removeprefix("tokenizer: ")
        raise SwanError(f"{path}: {problem}", error.hint) from error
    return tokenizer


def _own_from(text: str, said: Mapping[str, Any], strip: bool, values: dict[str, Any]) -> ClipTokenizer:
    import json

    tokenizer = _tokenizer_of(text)

    def number(role: str) -> int | None:
        token = said.get(role)
        token = token.get("content") if isinstance(token, dict) else token
        return tokenizer.token_to_id(token) if isinstance(token, str) and is_text(token) else None

    pad, zeroed = number("pad_token"), number("sep_token") if strip else None
    if pad is None:
        pad = (json.loads(text).get("padding") or {}).get("pad_id")
    for role, found in {"pad_token": pad, **({"sep_token": zeroed} if strip else {})}.items():
        if found is None:
            raise SwanError(
                f"no {role} is named for it", f'put "{role}": "TOKEN" into {SPECIAL[0]} beside it'
            )
    usual = "left" if str(said.get("tokenizer_class")).startswith(LEFT) else "right"
    sides = {
        "pad_side": said.get("padding_side", usual),
        "cut_side": said.get("truncation_side", "right"),
    }
    return ClipTokenizer(**values, json=text, pad=pad, zeroed=zeroed, **sides)
