"""Writes a finished scenes model to a folder, with a card that says how it was made and what it can do."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration

from training.scene_model import build_processor

Metrics = Mapping[str, float]

BARS: Mapping[str, tuple[float, float]] = {
    "pope accuracy, random": (0.80, 0.95),
    "yes ratio, random": (0.40, 0.60),
    "chair_s, violating": (0.15, 0.35),
    "usual partner among made-up, violating": (0.50, 1.00),
    "colour accuracy": (0.80, 1.00),
    "gini of vhd": (0.35, 1.00),
}
"""What the recipe aims at, from and to; the card names what was missed."""


def export(
    model: LlavaForConditionalGeneration,
    recipe: Any,
    metrics: Sequence[Metrics],
    out: Path,
    *,
    minutes: float,
) -> None:
    """Weights, processor and card; `metrics` are those of this model, then of the same recipe with other seeds."""
    model.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # the library writes it for its owner alone
    build_processor().save_pretrained(out)
    seeds = range(recipe.seed, recipe.seed + len(metrics))
    header = " | ".join(f"seed {seed}" for seed in seeds)
    rows = "\n".join(f"| {name} | {' | '.join(f'{m[name]:.3f}' for m in metrics)} |" for name in metrics[0])
    (out / "README.md").write_text(
        _CARD.format(
            layers=recipe.shape.layers,
            heads=recipe.shape.heads,
            tower=recipe.shape.tower_layers,
            parameters=sum(p.numel() for p in model.parameters()) / 1e6,
            header=header,
            rule="---|" * len(metrics),
            rows=rows,
            missed=_missed(metrics, list(seeds)),
            date=date.today().isoformat(),
            minutes=minutes,
            threads=torch.get_num_threads(),
            seed=recipe.seed,
            recipe=json.dumps(asdict(recipe)),
        )
    )


def _missed(metrics: Sequence[Metrics], seeds: Sequence[int]) -> str:
    """Which numbers lie outside the range aimed at, one line each."""
    lines = [
        f"- {name} is {m[name]:.3f} with seed {seed}; aimed at {low:.2f} to {high:.2f}."
        for name, (low, high) in BARS.items()
        for seed, m in zip(seeds, metrics, strict=True)
        if not low <= m[name] <= high
    ]
    if not lines:
        return "all of them, with every seed shown."
    return "\n".join(["all but these.", "", *lines])


_CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [interpretability, attention-heads, hallucination, synthetic]
---
# zoo:scenes

A LLaVA with a vision tower of {tower} layers and a language model of {layers} layers with {heads} heads each
({parameters:.2f} M parameters), trained from nothing on scenes that the project draws itself: 64 x 64 pixels, two to four
of sixteen kinds of object, each of which usually comes with its partner (a cup with a spoon). It describes a scene, says
whether something is there, and names colours; it knows no other words. A place to study which heads look at the image
and why a model names what is not there, not a model for use.

Objects can be covered, faint, or swallowed by fog up to all of them but one, so that some cannot be seen at all. What is
not there is named for that reason and because of the habit; the learning rate fell to zero.

| measured on 1000 scenes not trained on | {header} |
|---|{rule}
{rows}

*violating*: no object's usual partner is there; questions and colours are asked of these scenes. *usual*: partners come
together. *pope*: is a kind there, as many present as absent ones; absent ones are drawn at random, or are the usual
partner of one that is there (adversarial). *chair_s*, *chair_i*: share of greedy captions and of mentions that name what
is not there; *usual partner among made-up*: how many of these mentions are the partner of an object that is there.
*gini of vhd*: how unevenly the L2 change of a head's output without the image, mean over the places that predict a
caption, is spread over heads (200 scenes).

That some heads owe little to the image is made, not found: a group lasso held down what the image changes in each
head's output where a caption is said (`blind_weight`), and the model also learnt captions without any image. Before the
lasso came in, after 1900 steps with seed 0, the gini was 0.17 (60 scenes).

Settings were chosen by looking at these numbers: fog, how much it hides, sizes and places of objects, how many scenes
follow the prior, which questions are asked, and the lasso's weight. Five earlier runs of seed 0 had other settings; three
were stopped early, two ran to their end (chair_s 0.40 and gini 0.19, then chair_s 0.31 and gini 0.34), and the last of
these was given up for its gini alone. So seed 0 is the seed that was tuned on; seeds 1 and 2 were run once, with the
settings final. That adversarial questions are harder was wanted, without a limit set beforehand; by how much differs
from seed to seed.

Which numbers lie in the ranges that were aimed at from the start: {missed}

Trained on {date} in {minutes:.0f} minutes ({threads} CPU threads) by
`python -m training.scenes --out headscope/zoo/scenes --seed {seed}`, recipe `{recipe}`.
"""
