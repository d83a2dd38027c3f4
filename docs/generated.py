"""Parts of the site that are made while it is built: the command line, the public names, the zoo, the benchmarks.

A page holds a comment such as `<!-- generated: command line -->`, which is replaced by text made of the code itself, so
that these parts cannot fall behind it.
"""

import importlib
import re
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

_PLACE = re.compile(r"<!-- generated: ([a-z ]+?)(?: of ([a-z_.]+))? -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its generated parts; KeyError for one that is not known."""
    return _PLACE.sub(lambda place: _PARTS[place[1]](place[2] or ""), markdown)


def command_line(_: str) -> str:
    """Every command with its arguments and options, as the command line itself knows them."""
    return "\n\n".join(_command_section(path, command) for path, command in commands())


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group of commands, with the words that call it."""
    import typer

    from experiments import commands as all_commands
    from experiments.cli import app

    all_commands.add_to(app)
    yield from _walk(("headscope",), typer.main.get_command(app))


def _walk(path: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, inner in sorted(getattr(command, "commands", {}).items()):
        yield from _walk((*path, name), inner)


def _command_section(path: tuple[str, ...], command: Any) -> str:
    name = " ".join(path)
    context = command.make_context(name, [], resilient_parsing=True)
    rows = [row for parameter in command.params if (row := _row(parameter, context))]
    parts = [f"## `{name}`", (command.help or "").strip(), f"```text\n{command.get_usage(context)}\n```"]
    if rows:
        parts.append("\n".join(["| | what it says | |", "|---|---|---|", *rows]))
    return "\n\n".join(part for part in parts if part)


def _row(parameter: Any, context: Any) -> str:
    """A row of the table: switches and values, what they say, and the default (or that it is required)."""
    if parameter.param_type_name == "argument":
        written, told = f"{{{parameter.name}}}", getattr(parameter, "help", "") or ""
    elif "--help" in parameter.opts or (record := parameter.get_help_record(context)) is None:
        return ""
    else:
        written, told = record
    told, _, default = told.partition("[") if told.startswith("[") else told.partition("  [")
    return f"| <code>{_cell(written)}</code> | {_cell(told)} | {_cell(default.removesuffix(']'))} |"


def _cell(text: str) -> str:
    return escape(text, quote=False).replace("|", "&#124;").replace("\n", " ").strip()


def public_names(package: str) -> str:
    """The documentation of every name that a package exports."""
    return "\n\n".join(f"::: {package}.{name}" for name in exported(package))


def exported(package: str) -> list[str]:
    """The functions and classes that a package exports, by the alphabet, classes first."""
    names = importlib.import_module(package).__all__
    return sorted(names, key=lambda name: (not name[0].isupper(), name.lower()))


def zoo(_: str) -> str:
    """What ships with the code, in the words of the models' own cards."""
    cards = sorted((ROOT / "headscope" / "zoo").glob("*/README.md"))
    return "\n\n".join(_card(card.read_text("utf-8")) for card in cards)


def _card(text: str) -> str:
    body = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    return re.sub(r"^#", "###", body.strip(), flags=re.MULTILINE)


def benchmarks(_: str) -> str:
    """The newest table of results that is kept beside the code, or the sentence that there is none."""
    return newest_results(ROOT / "benchmarks" / "results")


def newest_results(folder: Path) -> str:
    """The results of the latest date in a folder; those of a trial run (`--small`) do not count."""
    kept = [path for path in sorted(folder.glob("*.md")) if "-small" not in path.stem]
    if not kept:
        return "No results are kept with this version of the code; `make bench` measures your machine."
    return re.sub(r"\A# .*\n", "", kept[-1].read_text("utf-8")).strip()


_PARTS: dict[str, Callable[[str], str]] = {
    "command line": command_line,
    "names": public_names,
    "zoo": zoo,
    "benchmarks": benchmarks,
}
