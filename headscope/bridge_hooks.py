"""Interventions as pairs of hook name and function, the way `run_with_hooks` of TransformerLens takes them.

What a bridge tells a hook is less than `HookedModel.hooks` knows: prompts are taken to begin with their first column, so
padded batches are refused, and so is every place where the library would drop an edit or split heads wrongly.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from headscope.backends.transformer_lens import is_bridge
from headscope.engine.edit import RowEdit, edit_given
from headscope.errors import UnsupportedModelError, UsageError
from headscope.flow import Flow
from headscope.hooks import INPUT_SITES, ROW_SITES, Intervention, Reader
from headscope.model import HookedModel
from headscope.plan import edited, row_edit
from headscope.prompting import Hook, Operator
from headscope.sites import AttentionSite

FwdHook = tuple[str, Callable[..., Tensor | None]]

_INSTEAD = "use HookedModel(bridge).hooks(...) around the call instead"


def fwd_hooks(bridge: Any, *interventions: Hook) -> list[FwdHook]:
    """Pairs for `bridge.run_with_hooks(..., fwd_hooks=...)`, in order; for batches without padding.

    Costs two forward passes, in which the bridge's layers are found. Raises UsageError for operators that choose anew for
    every prompt, and UnsupportedModelError where an edit would not land.
    """
    if not is_bridge(bridge):
        raise UsageError(f"fwd_hooks takes a TransformerBridge, not a {type(bridge).__name__}; {_INSTEAD}")
    model = HookedModel(bridge)
    flow = Flow(model.hf)
    pairs: list[FwdHook] = []
    for hook in interventions:
        if isinstance(hook, Operator):
            raise UsageError(
                f"{type(hook).__name__} chooses its edits anew for every prompt, which a list of hooks cannot; {_INSTEAD}"
            )
        if isinstance(hook, Reader):
            raise UsageError(f"{type(hook).__name__} reads what no hook point of a bridge shows; {_INSTEAD}")
        model.validate(hook)
        sites = model.sites_of(hook.where.stack)
        for site in sites:
            heads = hook.where.heads_at(site.layer, site.n_heads)
            if heads:
                pairs.append(_pair(bridge, hook, site, heads, flow))
    guard = [(name, _refuse_padding) for name, _ in pairs[:1] for name in _patterns(bridge)]
    return [*guard, *pairs]


class ForBridges:
    """What interventions inherit so that TransformerLens takes them."""

    def fwd_hooks(self, bridge: Any) -> list[FwdHook]:
        """Pairs for `bridge.run_with_hooks(..., fwd_hooks=...)`; see `headscope.bridge_hooks.fwd_hooks`."""
        return fwd_hooks(bridge, self)  # type: ignore[arg-type]


def _pair(bridge: Any, hook: Intervention, site: AttentionSite, heads: tuple[int, ...], flow: Flow) -> FwdHook:
    if site.stack not in ("text", "decoder"):
        raise UnsupportedModelError(
            f"{type(hook).__name__} acts in {site.stack!r}, whose hook names are not fixed; {_INSTEAD}"
        )
    attention = f"blocks.{site.layer}.attn"
    if hook.site in ROW_SITES:
        if site.hands_over != "pattern":
            raise UnsupportedModelError(
                f"{type(hook).__name__} edits attention rows, and in {attention} of this bridge TransformerLens discards "
                f"such edits, since it leaves attention to transformers; {_INSTEAD}"
            )
        name = "hook_pattern" if hook.site == "pattern" else "hook_attn_scores"
        return f"{attention}.{name}", partial(_on_rows, hook, site, flow)
    names = {
        "z": f"{attention}.hook_z",
        "attn_out": f"{attention}.o.hook_out",
        "resid_pre": f"blocks.{site.layer}.hook_resid_pre",
        "resid_post": f"blocks.{site.layer}.hook_resid_post",
    }
    if hook.site not in names or names[hook.site] not in bridge.hook_dict:
        why = (
            "hook_q and hook_k come before rotary embedding and the cache"
            if hook.site in INPUT_SITES
            else "an edit of its hook point does not reach all that reads this place"
        )
        raise UnsupportedModelError(f"{type(hook).__name__} edits {hook.site!r} in {attention}, and {why}; {_INSTEAD}")
    return names[hook.site], partial(_on_stream, hook, site, heads, flow)


def _on_rows(hook: Intervention, site: AttentionSite, flow: Flow, act: Tensor, /, **_: Any) -> Tensor:
    ctx = flow.context(site.stack, site.layer, tuple(range(site.n_heads)), (act.shape[0], *act.shape[2:]))
    edit: RowEdit = row_edit(hook, site, ctx, flow, act.device)
    lowest = torch.finfo(act.dtype).min
    visible = act > 0 if hook.site == "pattern" else act > lowest / 2
    if hook.site != "mask":
        return edit_given(act, visible, edit)
    shown = edit_given(visible, visible, edit)
    if (shown & ~visible).any():
        raise UnsupportedModelError(
            f"{type(hook).__name__} shows keys that the bridge has hidden already, and their scores are lost; {_INSTEAD}"
        )
    return act.masked_fill(~shown, lowest)


def _on_stream(
    hook: Intervention,
    site: AttentionSite,
    heads: Sequence[int],
    flow: Flow,
    act: Tensor,
    /,
    **_: Any,
) -> Tensor | None:
    by_head = hook.site == "z"
    if by_head and act.shape[2:] != (site.n_heads, site.d_head):
        raise UnsupportedModelError(
            f"hook_z of layer {site.layer} shows {tuple(act.shape[2:])} where W_O takes {site.n_heads} heads of "
            f"{site.d_head}; {_INSTEAD}"
        )
    ctx = flow.context(site.stack, site.layer, tuple(heads) if by_head else (), (*act.shape[:2], act.shape[1]))
    after = edited(hook, act, ctx, heads if by_head else None, flow)
    return None if after is act else after


def _refuse_padding(act: Tensor, **_: Any) -> None:
    # A first query that looks ahead or nowhere while later ones only look back is padding, and so is a key that nobody
    # looks at where all look everywhere.
    ahead = (act.triu(1) > 0).any(-1).any(1)  # [batch query]
    nowhere = ~(act[:, :, 0] > 0).any(-1).any(1)
    if act.shape[2] < 3:
        return
    causal = ~ahead[:, -2]
    unseen = ~(act > 0).any(2).any(1).all(-1)
    if torch.where(causal, ahead[:, 0] | nowhere, unseen).any():
        raise UsageError(
            f"the batch is padded, and hooks of TransformerLens are not told where its samples begin; {_INSTEAD}"
        )


def _patterns(bridge: Any) -> list[str]:
    names = [name for name in bridge.hook_dict if name.startswith("blocks.") and name.endswith(".attn.hook_pattern")]
    return names[:1]
