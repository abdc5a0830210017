"""The help of every command: short, whole at any width, with examples that run as written."""

import re
import shlex
import subprocess
import sys

import pytest
import typer
from conftest import invoke

from swancli.cli import app
from swancli.commands.help import option_panels, purpose_and_examples

GROUP = typer.main.get_command(app)
COMMANDS = sorted(GROUP.commands)
LIFE_CYCLE = ["prepare", "vocab", "train", "eval", "embed", "query"]


@pytest.fixture
def help_of(tmp_path, monkeypatch):
    """The help of a command, as it is shown in a terminal of a width."""

    def shown(*command, columns=100, option="--help"):
        monkeypatch.setenv("COLUMNS", str(columns))
        result = invoke(*command, option, root=tmp_path)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return shown


def test_help_of_the_app_shows_the_six_commands_in_order_and_the_extras(help_of):
    lines = help_of().splitlines()
    named = [line.split()[0] for line in lines if line.startswith("  ") and line.split()[0] in COMMANDS]
    assert named == [*LIFE_CYCLE, "pretrain", "serve", "demo"]
    assert "The six main commands run in this order" in help_of()


def test_help_of_the_app_is_shown_when_no_command_is_given(help_of, tmp_path):
    shown = help_of()
    result = invoke(root=tmp_path)
    assert (result.returncode, result.stdout, result.stderr.strip()) == (2, "", shown.strip())


def test_help_costs_no_heavy_library():
    code = (
        "import sys; from swancli.cli import app; app(['--help'], standalone_mode=False); "
        "print([name for name in ('torch', 'timm', 'pandas', 'h5py', 'numpy') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_short_help_option_is_the_long_one(help_of, command):
    assert help_of(command, option="-h") == help_of(command)


def test_help_of_train_fits_in_60_lines_of_100_columns(help_of):
    assert len(help_of("train").splitlines()) <= 60


@pytest.mark.parametrize("columns", [40, 80, 140])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_keeps_to_the_width_and_cuts_nothing(help_of, command, columns):
    options, _, examples = help_of(command, columns=columns).partition("Examples")
    assert max(map(len, options.splitlines())) <= columns
    assert not re.search(r"<\w+>|\[x[<>]", options)  # types and ranges of Typer
    assert "…" not in options.replace("milvus://…", "")
    paragraphs, lines = purpose_and_examples(GROUP.commands[command])
    assert 2 <= len(lines) <= 4
    assert all(f"  {line}\n" in examples for line in lines)
    assert " ".join(options.split()).count(paragraphs[0]) == 1


def parameters(command):
    return {name: found for found in GROUP.commands[command].params for name in found.opts}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_takes_and_does(command):
    context = GROUP.commands[command].make_context(command, [], resilient_parsing=True)
    for rows in option_panels(GROUP.commands[command], context).values():
        for signature, text in rows:
            assert re.fullmatch(r"\[TEXT\]\.\.\.|(-\w, )?--[\w-]+(, --[\w-]+)?( [\w|:/…,]+)?", signature)
            assert text
    for found in GROUP.commands[command].params:
        assert bool(found.metavar) != bool(getattr(found, "is_flag", False)), found.name


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_are_accepted_as_written(command):
    for line in purpose_and_examples(GROUP.commands[command])[1]:
        words = shlex.split(line)
        words = words[words.index("swan" if words[0] == "swan" else "swancli") + 1 :]
        assert words[0] == command
        GROUP.commands[command].make_context(command, words[1:])


def test_help_names_the_value_of_the_paper_where_the_default_differs():
    known = {"--epochs": "50", "--lr": "2e-4", "--backbone": "resnet50", "--captions-per-image": "1"}
    known |= {"--batch-size": "100", "--embed-dim": "512"}
    for name, value in known.items():
        assert f"(paper: {value})" in parameters("train")[name].help
    assert "(paper: 5)" in parameters("vocab")["--min-count"].help
