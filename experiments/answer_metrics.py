"""How right the next token is, as a number for each sample that an edit can move: logit difference, probability, KL."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headscope.errors import UsageError
from headscope.model import HookedModel
from headscope.samples import Sample

Metric = Literal["logit_difference", "probability", "kl"]
"""`logit_difference`: logit of the right answer minus that of the wrong one. `probability`: of the right answer. `kl`:
KL(clean || this) of the next-token distributions in nats, 0 for the clean run itself."""


@dataclass(frozen=True)
class Answers:
    """First token of the right and of the wrong answer to each sample."""

    right: Int[Tensor, " sample"]
    wrong: Int[Tensor, " sample"] | None
    """None where samples name no wrong answer."""


def answers_of(model: HookedModel, clean: Sequence[Sample], corrupt: Sequence[Sample], metric: Metric) -> Answers:
    """Answer tokens of the clean samples: `target`, and `meta["foil"]` or else the target of the corrupted sample.

    UsageError where a metric lacks an answer, or where right and wrong begin with the same token. One sample for both
    sides is no pair, so it must name its foil.
    """
    if metric == "kl":
        nothing = torch.zeros(len(clean), dtype=torch.long)
        return Answers(nothing, None)
    right = torch.tensor([answer_token(model, sample, sample.target) for sample in clean])
    if metric == "probability":
        return Answers(right, None)
    foils = [_foil(i, *pair) for i, pair in enumerate(zip(clean, corrupt, strict=True))]
    wrong = torch.tensor([answer_token(model, sample, foil) for sample, foil in zip(clean, foils, strict=True)])
    for i in (right == wrong).nonzero().flatten().tolist():
        raise UsageError(
            f"sample {i}: the right answer {clean[i].target!r} and the wrong one {foils[i]!r} begin with the same token; "
            "give answers that differ in their first token, or use metric='probability' or 'kl'"
        )
    return Answers(right, wrong)


def _foil(i: int, clean: Sample, corrupt: Sample) -> str:
    named = clean.meta.get("foil")
    if not named and corrupt.prompt == clean.prompt:
        raise UsageError(
            f"sample {i} ({clean.prompt[-40:]!r}) names no wrong answer beside {clean.target!r}, so both would "
            "begin with the same token; give it meta['foil'] (`foil` in a file, --needles 2 for needles), or use "
            "metric='probability' or 'kl'"
        )
    return named or corrupt.target


def answer_token(model: HookedModel, sample: Sample, answer: str) -> int:
    """Id of the first token of an answer that continues the prompt; UsageError if there is none that could be known."""
    if not answer:
        raise UsageError(
            f"a sample names no answer to measure ({sample.prompt[-40:]!r}); give it a target, and a wrong answer as "
            "meta['foil'] or as the target of its counterfactual"
        )
    prompt = model.tokens(replace(sample, marks={})).ids
    whole = model.tokens(replace(sample, prompt=sample.prompt + answer, marks={})).ids
    if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
        raise UsageError(
            f"the answer {answer!r} does not continue the tokens of the prompt {sample.prompt[-40:]!r}; begin the answer "
            "where a token begins, as a rule with a space"
        )
    token = whole[len(prompt)]
    if token == model.tokenizer.unk_token_id:
        raise UsageError(
            f"{model.name} does not know how the answer {answer!r} begins, so nothing of it can be measured; give "
            "answers in words of the model's vocabulary"
        )
    return token


def measured(
    metric: Metric, logits: Float[Tensor, "sample vocab"], clean: Float[Tensor, "sample vocab"], answers: Answers
) -> Float[Tensor, " sample"]:
    """The metric of next-token logits, on the CPU in float32; `clean` are those of the clean run."""
    logits, clean = logits.float().cpu(), clean.float().cpu()
    row = torch.arange(len(logits))
    if metric == "probability":
        return logits.softmax(-1)[row, answers.right]
    if metric == "kl":
        there, here = clean.log_softmax(-1), logits.log_softmax(-1)
        return (there.exp() * (there - here)).sum(-1)
    assert answers.wrong is not None  # made for this metric
    return logits[row, answers.right] - logits[row, answers.wrong]
