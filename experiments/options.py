"""Command-line options that several commands share, and what they mean."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from headscope.errors import UsageError
from headscope.model import HookedModel

Model = Annotated[str, typer.Option("--model", "-m", help="Folder, hub id, or a model of the zoo such as zoo:needle.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; by default CUDA where there is one.")]
Dtype = Annotated[str, typer.Option(help="auto (as the model was saved), float32, bfloat16 or float16.")]
Seed = Annotated[int, typer.Option(help="Decides everything that is drawn at random.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; it must not exist yet.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out; finished parts are kept.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of a table.")]
Limit = Annotated[int | None, typer.Option(help="Use only so many samples.", min=1)]
With = Annotated[
    list[str] | None,
    typer.Option(
        "--with", help='Interventions in force together, such as "VAR(), VHR(alpha=2)"; give it again to compare.'
    ),
]
BatchTokens = Annotated[int, typer.Option(help="Prompt tokens in a batch; less needs less memory.", min=1)]
Shard = Annotated[str, typer.Option(help="i/n: do only the i-th of n parts (from 1), to split work over machines.")]
ExecutorName = Annotated[
    Literal["local", "processes", "ray"],
    typer.Option("--executor", help="Who does the cells: this process, several of this machine, or a Ray cluster."),
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Workers, each with a model of its own (processes, ray); by default one a GPU, else 2, or one a node.",
        min=1,
    ),
]
NumGpus = Annotated[
    float | None,
    typer.Option(help="GPUs of each worker, such as 1 or 0.5 (ray); by default 1 where there are any.", min=0),
]
RayAddress = Annotated[
    str | None,
    typer.Option(help="HOST:PORT of a Ray cluster, or auto (ray); by default one is started here, for itself."),
]
TrustCode = Annotated[bool, typer.Option(help="Let code that comes with the model run. Read it first.")]
AllowPickle = Annotated[bool, typer.Option(help="Load weights that are not safetensors; such files can run code.")]


def load_model(
    model: str, *, device: str | None, dtype: str, trust_remote_code: bool = False, allow_pickle: bool = False
) -> HookedModel:
    """The model a command was asked for, in eval mode."""
    return HookedModel.load(
        model, device=device, dtype=dtype, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle
    )


def parse_numbers(text: str, name: str) -> tuple[int, ...]:
    """Whole numbers separated by commas, such as `128,256`; UsageError names the option."""
    try:
        numbers = tuple(int(part) for part in text.replace(" ", "").split(",") if part)
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise UsageError(f"--{name} {text!r} is not a list of positive whole numbers; write for example 128,256")
    return numbers


def parse_shard(text: str) -> tuple[int, int]:
    """(part, parts) of a shard written `i/n`, the part counted from 0; UsageError if it is not one."""
    part, slash, parts = text.partition("/")
    if not (slash and part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise UsageError(f"--shard {text!r} is not of the form i/n with 1 <= i <= n; write for example 1/4")
    return int(part) - 1, int(parts)
