"""The commands of `headscope`, one file each."""

import typer

from experiments.commands import claims, evaluate, heads
from experiments.commands.ablate import ablate
from experiments.commands.demo import demo
from experiments.commands.doctor import doctor
from experiments.commands.generate import generate
from experiments.commands.runs import runs
from experiments.commands.vision import vision


def add_to(app: typer.Typer) -> None:
    """Registers every command, once."""
    if app.registered_commands:
        return
    for command in (demo, doctor, ablate, generate, runs):
        app.command(command.__name__)(command)
    heads.app.command("vision")(vision)
    app.add_typer(heads.app, name="heads")
    app.add_typer(evaluate.app, name="eval")
    app.add_typer(claims.app, name="claims")
