"""`headscope generate`: what a model writes, about an image too, with and without interventions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from experiments.console import print_json, say
from experiments.options import Device, Dtype, Json, Model, With, load_model
from headscope.encoding import placeholder_of
from headscope.heads import parse_heads
from headscope.hooks import Phase
from headscope.model import HookedModel
from headscope.prompts import asked
from headscope.samples import Sample
from interventions import Ablate
from interventions.named import parse_interventions

Images = Annotated[list[Path] | None, typer.Option("--image", help="File of an image; several are shown in order.")]


def generate(
    prompt: Annotated[str, typer.Argument(help="The text to go on from, or the question about the images.")],
    model: Model = "zoo:needle",
    image: Images = None,
    chat: Annotated[
        bool, typer.Option(help="Put the prompt into the model's chat template (always with --image).")
    ] = False,
    without: Annotated[str, typer.Option(help="Heads to remove, such as L2H5,L3H0.")] = "",
    mode: Annotated[Literal["zero", "uniform"], typer.Option(help="What removed means.")] = "zero",
    phase: Annotated[Phase | None, typer.Option(help="prefill or decode; both if not given.")] = None,
    operators: With = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 32,
    device: Device = None,
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Write on from a prompt, greedily, and beside it what is written under interventions."""
    hooked = load_model(model, device=device, dtype=dtype)
    sample = _sample(hooked, prompt, image or [], chat=chat)
    conditions: dict[str, Sequence[Any]] = {"none": []}
    if without:
        heads = parse_heads(without)
        conditions[f"without {', '.join(map(str, heads))}"] = [Ablate(heads, mode, phase=phase)]
    conditions |= {text: parse_interventions(text) for text in operators or ()}
    texts = {}
    for name, interventions in conditions.items():
        with hooked.hooks(*interventions):
            texts[name] = hooked.generate(sample, max_new_tokens=max_new_tokens).text
    if json:
        return print_json({"model": model, "prompt": prompt, "answers": texts})
    for name, text in texts.items():
        say(f"{name}: {text}")
    return None


def _sample(model: HookedModel, prompt: str, images: Sequence[Path], *, chat: bool) -> Sample:
    """The prompt as it is if it holds the model's placeholders for the images, else as a question about them."""
    if images:
        model.require_images(f"--image {images[0]}")
    placeholder = placeholder_of(model.processor)
    written = placeholder is not None and placeholder in prompt
    text, from_template = (
        asked(model.processor, prompt, len(images)) if (images or chat) and not written else (prompt, False)
    )
    return Sample(text, images=tuple(images), chat=from_template)
