"""The commands of `headscope`, one file each."""

import typer

from experiments.commands import ablate, claims, demo, doctor, generate, heads, runs


def add_to(app: typer.Typer) -> None:
    """Registers every command, once."""
    if app.registered_commands:
        return
    app.command("demo")(demo.demo)
    app.command("doctor")(doctor.doctor)
    app.command("ablate")(ablate.ablate)
    app.command("generate")(generate.generate)
    app.command("runs")(runs.runs)
    app.add_typer(heads.app, name="heads")
    app.add_typer(claims.app, name="claims")
