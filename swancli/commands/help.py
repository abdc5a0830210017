"""The help of the commands: options in panels, one line each where they fit, and examples.

Typer's own rich help takes 83 lines for `swan train --help` at 100 columns, and this one 56. It also adds
types and ranges of values, and cuts the names of options at 40 columns.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

EXAMPLES = "Examples"
SIGNATURE = 26  # columns of an option with its value; a longer one has its help below it
NARROW = 60  # columns of a terminal in which all help texts are below their options


def option_panels(command: Any, context: Any) -> dict[str, list[tuple[str, str]]]:
    """The options of a command by panel: how each is written, and its help text with the default."""
    found: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        panel = getattr(parameter, "rich_help_panel", None) or "Options"
        if "--help" in parameter.opts and found:
            panel = list(found)[-1]
        if not getattr(parameter, "hidden", False):
            found.setdefault(panel, []).append((_signature(parameter), _meaning(parameter)))
    return found


def _signature(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"[{parameter.metavar}]..."
    names = ", ".join([*sorted(parameter.opts, key=len), *parameter.secondary_opts])
    return names if parameter.is_flag else f"{names} {parameter.metavar}"


def _meaning(parameter: Any) -> str:
    text, default = parameter.help or "", parameter.default
    if parameter.required:
        return f"{text} [required]"
    shown = parameter.show_default and isinstance(default, str | int | float | Path)
    if not shown or isinstance(default, bool) or default == "":
        return text
    return f"{text} [default: {default:g}]" if isinstance(default, float) else f"{text} [default: {default}]"


def command_panels(group: Any) -> dict[str, list[tuple[str, str]]]:
    """The commands of the app by panel, each with its purpose; nothing for a command."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, command in getattr(group, "commands", {}).items():
        found.setdefault(command.rich_help_panel, []).append((name, purpose_and_examples(command)[0][0]))
    return found


def purpose_and_examples(command: Any) -> tuple[list[str], list[str]]:
    """The paragraphs of a command's docstring, and the lines below its `Examples:`."""
    text, _, examples = inspect.cleandoc(command.help or "").partition(f"{EXAMPLES}:\n")
    paragraphs = [" ".join(part.split()) for part in text.strip().split("\n\n")]
    return paragraphs, inspect.cleandoc(examples).splitlines()


class Panels:
    """Writes the help of a command or of the app; a mixin to put before the base class."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        console = Console(highlight=False)
        with console.capture() as written:
            console.print(Text(f"{ctx.command.get_usage(ctx)}\n", style="yellow"))
            paragraphs, examples = purpose_and_examples(self)
            for paragraph in paragraphs:
                console.print(Text(f"{paragraph}\n"))
            _print_panels(console, command_panels(self))
            _print_panels(console, option_panels(self, ctx))
            console.print(Rule(EXAMPLES, align="left", style="dim"))
            for line in examples:
                console.print(Text(f"  {line}"), soft_wrap=True)
        formatter.write(written.get())


class Command(Panels, TyperCommand):
    """A command with this help."""


def _print_panels(console: Console, shown: dict[str, list[tuple[str, str]]]) -> None:
    longest = max((len(signature) for rows in shown.values() for signature, _ in rows), default=0)
    width = min(SIGNATURE, longest)
    for title, rows in shown.items():
        console.print(Rule(title, align="left", style="dim"))
        for signature, text in rows:
            name, meaning = Text(f"  {signature}", style="bold cyan"), Text(text)
            meaning.highlight_regex(r"\[(default|required)[^]]*\]$", "dim")
            if console.width < NARROW or len(signature) > width:
                console.print(name, Padding(meaning, (0, 0, 0, 6), expand=False))
            else:
                row = Table.grid(padding=(0, 2))
                row.add_column(width=width + 2)
                row.add_row(name, meaning)
                console.print(row)
