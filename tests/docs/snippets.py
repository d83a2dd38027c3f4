"""What documents hold that can be tried: blocks of Python, command lines, links."""

import re
import shlex
from pathlib import Path
from typing import Any

import typer

from experiments import commands
from experiments.cli import app

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"


def pages() -> list[Path]:
    return sorted(DOCS.rglob("*.md"))


def named(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def run_python_blocks(text: str, document: str) -> dict[str, Any]:
    """The names that are left when all blocks have run from top to bottom, in the current folder."""
    names: dict[str, Any] = {"__name__": document}
    for number, block in enumerate(python_blocks(text)):
        exec(compile(block, f"{document} block {number}", "exec"), names)
    return names


def command_lines(text: str) -> list[str]:
    """Every command line of headscope, in blocks and within sentences, without what a comment adds."""
    in_blocks = [
        line
        for block in re.findall(r"```(?:sh|text)\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
        if line.startswith("headscope ")
    ]
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return [*in_blocks, *re.findall(r"`(headscope [^`]+)`", prose)]


def parse(line: str) -> None:
    """Parses a command line and runs nothing; an exception says what is wrong with it.

    A command that is only named, without an argument or option, need not be complete.
    """
    commands.add_to(app)
    command: Any = typer.main.get_command(app)
    words = shlex.split(line, comments=True)[1:]
    if words[:1] == ["ablate"] and words[1:2] and words[1].startswith("-"):
        words.insert(1, "heads")
    while words and hasattr(command, "commands"):
        name = words.pop(0)
        if name not in command.commands:
            raise ValueError(f"{line!r}: there is no command {name!r} among {', '.join(command.commands)}")
        command = command.commands[name]
    if words:
        command.make_context(line, words)


def make_targets(text: str) -> list[str]:
    return re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)
