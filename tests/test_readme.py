"""Every README: its commands and options exist, and its links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from swancli.cli import app

ROOT = Path(__file__).parents[1]
READMES = [
    ROOT / "README.md",
    *(path for part in ("swancli", "tests") for path in sorted((ROOT / part).rglob("README.md"))),
]
LARGEST = 14_000  # bytes of README.md: what a stranger reads in a few minutes
# Options in the text that are torchrun's, pip's or those of scripts under tests/.
FOREIGN = {"--nproc-per-node", "--max-restarts", "--data", "--ship"}

PLACEHOLDERS, HELP = ("COMMAND", "..."), ("--help", "-h")

parametrize_readmes = pytest.mark.parametrize(
    "readme", READMES, ids=lambda path: path.relative_to(ROOT).as_posix()
)


def code_blocks(text):
    """(language, lines) of each fenced or indented block; lines that end in a backslash are joined."""
    text = re.sub(r"\\\n\s*", "", text)
    for language, body in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S):
        yield language, body.splitlines()
    yield "", re.findall(r"^ {4,}(\S.*)$", without_fences(text), re.M)


def without_fences(text):
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def inline_code(text):
    return re.findall(r"`([^`\n]+)`", without_fences(text))


def simple_commands(line):
    """The words of each command of a shell line, without its comment."""
    words = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    words.whitespace_split, words.commenters = True, "#"
    command = []
    for word in words:
        if set(word) <= set("|&;<>"):
            yield command
            command = []
        else:
            command.append(word)
    yield command


def swan_arguments(line):
    """The arguments of each `swan` or `python -m swancli` in a shell line."""
    for words in simple_commands(line) if "swan" in line else ():
        if words and words[0] == "swan":
            yield words[1:]
        elif "-m" in words and "swancli" in words:
            yield words[words.index("swancli") + 1 :]


def swan_lines(readme):
    """Lines of code, and code in the text, where the value of a last option may be left out."""
    text = readme.read_text(encoding="utf-8")
    lines = [line for language, block in code_blocks(text) if language != "python" for line in block]
    return [*lines, *(f"{code} ..." for code in inline_code(text) if code.startswith("swan "))]


def problem_with(arguments):
    """What is wrong with the arguments of swan, in words; "" when nothing is."""
    group = typer.main.get_command(app)
    if not arguments or arguments[0].startswith("-") or arguments[0] in PLACEHOLDERS:
        return problem_with_options(group, arguments)
    if arguments[0] not in group.commands:
        return f"no command {arguments[0]}"
    return problem_with_options(group.commands[arguments[0]], arguments[1:])


def problem_with_options(command, arguments):
    options = {name: param for param in command.params for name in (*param.opts, *param.secondary_opts)}
    takes_text = any(param.param_type_name == "argument" for param in command.params)
    words = iter(arguments)
    for word in words:
        if word in PLACEHOLDERS:
            continue
        if not word.startswith("-") or word == "-":
            if not takes_text:
                return f"{command.name} takes no argument, and is given {word}"
            continue
        name, equals, _ = word.partition("=")
        if name in HELP:
            continue
        if name not in options:
            return f"{command.name} has no option {name}"
        if not (options[name].is_flag or equals) and next(words, None) is None:
            return f"{command.name} {name} has no value"
    return ""


def every_option():
    group = typer.main.get_command(app)
    params = [param for command in (group, *group.commands.values()) for param in command.params]
    return {name for param in params for name in (*param.opts, *param.secondary_opts)}


@parametrize_readmes
def test_swan_lines_name_commands_and_options_that_exist(readme):
    problems = {
        line: problem
        for line in swan_lines(readme)
        for arguments in swan_arguments(line)
        if (problem := problem_with(arguments))
    }
    assert not problems


@parametrize_readmes
def test_options_in_the_text_exist(readme):
    if readme.is_relative_to(ROOT / "tests"):
        return  # their scripts have options of their own
    text = readme.read_text(encoding="utf-8")
    named = {name for code in inline_code(text) for name in re.findall(r"(?<!\S)--[a-z][\w-]*", code)}
    assert named <= every_option() | FOREIGN | set(HELP)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("echo x | swan query --batch --json | jq .results", ""),
        ('swan query "a # b" --top-k=3  # --no-such-option', ""),
        ("torchrun --nproc-per-node 4 -m -- swancli train --run NAME", ""),
        ("swan quary x", "no command quary"),
        ("swan eval --no-such-option", "eval has no option --no-such-option"),
        ("swan eval ucm", "eval takes no argument, and is given ucm"),
        ("swan eval --run", "eval --run has no value"),
    ],
)
def test_a_wrong_line_is_found(line, problem):
    assert [problem_with(arguments) for arguments in swan_arguments(line)] == [problem]


def test_readme_has_many_swan_lines():
    assert sum(1 for line in swan_lines(READMES[0]) for _ in swan_arguments(line)) > 15


def test_readme_is_short():
    assert READMES[0].stat().st_size <= LARGEST


@parametrize_readmes
def test_links_and_pictures_exist(readme):
    text = readme.read_text(encoding="utf-8")
    missing = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_fences(text)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = readme.parent / name if name else readme
        if not path.exists() or (anchor and anchor not in anchors(path)):
            missing.append(target)
    assert not missing


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_fences(path.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@parametrize_readmes
def test_python_blocks_are_python(readme):
    text = readme.read_text(encoding="utf-8")
    for language, lines in code_blocks(text):
        if language == "python":
            compile("\n".join(lines), str(readme), "exec")
