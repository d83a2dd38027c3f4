"""`headscope generate`: what a model writes, with or without some of its heads."""

from typing import Annotated, Literal

import typer

from experiments.console import print_json, say
from experiments.options import Device, Dtype, Json, Model, load_model
from headscope.heads import parse_heads
from headscope.hooks import Phase
from interventions import Ablate


def generate(
    prompt: Annotated[str, typer.Argument(help="The text to go on from.")],
    model: Model = "zoo:needle",
    without: Annotated[str, typer.Option(help="Heads to remove, such as L2H5,L3H0.")] = "",
    mode: Annotated[Literal["zero", "uniform"], typer.Option(help="What removed means.")] = "zero",
    phase: Annotated[Phase | None, typer.Option(help="prefill or decode; both if not given.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 32,
    device: Device = None,
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Write on from a prompt, greedily; with --without, also with those heads removed."""
    hooked = load_model(model, device=device, dtype=dtype)
    conditions: dict[str, list[Ablate]] = {"none": []}
    if without:
        heads = parse_heads(without)
        conditions[f"without {', '.join(map(str, heads))}"] = [Ablate(heads, mode, phase=phase)]
    texts = {}
    for name, interventions in conditions.items():
        with hooked.hooks(*interventions):
            texts[name] = hooked.generate(prompt, max_new_tokens=max_new_tokens).text
    if json:
        return print_json({"model": model, "prompt": prompt, "answers": texts})
    for name, text in texts.items():
        say(f"{name}: {text}")
    return None
