"""Path patching: what one head says to others, through their queries, keys or values alone, or straight to the logits.

Wang et al. 2022, arXiv 2211.00593, section 3.1. The clean prompt is run with the outputs (z) of all heads frozen to
what they are on it, but for one sender, whose output is that of the corrupted prompt; MLPs compute as usual, or are
frozen. What this does to the queries (or keys, or values) of the receivers is kept. A second run of the clean prompt
gets nothing but these, and the change of its answer is the effect. With `through="logits"` the first run's own answer
is the effect.

Departures. Wang et al. freeze the inputs q, k, v of heads, which fixes z just as well; Merullo et al. (arXiv
2310.08744) freeze z at one position, which `positions` does here for the sender while all else is frozen everywhere.
The effect is that of noising, 0: nothing changes, 1: the whole way to the corrupted answer; theirs is -100 times that.
Through `k` and `v`, heads that share keys (grouped-query attention) receive together. Layers without attention stay
free, as MLPs do.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.answer_metrics import Metric
from experiments.patching.effects import (
    Measurements,
    Normalise,
    Pairs,
    Positions,
    last_logits,
    named_heads,
    paired,
    places_of,
    refuse_unknown,
)
from headscope.errors import UnsupportedModelError, UsageError
from headscope.heads import Head, parse_heads
from headscope.hooks import Where
from headscope.model import HookedModel
from headscope.progress import with_progress
from headscope.recording import Keep
from headscope.samples import Sample
from headscope.scores import HeadScores
from interventions.patch import Activations, Patch, activations, aligned

Through = Literal["q", "k", "v", "logits"]
Mlps = Literal["free", "frozen"]


def path_patching(
    model: HookedModel,
    clean: Sequence[Sample],
    corrupt: Sequence[Sample],
    *,
    receivers: "str | Iterable[Head | str | tuple[int, int]]" = (),
    through: Through = "logits",
    senders: "str | Iterable[Head | str | tuple[int, int]] | None" = None,
    positions: Positions = None,
    receiver_positions: Positions = None,
    mlps: Mlps = "free",
    metric: Metric = "logit_difference",
    normalise: Normalise | None = "sample",
    batch_tokens: int = 8192,
    progress: bool = False,
) -> HeadScores:
    """Effect of every sender (all heads by default) on the answer, along the paths to the receivers and no other.

    `positions` are the sender's, `receiver_positions` those where receivers get their inputs. Senders in the layer of
    the last receiver or above it cannot reach one: 0. Heads not asked for are NaN. Costs two forward passes of all
    pairs a sender, and five more. UsageError for pairs that do not match, or for receivers without a path (or the
    reverse); UnsupportedModelError where heads are gated after z, which freezing z does not freeze.
    """
    into = named_heads(model, _receivers(receivers, through))
    refuse_unknown("mlps", mlps, Mlps)
    _refuse_gated(model)
    chosen = named_heads(model, senders)
    last = max((head.layer for head in into), default=model.n_layers)
    found = Measurements.empty(len(clean), model.n_layers, model.n_heads)
    with torch.no_grad():
        for pairs in paired(model, clean, corrupt, metric, batch_tokens):
            found.note(pairs, metric)
            places = list(pairs.places)
            setting = _Setting.of(model, pairs, positions, receiver_positions, mlps, batch_tokens)
            for sender in with_progress(chosen, "paths", shown=progress):
                logits = pairs.clean_logits
                if sender.layer < last:
                    logits = _answer(model, setting, sender, into, through)
                found.patched[places, sender.layer, sender.head] = pairs.measured(metric, logits)
    effects, dropped = found.effects(start="clean", normalise=normalise)
    to = "logits" if through == "logits" else f"{through} of {', '.join(map(str, into))}"
    asked = {"through": through, "receivers": [str(head) for head in into], "positions": positions, "mlps": mlps}
    about = {"model": model.name, "revision": model.revision, "method": "path patching", "metric": metric, **asked}
    meta = {**about, "receiver_positions": receiver_positions, "normalise": normalise, "samples_dropped": dropped}
    return HeadScores(effects, f"path effect to {to} on {metric}", meta)


@dataclass(frozen=True)
class _Setting:
    """What stays the same for all senders of a batch."""

    pairs: Pairs
    frozen: tuple[Patch, ...]
    corrupt: Activations
    places: Sequence | None
    receiver_places: Sequence | None

    @classmethod
    def of(
        cls,
        model: HookedModel,
        pairs: Pairs,
        positions: Positions,
        receiver_positions: Positions,
        mlps: Mlps,
        batch_tokens: int,
    ) -> "_Setting":
        held = ("z", "mlp_out") if mlps == "frozen" else ("z",)
        return cls(
            pairs,
            tuple(Patch(activations(model, pairs.clean, site, batch_tokens=batch_tokens)) for site in held),  # type: ignore[arg-type]
            activations(model, pairs.corrupt, "z", batch_tokens=batch_tokens),
            places_of(model, pairs.clean, positions),
            places_of(model, pairs.clean, receiver_positions),
        )


def _answer(
    model: HookedModel, setting: _Setting, sender: Head, into: Sequence[Head], through: Through
) -> Float[Tensor, "sample vocab"]:
    """Next-token logits when only the paths from the sender to the receivers carry the corrupted run."""
    clean = setting.pairs.clean
    sent = Patch(setting.corrupt, [sender], positions=setting.places)
    if through == "logits":
        with model.hooks(*setting.frozen, sent):
            return last_logits(model, clean)
    layers = tuple(sorted({head.layer for head in into}))
    keep = Keep(through, Where(layers=layers))
    with model.hooks(*setting.frozen, sent, keep):
        last_logits(model, clean)
    received = aligned(through, layers, [keep.of_sample(i) for i in range(len(clean))])
    with model.hooks(Patch(received, into, positions=setting.receiver_places)):
        return last_logits(model, clean)


def _receivers(receivers: "str | Iterable[Head | str | tuple[int, int]]", through: Through) -> tuple[Head, ...]:
    refuse_unknown("through", through, Through)
    heads = parse_heads(receivers)
    if through == "logits" and heads:
        raise UsageError(
            f"receivers {', '.join(map(str, heads))} are given with through='logits', where the answer itself "
            "receives; choose through='q', 'k' or 'v', or leave receivers out"
        )
    if through != "logits" and not heads:
        raise UsageError(f"through={through!r} names an input of receiving heads; give receivers='L5H3, ...'")
    return heads


def _refuse_gated(model: HookedModel) -> None:
    if gated := [site.layer for site in model.sites_of() if not site.z_exact]:
        raise UnsupportedModelError(
            f"{model.name} gates or normalises head outputs before W_O in layers {gated}, so freezing z does not "
            "freeze what a head adds, and paths cannot be told apart; use activation_patching"
        )
