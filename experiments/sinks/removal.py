"""What a model loses when it cannot attend to its sinks: loss on texts, beside other tokens cut in their place.

Cut tokens are hidden from all queries behind them (each still sees itself), in one pass over the text, in each head its
own. `masked`: as if the key were not there, so that rows sum to one over the keys left and the others get what it had.
`zeroed`: its weight is set to zero after the softmax and nobody gets it, so that rows sum to less. A sink that a
head looks at to do nothing should matter little when it is zeroed, and more when it is masked, since its share then falls
on tokens that say something. Xiao et al. 2023 (arXiv 2309.17453) evict the first tokens, for all heads.

Two parts are cut, the first token and later sinks, each in the heads whose sinks they are, and in all heads if they are
sinks of some. Controls are other tokens of the same text, the first one never among them, drawn anew for every draw but
alike for all heads of a draw: as many that are no sinks of the head (of any head, where all heads are cut), and so many
that they got as much attention as the sinks did. The latter are more tokens, and where all others together got less than
the sinks they are all of them: `mass` tells.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from experiments.compare import Comparison
from head_analysis import TextSinks
from head_analysis.text_sink_tables import LATER, START
from headscope.costs import Cost
from headscope.engine.edit import BLOCK_ELEMENTS
from headscope.errors import UsageError
from headscope.evidence import false_discovery, paired_difference
from headscope.heads import Head
from headscope.hooks import Context, Site, Where
from headscope.model import HookedModel
from headscope.progress import progress_bar
from headscope.runs import Run
from headscope.samples import Sample
from headscope.sharing import do_cells

How = Literal["masked", "zeroed"]
Metric = Literal["loss", "kl"]
_BLOCK = 512
_SLOWER = 12
_COPIES = 8
"""Of a block of rows, at once: scores, masks, patterns."""
_PLAIN = "none"


@dataclass(frozen=True)
class CutKeys:
    """Hides keys of one prompt from the queries behind them, in each head those that `hidden` names by their places."""

    hidden: Bool[Tensor, "layer head key"] = field(compare=False)
    how: How = "masked"

    @property
    def site(self) -> Site:
        """`mask`, or `pattern` where weights are set to zero."""
        return "mask" if self.how == "masked" else "pattern"

    @cached_property
    def where(self) -> Where:
        """The heads that lose a key."""
        return Where(heads=tuple(Head(layer, head) for layer, head in self.hidden.any(-1).nonzero().tolist()))

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        """The rows without these keys."""
        places = ctx.key_positions.clamp_min(0)
        named = self.hidden[ctx.layer, list(ctx.heads)][:, places].transpose(0, 1) & (ctx.key_positions >= 0)[:, None]
        behind = ctx.key_positions[:, None, None, :] < ctx.positions[:, None, :, None]
        cut = (named[:, :, None] & behind).to(act.device)
        return act & ~cut if self.how == "masked" else act * ~cut


@dataclass(frozen=True)
class Removal:
    """A row for each text and condition: sample, condition, kind, family, treatment, loss, kl, mass, tokens, heads.

    `loss` is the mean next-token loss and `kl` the mean divergence from the plain model's predictions, both in nats;
    `mass` the share of attention that the cut tokens had, `tokens` how many, both means over the `heads` that lost one.
    """

    table: pd.DataFrame

    def families(self, metric: Metric = "loss") -> pd.DataFrame:
        """A row for each condition, draws of a control together: mean, paired difference from the plain model, mass."""
        rows = Comparison(self.table.assign(score=self.table[metric])).families()
        named = self.table.assign(name=self.table["family"].where(self.table["family"] != "", self.table["condition"]))
        cut = named.groupby("name")[["mass", "tokens", "heads"]].mean()
        keys = rows["family"].where(rows["family"] != "", rows["condition"])
        return pd.concat([rows, cut.loc[keys].reset_index(drop=True)], axis=1)

    def contrasts(self, metric: Metric = "loss") -> pd.DataFrame:
        """A row for each treatment and control: how much more the sinks matter, paired over texts, with p and q.

        A control counts with the mean of its draws.
        """
        rows: list[dict[str, Any]] = []
        controls = self.table[self.table["kind"] == "control"]
        for family, part in controls.groupby("family", sort=False):
            treatment = self.table[self.table["condition"] == part["treatment"].iloc[0]].set_index("sample")[metric]
            control = part.groupby("sample")[metric].mean().loc[treatment.index]
            apart = paired_difference(treatment.to_numpy(float), control.to_numpy(float))
            row = {"treatment": part["treatment"].iloc[0], "control": family, "more": apart.mean}
            rows.append(row | {"low": apart.low, "high": apart.high, "p": apart.p, "n": len(control)})
        table = pd.DataFrame(rows, columns=["treatment", "control", "more", "low", "high", "p", "n"])
        return table.assign(q=false_discovery(table["p"].to_numpy(float)))


@torch.no_grad()
def sink_removal(
    model: HookedModel,
    samples: Sequence[Sample],
    found: TextSinks,
    *,
    how: How = "masked",
    draws: int = 5,
    seed: int = 0,
    run: Run | None = None,
    progress: bool = False,
) -> Removal:
    """Cuts the sinks that were `found` on these samples, and their controls, one text at a time.

    With a `run`, each finished text is kept there and not computed again. Costs a pass and the logits of a text for each
    condition, and the rows of the heads that are cut twice. UsageError for fewer than two samples, and for others than
    those of `found`.
    """
    _check_some(samples)
    if [len(model.tokens(sample).ids) for sample in samples] != [len(text) for text in found.texts[: len(samples)]]:
        raise UsageError(
            f"{len(samples)} samples were given that are not the first of the {len(found.texts)} whose sinks were found; "
            "give the same texts in the same order"
        )
    places = found.pairs.loc[found.pairs["sample"] < len(samples), "place"]
    parts = [part for part, some in ((START, (places == 0).any()), (LATER, (places > 0).any())) if some]
    numbered = {f"removal, text {i}": i for i in range(len(samples))}

    def do(keys: Sequence[str]) -> Iterator[tuple[str, pd.DataFrame]]:
        for key in keys:
            i = numbered[key]
            yield key, _one_text(model, samples[i], found, i, parts, how, draws, seed).assign(sample=i)

    with progress_bar(len(samples), "removal", shown=progress) as update:
        tables = do_cells(run, list(numbered), do, columns=("sample", "loss", "kl"), update=lambda _, __: update(1))
    return Removal(pd.concat(tables.values(), ignore_index=True))


def removal_cost(model: HookedModel, samples: Sequence[Sample], *, draws: int = 5) -> Cost:
    """What `sink_removal` will cost at most, both parts being cut in all heads; an estimate.

    Rows of heads that are cut took 8 to 12 times as long as a fused kernel on a CPU in one thread (512 and 2048 tokens).
    Memory is that of a block of rows, of the logits of three passes, and of what is noted of every key.
    """
    _check_some(samples)
    longest = max(len(model.tokens(sample).ids) for sample in samples)
    sites = model.sites_of()
    linear = 2.0 * longest * sum(parameter.numel() for parameter in model.hf.parameters())
    attention = sum(1.5 * longest**2 * site.n_heads * (site.d_qk + site.d_head) for site in sites)
    passes = len((START, LATER)) * (2 + 3 * draws)
    block = min(BLOCK_ELEMENTS, longest**2 * max(site.n_heads for site in sites))
    noted = longest * (3 * 4 * model.hf.config.get_text_config().vocab_size + 40 * len(model.heads()))
    slower = (linear + _SLOWER * attention) / (linear + attention)
    return Cost(2 + slower * passes, noted + _COPIES * 4 * block)


def _check_some(samples: Sequence[Sample]) -> None:
    if len(samples) < 2:
        raise UsageError(f"only {len(samples)} text was given to cut sinks in; intervals over texts need at least 2")


class _Cut(NamedTuple):
    """A condition on one text."""

    condition: str
    hidden: Bool[Tensor, "layer head key"]
    kind: str = "treatment"
    family: str = ""
    treatment: str = ""


def _one_text(
    model: HookedModel,
    sample: Sample,
    found: TextSinks,
    index: int,
    parts: Sequence[str],
    how: How,
    draws: int,
    seed: int,
) -> pd.DataFrame:
    read = model.attention_statistics([sample], rows=False)
    mass = torch.zeros(*found.first.samples.shape[1:], len(found.texts[index]))
    mass[list(read.layers), : read.samples[0].column_mass.shape[1]] = read.samples[0].column_mass.float()
    mine = found.pairs[found.pairs["sample"] == index]
    sink = torch.zeros_like(mass, dtype=torch.bool)
    sink[tuple(torch.tensor(mine[name].to_numpy()) for name in ("layer", "head", "place"))] = True
    ids = torch.tensor(model.tokens(sample).ids[1:], device=model.device)
    plain = model.forward([sample]).of_sample(0)[:-1]
    rows: list[dict[str, Any]] = [
        {"condition": _PLAIN, "kind": "none", "family": "", "treatment": "", **_measured(plain, plain, ids)}
    ]
    for cut in _cuts(sink, mass, found.first.exists, parts, draws, f"{seed}/{index}"):
        edited = plain
        if cut.hidden.any():
            with model.hooks(CutKeys(cut.hidden, how)):
                edited = model.forward([sample]).of_sample(0)[:-1]
        about = {"condition": cut.condition, "kind": cut.kind, "family": cut.family, "treatment": cut.treatment}
        rows.append({**about, **_measured(plain, edited, ids), **_amount(cut.hidden, mass)})
    return pd.DataFrame(rows).fillna({"mass": 0.0, "tokens": 0.0, "heads": 0.0})


def _cuts(
    sink: Bool[Tensor, "layer head key"],
    mass: Float[Tensor, "layer head key"],
    exists: Bool[Tensor, "layer head"],
    parts: Sequence[str],
    draws: int,
    seed: str,
) -> Iterator[_Cut]:
    start = torch.zeros_like(sink)
    start[..., 0] = True
    everywhere = sink.any(1).any(0).expand_as(sink)
    for part in parts:
        chosen = sink & start if part == START else sink & ~start
        its_own = f"{part} cut, own heads"
        yield _Cut(its_own, chosen)
        for draw in range(draws):
            lots = _lots(~sink & ~start, f"{seed}/{draw}")
            as_many, as_much = f"as many others for {its_own}", f"as much attention for {its_own}"
            yield _Cut(f"{as_many}, draw {draw}", _as_many(chosen, lots), "control", as_many, its_own)
            yield _Cut(f"{as_much}, draw {draw}", _as_much(chosen, mass, lots), "control", as_much, its_own)
        all_heads = f"{part} cut, all heads"
        wide = chosen.any(1).any(0) & exists[..., None]
        yield _Cut(all_heads, wide)
        for draw in range(draws):
            family = f"as many others for {all_heads}"
            drawn = _as_many(wide, _lots(~everywhere & ~start, f"{seed}/{draw}"))
            yield _Cut(f"{family}, draw {draw}", drawn, "control", family, all_heads)


def _lots(able: Bool[Tensor, "layer head key"], seed: str) -> Float[Tensor, "layer head key"]:
    """A random number for every key, the same in all heads; infinite for keys that may not be drawn."""
    number = int.from_bytes(seed.encode(), "big") % (2**63 - 1)
    lots = torch.rand(able.shape[-1], generator=torch.Generator().manual_seed(number))
    return lots.expand_as(able).masked_fill(~able, torch.inf)


def _as_many(chosen: Bool[Tensor, "layer head key"], lots: Float[Tensor, "layer head key"]) -> Tensor:
    """In every head as many keys as are chosen there, those with the lowest lots."""
    return (lots.argsort(-1).argsort(-1) < chosen.sum(-1, keepdim=True)) & lots.isfinite()


def _as_much(chosen: Tensor, mass: Float[Tensor, "layer head key"], lots: Float[Tensor, "layer head key"]) -> Tensor:
    """In every head keys in the order of their lots until they got the attention of those chosen there."""
    order = lots.argsort(-1)
    drawn = mass.masked_fill(lots.isinf(), 0).gather(-1, order)
    before = drawn.cumsum(-1) - drawn
    enough = before < (mass * chosen).sum(-1, keepdim=True)
    return torch.zeros_like(chosen).scatter(-1, order, enough) & lots.isfinite() & chosen.any(-1, keepdim=True)


def _amount(hidden: Bool[Tensor, "layer head key"], mass: Float[Tensor, "layer head key"]) -> dict[str, float]:
    heads = hidden.any(-1)
    if not heads.any():
        return {"mass": 0.0, "tokens": 0.0, "heads": 0.0}
    share = (mass * hidden).sum(-1) / hidden.shape[-1]
    counts = hidden.sum(-1).float()
    return {"mass": float(share[heads].mean()), "tokens": float(counts[heads].mean()), "heads": float(heads.sum())}


def _measured(plain: Float[Tensor, "token vocab"], edited: Tensor, ids: Tensor) -> dict[str, float]:
    """Mean loss and mean divergence from the plain predictions, some tokens at a time."""
    loss, kl = 0.0, 0.0
    for p, q, target in zip(plain.split(_BLOCK), edited.split(_BLOCK), ids.split(_BLOCK), strict=True):
        before, after = p.float().log_softmax(-1), q.float().log_softmax(-1)
        loss -= float(after.gather(1, target[:, None]).sum())
        kl += float((before.exp() * (before - after)).sum())
    return {"loss": loss / len(ids), "kl": max(kl / len(ids), 0.0)}
