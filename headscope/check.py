"""Proof, on the user's own model, that hooks see and change what they claim.

Each row of a `SelfCheck` is one fact with its number and the bar it must meet. "A no-op edit changes nothing" and "noise
changes the logits" stand side by side: the first catches a hook that disturbs, the second one that does not reach.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from headscope.hooks import Context, Record, Site, Where
from headscope.sites import AttentionSite
from headscope.tables import html_table

if TYPE_CHECKING:
    from headscope.model import HookedModel

_NEW_TOKENS = 8


@dataclass(frozen=True)
class CheckRow:
    """One fact: what was measured, its value, and the bar; `passed` is None where the fact is only reported."""

    fact: str
    value: float
    bar: str
    passed: bool | None
    note: str = ""


@dataclass(frozen=True)
class SelfCheck:
    """The facts measured on one model. Values are relative to the spread of the outputs compared."""

    model: str
    rows: tuple[CheckRow, ...]

    @property
    def passed(self) -> bool:
        """True if no fact missed its bar."""
        return all(row.passed is not False for row in self.rows)

    def to_records(self) -> list[dict[str, Any]]:
        """One dictionary a fact, for tables and JSON."""
        return [vars(row) for row in self.rows]

    def _repr_html_(self) -> str:
        marks = {True: "ok", False: "FAILED", None: "–"}
        columns = ["fact", "value", "bar", "result", "note"]
        rows = [(row.fact, f"{row.value:.2e}", row.bar, marks[row.passed], row.note) for row in self.rows]
        result = "passed" if self.passed else "FAILED"
        return html_table(pd.DataFrame(rows, columns=columns), f"self-check of {self.model}: {result}")

    def __str__(self) -> str:
        width = max(len(row.fact) for row in self.rows)
        marks = {True: "ok", False: "FAILED", None: "-"}
        lines = [f"{r.fact:<{width}}  {r.value:9.2e}  {r.bar:<10} {marks[r.passed]:<6} {r.note}" for r in self.rows]
        return "\n".join([f"self-check of {self.model}", *lines])


def check_model(model: HookedModel) -> SelfCheck:
    """Runs every check that applies to the model; about as many short forward passes as it has layers."""
    tolerance = 1e-4 if model.hf.dtype in (torch.float32, torch.float64) else 5e-2
    with torch.no_grad():
        rows = [
            _idle(model),
            _reproduced(model, tolerance),
            _row_sums(model, tolerance),
            *_contributions(model, tolerance),
            *_no_op(model, tolerance),
            *_noise(model),
            *_generation(model, tolerance),
        ]
    return SelfCheck(model.name, tuple(rows))


def _at_most(fact: str, value: float, bar: float, note: str = "") -> CheckRow:
    return CheckRow(fact, value, f"<= {bar:.0e}" if bar else "= 0", value <= bar, note)


def _run(model: HookedModel) -> Tensor:
    """The model's first output tensor on its example."""
    output = model.hf(**model.example)
    return main_tensor(output)


def main_tensor(output: Mapping[str, Any]) -> Tensor:
    """Logits, or the last hidden state, or image and text embeddings side by side: what an edit should reach."""
    for name in ("logits", "last_hidden_state"):
        if output.get(name) is not None:
            return output[name]
    return torch.cat([output["text_embeds"].flatten(), output["image_embeds"].flatten()])


def _difference(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.float().std().clamp_min(1e-9)).item()


def _idle(model: HookedModel) -> CheckRow:
    plain = _run(model)
    nowhere = Where(positions=(10**9,))
    with model.hooks(*(Record("pattern", Where(stack=s, positions=nowhere.positions)) for s in model.stacks)):
        hooked = _run(model)
    return _at_most("hooks open, nothing asked: outputs differ by", _difference(hooked, plain), 0.0)


def _reproduced(model: HookedModel, tolerance: float) -> CheckRow:
    worst = max(model.sites, key=lambda site: site.rows_error)
    note = f"worst in {worst.stack} layer {worst.layer}"
    return _at_most("rows times values equal the layer's own output", worst.rows_error, tolerance, note)


def _row_sums(model: HookedModel, tolerance: float) -> CheckRow:
    records = {stack: Record("pattern", Where(stack=stack)) for stack in model.stacks}
    with model.hooks(*records.values()):
        _run(model)
    unseen = [site for site in model.sites if site.layer not in records[site.stack].seen]
    if unseen:
        return CheckRow("layers whose rows were never seen", float(len(unseen)), "= 0", False, _named(unseen))
    sums = torch.cat([rows.sum(-1).flatten() for r in records.values() for seen in r.seen.values() for rows in seen])
    over, under = (sums - 1).max().item(), (1 - sums).max().item()
    if under > tolerance and over <= tolerance:
        note = "rows give weight to a learned sink, which is no key"
        return CheckRow("rows sum to at most one", max(over, 0.0), f"<= {tolerance:.0e}", True, note)
    return _at_most("rows sum to one", max(over, under), tolerance)


def _contributions(model: HookedModel, tolerance: float) -> list[CheckRow]:
    worst, inexact, without = 0.0, [], []
    for site in model.sites:
        if site.projection is None:
            without.append(site)
            continue
        z, out = Record("z", _at(site)), Record("attn_out", _at(site))
        with model.hooks(z, out):
            _run(model)
        weights = model.output_weights(site.layer, site.stack)
        module = model.hf.get_submodule(site.projection)
        total = torch.einsum("bqhd,hdm->bqm", _first(z, site), weights)
        if isinstance(module.bias, Tensor):
            total = total + module.bias
        worst = max(worst, _difference(total, _first(out, site).reshape(total.shape)))
        if not site.z_exact:
            inexact.append(site)
    rows = [_at_most("heads' contributions through W_O sum to the attention output", worst, tolerance)]
    if inexact:
        note = f"{_named(inexact)}: gated or normalised before W_O; z is what W_O receives, not pattern times values"
        rows.append(CheckRow("layers whose z is inexact", float(len(inexact)), "", None, note))
    if without:
        note = f"{_named(without)}: no output projection found; contributions are not available"
        rows.append(CheckRow("layers without W_O", float(len(without)), "", None, note))
    return rows


