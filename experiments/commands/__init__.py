"""The commands of `headscope`, one file each."""

import typer

from experiments.commands import ablate, claims, evaluate, heads, runs
from experiments.commands.classes import classes
from experiments.commands.dashboard import dashboard
from experiments.commands.demo import demo
from experiments.commands.doctor import doctor
from experiments.commands.export import export
from experiments.commands.filter import filter_command
from experiments.commands.generate import generate
from experiments.commands.harness import harness
from experiments.commands.overlap import overlap
from experiments.commands.patch import patch
from experiments.commands.probe import probe
from experiments.commands.sinks import sinks
from experiments.commands.sweep import sweep
from experiments.commands.vision import vision


def add_to(app: typer.Typer) -> None:
    """Registers every command, once."""
    if app.registered_commands:
        return
    for command in (dashboard, demo, doctor, generate, patch, probe):
        app.command(command.__name__)(command)
    heads.app.command("sinks")(sinks)
    heads.app.command("export")(export)
    heads.app.command("filter")(filter_command)
    heads.app.command("classes")(classes)
    heads.app.command("overlap")(overlap)
    heads.app.command("vision")(vision)
    ablate.app.command("sweep")(sweep)
    evaluate.app.command("harness")(harness)
    app.add_typer(ablate.app, name="ablate")
    app.add_typer(heads.app, name="heads")
    app.add_typer(evaluate.app, name="eval")
    app.add_typer(claims.app, name="claims")
    app.add_typer(runs.app, name="runs")
