"""Whether a head that sees a token raises the logit of that token: its W_OV W_U, applied to real states of the token.

Wang et al. 2022, arXiv 2211.00593, section 3.1: the state of a name after the first MLP goes through W_OV of the head and
the unembedding; the copy score is the share of names that are then among the five largest logits. With the sign turned
round it finds heads that lower the logit of what they see (negative name movers).

Norms: the head's own input norm (of its layer) is applied to the state, and the final norm to the head's output alone.
Its biases of values count, that of W_O does not, and a norm between W_O and the stream (Gemma 2) is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headscope.errors import UnsupportedModelError, UsageError
from headscope.hooks import Context, Record, Site, Where
from headscope.model import HookedModel
from headscope.samples import Sample
from headscope.scores import HeadScores

_ROWS = 512
"""States unembedded at once."""


@torch.no_grad()
def copying_scores(
    model: HookedModel,
    samples: Sequence[Sample],
    *,
    marks: Sequence[str] = ("IO", "S1"),
    top: int = 5,
    sign: Literal[1, -1] = 1,
) -> HeadScores:
    """Share of the marked tokens that each head would copy: among the `top` logits of its output on them.

    The last token of each mark counts; a tie is no copy. Hooks in force are left out, as this is about weights. Costs
    two forward passes of the samples, and one of a single token for each head and mark. UnsupportedModelError where what
    a head hands over is gated, or where layers without attention come last.
    """
    _refuse(model)
    with model.unhooked():
        states, tokens = _states(model, samples, marks)
        values = _values(model, states)
        found = torch.full((len(states), model.n_layers, model.n_heads), torch.nan)
        for site in model.sites_of():
            shared = values[site.layer].repeat_interleave(site.n_heads // site.n_kv_heads, 1)
            added = sign * torch.einsum("shd,hdm->shm", shared, model.output_weights(site.layer).to(shared))
            flat = tokens.repeat_interleave(site.n_heads)
            hits = _among_largest(model, added.flatten(0, 1), flat, top)
            found[:, site.layer, : site.n_heads] = hits.reshape(len(states), site.n_heads).float()
    by_sample = found.reshape(len(samples), len(marks), *found.shape[1:]).mean(1)
    about = {"model": model.name, "revision": model.revision, "marks": list(marks), "top": top, "sign": sign}
    return HeadScores(by_sample, "copy score" if sign > 0 else "negative copy score", about)


def _states(
    model: HookedModel, samples: Sequence[Sample], marks: Sequence[str]
) -> tuple[Float[Tensor, "state d_model"], Int[Tensor, " state"]]:
    """What the marked tokens are after the first layer, and their ids: sample by sample, mark by mark."""
    first = model.layers()[0]
    states, ids = [], []
    for sample, stream in zip(samples, model.record(samples, "resid_post", where=Where(layers=(first,))), strict=True):
        tokens = model.tokens(sample)
        for mark in marks:
            if mark not in tokens.marks:
                raise UsageError(
                    f"a sample has no mark {mark!r} (it has {', '.join(tokens.marks) or 'none'}); name those of the "
                    "tokens that a head should copy"
                )
            place = tokens.marks[mark][1] - 1
            states.append(stream[0, place])
            ids.append(tokens.ids[place])
    return torch.stack(states), torch.tensor(ids)


@dataclass(frozen=True)
class _Put:
    """A state of one's own for every sample, whatever the model computes."""

    site: Site
    where: Where
    states: Tensor

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        return self.states[:, None].to(act).expand(act.shape)


def _values(model: HookedModel, states: Float[Tensor, "state d_model"]) -> dict[int, Tensor]:
    """Values [state kv_head d_head] that each layer makes of the states, through its own norm."""
    record = Record("v")
    _run(model, len(states), _Put("resid_pre", Where(), states), record)
    return {layer: seen[0][:, 0] for layer, seen in record.seen.items()}


def _among_largest(
    model: HookedModel, added: Float[Tensor, "row d_model"], tokens: Int[Tensor, " row"], top: int
) -> Tensor:
    """Whether the logits of each row, after the final norm, have its token among the largest."""
    last, hits = Where(layers=(model.layers()[-1],)), []
    for rows, wanted in zip(added.split(_ROWS), tokens.to(added.device).split(_ROWS), strict=True):
        logits = _run(model, len(rows), _Put("resid_post", last, rows))
        own = logits.gather(1, wanted[:, None].to(logits.device))
        hits.append(((logits >= own).sum(1) <= top).cpu())
    return torch.cat(hits)


def _run(model: HookedModel, rows: int, *hooks: _Put | Record) -> Float[Tensor, "row vocab"]:
    token = model.example["input_ids"][0, 0]
    with model.hooks(*hooks):
        return model.hf(input_ids=token.to(model.device).expand(rows, 1)).logits[:, -1]


def _refuse(model: HookedModel) -> None:
    config = model.hf.config.get_text_config()
    layers = getattr(config, "num_hidden_layers", model.n_layers)
    if model.hf.config.is_encoder_decoder or model.n_layers != layers or not all(s.z_exact for s in model.sites_of()):
        raise UnsupportedModelError(
            f"{model.name} ({type(model.hf).__name__}) gates head outputs, ends in layers without attention or has an "
            "encoder, so no single matrix leads from what a head sees to the logits; use a plain decoder"
        )
