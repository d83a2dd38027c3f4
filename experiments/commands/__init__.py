"""The commands of `headscope`, one file each."""

import typer

from experiments.commands import ablate, claims, evaluate, heads
from experiments.commands.demo import demo
from experiments.commands.doctor import doctor
from experiments.commands.generate import generate
from experiments.commands.runs import runs
from experiments.commands.sweep import sweep
from experiments.commands.vision import vision


def add_to(app: typer.Typer) -> None:
    """Registers every command, once."""
    if app.registered_commands:
        return
    for command in (demo, doctor, generate, runs):
        app.command(command.__name__)(command)
    heads.app.command("vision")(vision)
    ablate.app.command("sweep")(sweep)
    app.add_typer(ablate.app, name="ablate")
    app.add_typer(heads.app, name="heads")
    app.add_typer(evaluate.app, name="eval")
    app.add_typer(claims.app, name="claims")
