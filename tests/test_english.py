"""Plain English in every README, and in every string, docstring and comment of the package and its tests."""

import ast
import io
import re
import tokenize
from itertools import groupby
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READMES = [
    ROOT / "README.md",
    *(path for part in ("swancli", "tests") for path in sorted((ROOT / part).rglob("README.md"))),
]
SOURCES = [
    *sorted((ROOT / "swancli").rglob("*.py")),
    *sorted(path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)),
    *(ROOT / "swancli" / "query" / f"page.{kind}" for kind in ("html", "js")),
]
# The left column of the house's table of plain words.
HARD_ENGLISH = [
    r"\bstands?\b(?! (for|out)\b)|\bstood\b|\bstanding\b",
    r"\b(is|are|was|were) told\b|\btold (of|as|with)\b|\btells? of\b|\bwarned of\b",
    r"\bmend(s|ed|ing)?\b",
    r"\bso many\b|\bas many as come\b",
    r"\banew\b",
    r"\bno numbers?\b",
    r"\ban? (row|file|run|line|word|caption|image) an? \w+",
    r"\bof a launch\b|\b(of )?one's own\b",
    r"\b(is|are) of (UCM|RSICD|the)\b",
    r"\bgo(es)? on\b|\bgoing on\b",
    r"\bway through\b",
]


def hard_english(texts):
    """The phrases of such a kind in some texts, line breaks aside."""
    joined = [" ".join(text.split()) for text in texts]
    return {
        match.group() for text in joined for rule in HARD_ENGLISH for match in re.finditer(rule, text, re.I)
    }


def prose(text):
    """The text of a README without code, addresses and pictures."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    text = re.sub(r"^ {4,}\S.*$", "", text, flags=re.M)
    text = re.sub(r"`[^`\n]*`", "`code`", text)
    return re.sub(r"\]\([^)]*\)", "]", text)


def strings_and_comments(code):
    """The text of each string and docstring, an f-string in its parts, and of each block of comments.

    A string that is one word is not prose but a key, as of a JSON file. The name of a test is a sentence.
    """
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.name.replace("_", " ")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not node.value.isidentifier():
            yield node.value
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    comments = [token for token in tokens if token.type == tokenize.COMMENT]
    # Comments on successive lines have the same difference of line and place in the list.
    for _, block in groupby(enumerate(comments), lambda pair: pair[1].start[0] - pair[0]):
        yield " ".join(comment.string.lstrip("# ") for _, comment in block)


parametrize = pytest.mark.parametrize(
    "path", [*READMES, *SOURCES], ids=lambda path: path.relative_to(ROOT).as_posix()
)


@parametrize
def test_english_is_plain(path):
    text = path.read_text(encoding="utf-8")
    texts = strings_and_comments(text) if path.suffix == ".py" else [prose(text)]
    assert not hard_english(texts)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ('"""The file that\n    stood there."""', {"stood"}),
        ('raise SwanError(f"{path}: is " "told", "fix it")', {"is told"}),
        ("x = 1  # goes\n# on below", {"goes on"}),
        ("goes_on = stands = told = 1", set()),
        ("row['stood']", set()),
        ("def test_error_is_told(): pass", {"is told"}),
        ('"A file a command, made anew"', {"A file a command", "anew"}),
        ('"N stands for images; one run per fold"', set()),
    ],
)
def test_a_hard_phrase_is_found_in_strings_comments_and_test_names_only(code, found):
    assert hard_english(strings_and_comments(code)) == found
