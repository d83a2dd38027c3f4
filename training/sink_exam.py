"""How well a sinks model copies and counts, where its heads rest, and what calibration does, on text it did not see."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from experiments.compare import Condition
from experiments.controls import with_controls
from experiments.filtering.choosing import choice_scores, compare_choices
from head_analysis.sinks import sink_dimensions
from headscope import Head, HookedModel
from headscope.evidence import mean_interval
from interventions import ACT
from tasks.kinds import MostNamed, kind_text
from training.sink_documents import rows
from training.sink_reading import Reading, read

STRONG = 0.3
"""Mean attention from which on a head is counted as one that rests there."""


@dataclass(frozen=True)
class Exam:
    """Numbers of one model; `alone` are texts by themselves, `packed` several texts in a row."""

    metrics: Mapping[str, float]
    alone: Reading
    packed: Reading
    calibration: pd.DataFrame


@torch.no_grad()
def evaluate(model: HookedModel, *, n: int = 128, choices: int = 500, calibrated: int = 200, draws: int = 5) -> Exam:
    """The numbers of the card; some minutes with the given ones on one core."""
    vocabulary = model.tokenizer.get_vocab()
    texts = single_texts(vocabulary, n)
    mixed = rows(vocabulary, 128, n, "exam")
    alone, packed, without = read(model, texts), read(model, mixed.ids), read(model, texts[:, 1:])
    dims = sink_dimensions(model)
    right = model.hf(input_ids=mixed.ids, use_cache=False).logits[:, :-1].argmax(-1) == mixed.ids[:, 1:]
    middle = len(model.layers()) // 2 - 1
    resting = alone.first > STRONG
    metrics = {
        "loss, texts alone (nats a token)": alone.loss,
        "loss, the same without <s>": without.loss,
        "loss, packed texts": packed.loss,
        "copies behind triggers": right[mixed.copies[:, 1:]].float().mean().item(),
        **_accuracy(model, MostNamed(n=choices, seed=1), "choices, 3 texts of 40 words"),
        **_accuracy(model, MostNamed(n=choices, words=80, seed=1), "choices, 3 texts of 80 words"),
        f"heads with more than {STRONG} on the first token, texts alone": int(resting.sum()),
        "largest share on the first token of a head, texts alone": alone.first.max().item(),
        "largest share on any other place of the same texts": alone.other.max().item(),
        f"heads with more than {STRONG} on the first token, the same without <s>": int((without.first > STRONG).sum()),
        "largest share on the first token of a head, without <s>": without.first.max().item(),
        f"heads with more than {STRONG} on the first token, packed texts": int((packed.first > STRONG).sum()),
        f"heads with more than {STRONG} on later <s>, packed texts": int((packed.later > STRONG).sum()),
        "largest share on later <s> of a head, packed texts": packed.later.max().item(),
        "norm of <s> over the median word, behind layer 0, texts alone": alone.resid_first[0].item(),
        f"the same behind layer {middle}": alone.resid_first[middle].item(),
        f"the same of later <s>, behind layer {middle}, packed texts": packed.resid_later[middle].item(),
        f"the same of the first word without <s>, behind layer {middle}": without.resid_first[middle].item(),
        "value of <s> over the median word, median of resting heads": _median(alone.value_first[resting]),
        "value of <s> over the median word, median of the others": _median(alone.value_first[~resting]),
        "largest phi of <s>": dims.strength.max().item(),
        "chance of such a phi": dims.chance,
        "dimensions found by head_analysis.sink_dimensions": len(dims.dims),
    }
    return Exam(metrics, alone, packed, _calibrated(model, packed, calibrated, draws))


def single_texts(vocabulary: dict[str, int], count: int, *, words: int = 100) -> Int[Tensor, "row token"]:
    """Rows of a single text, `<s>` only at the start."""
    rng = random.Random("exam")
    texts = [["<s>", *kind_text(rng, words)[0]] for _ in range(count)]
    return torch.tensor([[vocabulary[word] for word in text] for text in texts])


def _accuracy(model: HookedModel, task: MostNamed, name: str) -> dict[str, float]:
    scores = choice_scores(model, task)["score"].to_numpy(float)
    low, high = mean_interval(scores)
    return {name: scores.mean(), f"{name}, low": float(low), f"{name}, high": float(high)}


def _median(values: Tensor) -> float:
    return values.median().item() if len(values) else float("nan")


def _calibrated(model: HookedModel, packed: Reading, n: int, draws: int) -> pd.DataFrame:
    """Accuracy with and without ACT on choices of another seed, beside random tokens or heads."""
    resting = tuple(Head(*place) for place in (packed.later > STRONG).nonzero().tolist())
    treatments = {
        "ACT": ACT(),
        "ACT, released": ACT(variant="released"),
        "ACT, all layers": ACT(layers=model.layers()),
        "ACT, all layers, beta 0": ACT(layers=model.layers(), beta=0),
    }
    if resting:
        treatments[f"ACT, {', '.join(map(str, resting))}"] = ACT(heads=resting)
    conditions = [Condition("nothing edited")]
    for name, act in treatments.items():
        conditions += with_controls(model, name, [act], draws=draws)
    return compare_choices(model, MostNamed(n=n, words=60, seed=2), conditions).families()
