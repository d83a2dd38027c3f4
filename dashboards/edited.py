"""What a model writes plain and under operators: word by word, and what both expect at each step."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from dashboards.attention import MOST_TOKENS
from headscope.errors import UsageError
from headscope.model import HookedModel
from headscope.samples import Sample

_TOP = 3


@dataclass(frozen=True, eq=False)
class Written:
    """An answer, and the log-probabilities of all tokens at each of its steps (the one that ended it included)."""

    text: str
    tokens: tuple[int, ...]
    ended: bool
    """Whether it ended by itself, rather than by the limit of tokens."""
    steps: Float[Tensor, "step vocab"]


@torch.no_grad()
def write(
    model: HookedModel,
    sample: Sample,
    interventions: Sequence[Any] = (),
    *,
    new_tokens: int,
    stop: Sequence[str] = (),
    forced: Sequence[int] = (),
) -> Written:
    """What the model writes under interventions, greedily; with `forced`, these tokens are written whatever it expects.

    UsageError for prompts that are too long, and for interventions that do not fit the model.
    """
    length = len(model.tokens(sample).ids)
    if length > MOST_TOKENS:
        raise UsageError(f"the prompt has {length} tokens; this page reads up to {MOST_TOKENS}: shorten it")
    if model.context_length is not None and length + new_tokens > model.context_length:
        raise UsageError(
            f"the prompt of {length} tokens and {new_tokens} new ones do not fit the context of {model.context_length}; "
            "ask for fewer"
        )
    watch = _Watch(forced)
    with model.unhooked(), model.hooks(*interventions):
        found = model.generate(
            sample, max_new_tokens=new_tokens, stop=stop, logits_processor=LogitsProcessorList([watch])
        )
    return Written(found.text, found.tokens, found.finish == "stop", torch.stack(watch.seen))


class _Watch(LogitsProcessor):
    """Keeps what is expected at each step, and forces tokens."""

    def __init__(self, forced: Sequence[int]) -> None:
        self.forced, self.seen = tuple(forced), list[Tensor]()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = len(self.seen)
        self.seen.append(scores[0].float().log_softmax(-1).cpu())
        if step >= len(self.forced):
            return scores
        only = torch.full_like(scores, -torch.inf)
        only[0, self.forced[step]] = 0.0
        return only


def divergences(plain: Float[Tensor, "step vocab"], edited: Float[Tensor, "step vocab"]) -> Float[Tensor, " step"]:
    """KL(plain || edited) of each step in nats, of log-probabilities; tokens that plain rules out do not count."""
    terms = plain.exp() * (plain - edited)
    return torch.where(plain.isneginf(), 0.0, terms).sum(-1).clamp_min(0.0)


def step_table(model: HookedModel, plain: Written, edited: Float[Tensor, "step vocab"]) -> pd.DataFrame:
    """A row a step of the plain answer, and what the model expects there under operators, behind the very same words.

    Columns: step, token, kl (nats), plain and edited (probability of that token), top_plain and top_edited (the likeliest
    tokens).
    """
    steps = min(len(plain.steps), len(edited))
    first, second = plain.steps[:steps], edited[:steps]
    chosen = first.argmax(-1)
    chosen[: len(plain.tokens)] = torch.tensor(plain.tokens[:steps], dtype=torch.long)
    at = torch.arange(steps)
    names = model.tokenizer.batch_decode([[int(token)] for token in chosen])
    return pd.DataFrame(
        {
            "step": range(1, steps + 1),
            "token": [name.strip() or "␣" for name in names],
            "kl": divergences(first, second).tolist(),
            "plain": first[at, chosen].exp().tolist(),
            "edited": second[at, chosen].exp().tolist(),
            "top_plain": _likeliest(model, first),
            "top_edited": _likeliest(model, second),
        }
    )


def word_table(plain: str, edited: str) -> pd.DataFrame:
    """The two texts aligned word by word: plain, edited, and change (same, changed, removed or added).

    Where one of them has no word there, it is empty.
    """
    first, second = plain.split(), edited.split()
    rows: list[tuple[str, str, str]] = []
    for kind, a, b, c, d in SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        if kind == "equal":
            rows += [(word, word, "same") for word in first[a:b]]
            continue
        for i in range(max(b - a, d - c)):
            old, new = (first[a + i] if a + i < b else ""), (second[c + i] if c + i < d else "")
            rows.append((old, new, "changed" if old and new else "removed" if old else "added"))
    return pd.DataFrame(rows, columns=["plain", "edited", "change"])


def _likeliest(model: HookedModel, steps: Float[Tensor, "step vocab"]) -> list[str]:
    values, tokens = steps.exp().topk(min(_TOP, steps.shape[-1]))
    return [
        ", ".join(
            f"{name.strip() or '␣'} {value:.2f}"
            for name, value in zip(model.tokenizer.batch_decode([[int(one)] for one in ids]), row, strict=True)
        )
        for ids, row in zip(tokens, values.tolist(), strict=True)
    ]
