"""The command line. Every command prints what it costs before it starts, and ends with a meaningful exit code.

0 done; 1 it failed (a model that cannot be hooked, no memory, a check that does not pass); 2 the request was wrong; 130
stopped with Ctrl-C.
"""

import sys
from collections.abc import Sequence
from typing import Any

import typer
from rich.markup import escape

from experiments.console import console_errors, say
from headscope import __version__
from headscope.costs import is_out_of_memory
from headscope.errors import HeadscopeError, UsageError

# Newer versions of typer bring a click of their own, whose exceptions are not those of the package click.
_BAD_OPTION: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
_STOPPED = 130

app = typer.Typer(
    name="headscope",
    help="Attention heads of language and vision-language models: read, scored, removed, with controls and intervals.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _print_version(wanted: bool) -> bool:
    if wanted:
        say(f"headscope {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Show the version."),
) -> None:
    """Options of every command."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line and exits."""
    sys.exit(run(list(sys.argv[1:] if argv is None else argv)))


def run(argv: list[str]) -> int:
    """Runs the command line and returns its exit code; with `--debug`, errors are raised instead."""
    from transformers.utils import logging

    from experiments import commands

    logging.set_verbosity_error()
    logging.disable_progress_bar()

    commands.add_to(app)
    try:
        code = app(_spelt_out(argv), prog_name="headscope", standalone_mode=False) or 0
    except typer.Exit as stop:
        code = stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = _STOPPED
    except _BAD_OPTION as error:  # without a message where help was printed instead
        return _fail(error.format_message(), 2) if error.format_message() else 2
    except Exception as error:
        if "--debug" in argv:
            raise
        return _fail(*_explained(error))
    if code == _STOPPED:  # newer versions of typer turn Ctrl-C into this code themselves
        _fail("stopped; finished parts are kept, and the same command with --resume goes on from there", code)
    return code


def _spelt_out(argv: list[str]) -> list[str]:
    """`ablate --heads ...` is short for `ablate heads --heads ...`."""
    place = argv.index("ablate") + 1 if "ablate" in argv[:2] else 0
    short = place and argv[place : place + 1] and argv[place].startswith("-") and argv[place] != "--help"
    return [*argv[:place], "heads", *argv[place:]] if short else argv


def _explained(error: Exception) -> tuple[str, int]:
    if isinstance(error, UsageError):
        return str(error), 2
    if isinstance(error, HeadscopeError):
        return str(error), 1
    if is_out_of_memory(error):
        return (
            "memory ran out; finished parts are kept: go on with --resume and a smaller --batch-tokens, or begin anew "
            "with shorter lengths or --dtype bfloat16",
            1,
        )
    return f"unexpected {type(error).__name__}: {error}; run again with --debug for the traceback", 1


def _fail(message: str, code: int) -> int:
    console_errors.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    return code