def _first(record: Record, site: AttentionSite) -> Tensor:
    return record.seen[site.layer][0]


def _named(sites: list[AttentionSite]) -> str:
    return ", ".join(f"{site.stack} layer {site.layer}" for site in sites)


def _at(site: AttentionSite) -> Where:
    return Where(layers=(site.layer,), stack=site.stack)


@dataclass(frozen=True)
class _Edit:
    """A check's own intervention."""

    site: Site
    where: Where
    change: Callable[[Tensor], Tensor]

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        return self.change(act)


def _no_op(model: HookedModel, tolerance: float) -> list[CheckRow]:
    plain, rows = _run(model), []
    for site in ("pattern", "z"):
        with model.hooks(*(_Edit(site, Where(stack=stack), torch.clone) for stack in model.stacks)):
            rows.append(
                _at_most(f"a no-op edit of every {site} changes outputs by", _difference(_run(model), plain), tolerance)
            )
    return rows


def _noise(model: HookedModel) -> list[CheckRow]:
    """The smallest effect, over layers, of replacing one layer's pattern by random weights."""
    plain = _run(model)
    generator = torch.Generator(model.device).manual_seed(0)

    def noise(rows: Tensor) -> Tensor:
        weights = torch.rand(rows.shape, generator=generator, device=rows.device, dtype=rows.dtype) * (rows > 0)
        return weights / weights.sum(-1, keepdim=True).clamp_min(1e-9)

    effects, unused = {}, []
    for site in model.sites:
        with model.hooks(_Edit("pattern", _at(site), noise)):
            effect = _difference(_run(model), plain)
        if effect == 0 and _is_unused(model, site, plain):
            unused.append(site)
        else:
            effects[f"{site.stack} layer {site.layer}"] = effect
    weakest = min(effects, key=effects.__getitem__)
    value = effects[weakest]
    fact = "replacing one layer's pattern by noise changes outputs by"
    rows = [CheckRow(fact, value, "> 1e-03", value > 1e-3, f"weakest in {weakest}")]
    if unused:
        note = f"{_named(unused)}: the model's output does not depend on anything this layer computes"
        rows.append(CheckRow("layers that the output does not use", float(len(unused)), "", None, note))
    return rows


def _is_unused(model: HookedModel, site: AttentionSite, plain: Tensor) -> bool:
    """Whether even random residual states after this layer leave the output as it is (LLaVA's last vision layer)."""
    if site.block is None:
        return False
    with model.hooks(_Edit("resid_post", _at(site), torch.randn_like)):
        return _difference(_run(model), plain) == 0


def _generation(model: HookedModel, tolerance: float) -> list[CheckRow]:
    """Cached decoding against one full pass, and a padded batch against its samples one by one."""
    ids = model.example.get("input_ids")
    if ids is None or not model.hf.can_generate() or model.hf.config.is_encoder_decoder:
        return []
    # Hooks are at work, so that decoding takes the edited path and not the model's own.
    with model.hooks(_Edit("pattern", Where(phase="decode"), torch.clone)):
        value = _cached_against_full(model, ids)
    fact = "cached generation differs from a full pass by"
    without_hooks = _cached_against_full(model, ids)
    if without_hooks > tolerance:
        note = f"so does the model itself, without hooks, by {without_hooks:.1e}: its masks differ between the two"
        rows = [CheckRow(fact, value, "", None, note)]
    else:
        rows = [_at_most(fact, value, tolerance)]
    return rows if "pixel_values" in model.example else [*rows, _batched(model, ids, tolerance)]


def _cached_against_full(model: HookedModel, ids: Tensor) -> float:
    written = model.hf.generate(
        **model.example,
        max_new_tokens=_NEW_TOKENS,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=0,
        eos_token_id=None,
    )
    extra = {k: _extended(k, v, _NEW_TOKENS) for k, v in model.example.items() if k != "input_ids"}
    full = model.hf(input_ids=written.sequences, **extra).logits[:, ids.shape[1] - 1 : -1]
    return _difference(torch.stack(written.logits, 1), full)


def _extended(name: str, value: Tensor, columns: int) -> Tensor:
    """Per-token inputs (masks, token types) made long enough for generated tokens; all others as they are."""
    if value.ndim != 2 or not name.endswith(("mask", "type_ids")):
        return value
    fill = 1 if name == "attention_mask" else 0
    return torch.nn.functional.pad(value, (0, columns), value=fill)


def _batched(model: HookedModel, ids: Tensor, tolerance: float) -> CheckRow:
    short = ids[:, ids.shape[1] // 2 :]
    room = ids.shape[1] - short.shape[1]
    padded = torch.cat([ids, torch.nn.functional.pad(short, (room, 0))])
    mask = torch.ones_like(padded)
    mask[1, :room] = 0
    with model.hooks(_Edit("pattern", Where(), torch.clone)):
        together = model.hf(input_ids=padded, attention_mask=mask, **model.positions_of(mask)).logits
        alone = model.hf(input_ids=short).logits
    return _at_most("a padded batch differs from single samples by", _difference(together[1:, room:], alone), tolerance)
