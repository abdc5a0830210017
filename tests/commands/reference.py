"""Writes the reference of all commands, `swancli/commands/README.md`, from the options of the app.

python tests/commands/reference.py
"""

from pathlib import Path

import typer

import swancli
from swancli.cli import app
from swancli.commands.help import command_panels, option_panels, purpose_and_examples

FILE = Path(swancli.__file__).parent / "commands" / "README.md"
HEAD = """# Commands

Every command and option, as `swan COMMAND --help` shows them. This file is written by
`python tests/commands/reference.py`; change the help texts instead.
"""


def reference() -> str:
    """The whole reference, as Markdown."""
    group = typer.main.get_command(app)
    context = group.make_context("swan", [], resilient_parsing=True)
    parts = [HEAD]
    for title, commands in command_panels(group).items():
        parts.append(f"{title}:\n")
        parts.append(table("command", [(f"[{name}](#swan-{name})", text) for name, text in commands]))
    for commands in command_panels(group).values():
        for name, _ in commands:
            command = group.commands[name]
            own = command.make_context(name, [], parent=context, resilient_parsing=True)
            parts.append(section(command, own))
    return "\n".join(parts)


def section(command, context) -> str:
    """One command: usage, purpose, examples, and a table for each panel of options."""
    paragraphs, examples = purpose_and_examples(command)
    parts = [f"## swan {command.name}\n", *(f"{text}\n" for text in paragraphs)]
    parts.append("\n".join(["```", *examples, "```", ""]))
    for title, rows in option_panels(command, context).items():
        parts.append(table(title, [(f"`{signature}`", text) for signature, text in rows]))
    return "\n".join(parts)


def table(head, rows) -> str:
    cells = [(head, ""), ("---", "---"), *rows]
    return "".join(f"| {escaped(left)} | {escaped(right)} |\n" for left, right in cells)


def escaped(text) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    FILE.write_text(reference(), encoding="utf-8")
