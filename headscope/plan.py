"""Turns a list of interventions into hooks on the modules they concern, and takes the hooks away again."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from headscope.backends.doors import Doors
from headscope.backends.transformers import AttentionCall
from headscope.engine.edit import RowEdit, edit_pattern, edit_rows
from headscope.engine.inputs import AttentionInputs
from headscope.errors import UnsupportedModelError, UsageError
from headscope.flow import Flow
from headscope.hooks import HEAD_SITES, INPUT_SITES, KEY_SITES, ROW_SITES, Context, Intervention, Reader
from headscope.sites import AttentionSite

Hook = Intervention | Reader


@contextmanager
def followed(hf: PreTrainedModel, flow: Flow) -> Iterator[None]:
    """Inside the block, `flow` follows every forward pass of the model."""
    with ExitStack() as stack:
        stack.callback(hf.register_forward_pre_hook(flow.before_forward, with_kwargs=True).remove)
        stack.callback(hf.register_forward_hook(flow.after_forward, always_call=True).remove)
        if hf.config.is_encoder_decoder:
            encoder = hf.get_encoder()
            stack.callback(encoder.register_forward_pre_hook(flow.before_encoder, with_kwargs=True).remove)
        yield


@contextmanager
def installed(
    hf: PreTrainedModel,
    sites: Sequence[AttentionSite],
    main_stack: str,
    hooks: Sequence[Hook],
    flow: Flow,
    doors: Doors,
) -> Iterator[None]:
    """The hooks are in place inside the block, in order, and gone after it; `flow` must be following the model."""
    modules = dict(hf.named_modules())
    attention: dict[nn.Module, _Attention] = {}
    with ExitStack() as stack:
        stack.enter_context(doors.carrying(hooks, flow.before_forward))
        for site in sites:
            mine = [hook for hook in hooks if (hook.where.stack or main_stack) == site.stack and _heads(hook, site)]
            if not mine:
                continue
            edits = [hook for hook in mine if isinstance(hook, Intervention)]
            readers = [hook for hook in mine if isinstance(hook, Reader)]
            attention_hooks = _Attention(site, readers, [hook for hook in edits if hook.site in ROW_SITES], flow)
            attention_hooks.inputs = [_before_attention(hook, site) for hook in edits if hook.site in INPUT_SITES]
            by_site: dict[str, list[Intervention]] = defaultdict(list)
            for hook in edits:
                if hook.site not in ROW_SITES | INPUT_SITES:
                    by_site[hook.site].append(hook)
            if site.projection is None:
                attention_hooks.z = by_site.pop("z", [])
            if attention_hooks.needed:
                attention[modules[site.name]] = attention_hooks
            for where, interventions in by_site.items():
                module, attach = _anchor(modules, site, where)
                stack.callback(attach(doors, module, partial(_edit_stream, site, interventions, flow)))
        if attention:
            stack.enter_context(doors.attention(attention))
        yield


def _heads(hook: Hook, site: AttentionSite) -> tuple[int, ...]:
    return hook.where.heads_at(site.layer, site.n_heads)


class _Attention:
    """What is done at one attention layer: edits of q, k, v, readers, edits of rows, then z where there is no W_O."""

    def __init__(self, site: AttentionSite, readers: list[Reader], rows: list[Intervention], flow: Flow) -> None:
        self.site, self.readers, self.rows, self.flow = site, readers, rows, flow
        self.inputs: list[Intervention] = []
        self.z: list[Intervention] = []

    @property
    def needed(self) -> bool:
        return bool(self.inputs or self.readers or self.rows or self.z)

    def __call__(self, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        ctx = self._context(call.query, call.key)
        for hook in self.inputs:
            call = _input_edited(hook, call, self.site, ctx, self.flow)
        x = call.inputs()
        handed_back = [out for reader in self.readers if (out := reader.read(x, ctx)) is not None]
        out, weights = (handed_back[-1], None) if handed_back else call.fused()
        if self.rows:
            out = edit_rows(x, out, self._row_edits(ctx, out.device))
        for hook in self.z:
            out = edited(hook, out, ctx, _heads(hook, self.site), self.flow)
        return out, weights

    def edit_pattern(self, x: AttentionInputs, pattern: Tensor) -> Tensor:
        ctx = self._context(x.query, x.key)
        for reader in self.readers:
            reader.read(x, ctx)
        return edit_pattern(x, pattern, self._row_edits(ctx, pattern.device)) if self.rows else pattern

    def _context(self, query: Tensor, key: Tensor) -> Context:
        shape = (query.shape[0], query.shape[2], key.shape[2])
        return self.flow.context(self.site.stack, self.site.layer, tuple(range(query.shape[1])), shape)

    def _row_edits(self, ctx: Context, device: torch.device) -> list[RowEdit]:
        return [row_edit(hook, self.site, ctx, self.flow, device) for hook in self.rows]


def _before_attention(hook: Intervention, site: AttentionSite) -> Intervention:
    if site.hands_over == "pattern":
        raise UnsupportedModelError(
            f"{type(hook).__name__} acts on {hook.site!r} in {site.name}, where a library works out attention by itself "
            "and hands over the pattern alone; use backend='transformers'"
        )
    if hook.site in KEY_SITES and hook.where.phase is not None:
        raise UsageError(
            f"{type(hook).__name__} acts on {hook.site!r} in phase {hook.where.phase!r}, but keys serve queries of both "
            "phases; name positions instead"
        )
    return hook


_ARGUMENTS = {"q": "query", "k": "key", "v": "value"}


def _input_edited(
    hook: Intervention, call: AttentionCall, site: AttentionSite, ctx: Context, flow: Flow
) -> AttentionCall:
    heads, argument = _heads(hook, site), _ARGUMENTS[hook.site]
    if hook.site in KEY_SITES:
        heads = tuple(sorted({head * site.n_kv_heads // site.n_heads for head in heads}))
        nowhere = torch.zeros_like(ctx.key_positions, dtype=torch.bool)
        ctx = replace(ctx, positions=ctx.key_positions, decode=nowhere, image=ctx.image_keys)
    act = getattr(call, argument).transpose(1, 2)
    after = edited(hook, act, ctx, heads, flow)
    changed: dict[str, Any] = {argument: after.transpose(1, 2)}
    return call if after is act else replace(call, **changed)


def row_edit(hook: Intervention, site: AttentionSite, ctx: Context, flow: Flow, device: torch.device) -> RowEdit:
    """One intervention on the rows of one attention call, as the engine takes it."""
    heads = _heads(hook, site)

    def edit(rows: Tensor, columns: Tensor, active: Tensor, visible: Tensor) -> Tensor:
        after = _checked(hook, rows, ctx.at(columns.cpu(), heads, active=active, visible=visible))
        if hook.site == "mask" and site.hands_over == "pattern" and (after & ~rows).any():
            raise UnsupportedModelError(
                f"{type(hook).__name__} shows keys in {site.name} that a library has hidden before it handed over the "
                "scores; use backend='transformers'"
            )
        return after

    return RowEdit(heads, flow.asked(hook, ctx).active.to(device), edit, stage=hook.site)  # type: ignore[arg-type]


def edited(hook: Intervention, act: Tensor, ctx: Context, heads: Sequence[int] | None, flow: Flow) -> Tensor:
    """`act` [batch query head d] (or [batch query d]) after one intervention on the queries and heads it asked for."""
    active, columns, everything = flow.asked(hook, ctx)
    if not len(columns):
        return act
    if everything and (heads is None or len(heads) == act.shape[2]):  # no gathering, as in every step of decoding
        before = act.clone()
        after = _checked(hook, before, ctx.at(slice(None), heads or (), active=active))
        return act if after is before else after.to(act.dtype)
    place: tuple = (slice(None), columns) if heads is None else (slice(None), columns[:, None], list(heads))
    before = act[place]
    after = _checked(hook, before, ctx.at(columns, heads or (), active=active[:, columns]))
    if after is before:
        return act
    chosen = active[:, columns].to(act.device)
    chosen = chosen.reshape(*chosen.shape, *[1] * (before.ndim - 2))
    act = act.clone()
    act[place] = torch.where(chosen, after.to(act.dtype), before)
    return act


def _checked(hook: Intervention, act: Tensor, ctx: Context) -> Tensor:
    after = hook(act, ctx)
    if not isinstance(after, Tensor) or after.shape != act.shape:
        got = f"shape {tuple(after.shape)}" if isinstance(after, Tensor) else type(after).__name__
        raise UsageError(
            f"{type(hook).__name__} returned {got} for an activation of shape {tuple(act.shape)} at {ctx.stack} layer "
            f"{ctx.layer}; an intervention returns a tensor of the same shape, or the activation itself"
        )
    return after


def _edit_stream(
    site: AttentionSite, hooks: Sequence[Intervention], flow: Flow, take: "_Take", *hook_args: object
) -> object:
    act, put_back = take(*hook_args)
    flat = act.ndim == 2  # some vision towers drop the batch axis
    new = act.unsqueeze(0) if flat else act
    for hook in hooks:
        by_head = hook.site in HEAD_SITES
        heads = _heads(hook, site) if by_head else None
        split = new.reshape(*new.shape[:2], site.n_heads, site.d_head) if by_head else new
        shape = (split.shape[0], split.shape[1], split.shape[1])
        ctx = flow.context(site.stack, site.layer, tuple(heads or ()), shape)
        after = edited(hook, split, ctx, heads, flow)
        new = new if after is split else after.reshape(new.shape)
    if new is act or (flat and new.data_ptr() == act.data_ptr()):
        return None
    return put_back(new.squeeze(0) if flat else new)


_Take = Callable[..., tuple[Tensor, Callable[[Tensor], object]]]
_Attach = Callable[[Doors, nn.Module, Callable], Callable[[], None]]
"""Puts an edit in place and returns what takes it away again."""


def _anchor(modules: Mapping[str, nn.Module], site: AttentionSite, where: str) -> tuple[nn.Module, _Attach]:
    """The module that carries a site of this layer, and how to attach an edit to its input or output."""
    anchors: dict[str, tuple[str | None, _Attach]] = {
        "z": (site.projection, _on_input),
        "attn_out": (site.projection, _on_output),
        "resid_pre": (site.block, _on_input),
        "resid_post": (site.block, _on_output),
    }
    if site.block is not None:
        block = modules[site.block]
        anchors["resid_mid"] = (site.mid, partial(_on_mid, block))
        anchors["mlp_out"] = (site.mlp, partial(_on_mlp, block))
    name, attach = anchors.get(where, (None, _on_input))
    if name is None:
        reason = _why_no_mlp(site) if where in ("resid_mid", "mlp_out") else "no module was found that carries it"
        raise UnsupportedModelError(
            f"{site.stack} layer {site.layer} ({site.name}) has no site {where!r}: {reason}; use 'pattern' or 'z' there"
        )
    return modules[name], attach


def _why_no_mlp(site: AttentionSite) -> str:
    if site.stack == "cross":
        return "the MLP of a layer with cross-attention belongs to the stack of its self-attention"
    if site.parallel:
        return "attention and MLP run side by side, both from the layer's input"
    if site.mlp is not None:
        return "more than one module reads the state between attention and MLP"
    return (
        "no residual state between attention and MLP was found: what the layer returns is not the input of one of its "
        "modules plus the output of another"
    )


class _InLayer:
    """An edit at a module inside a layer: it sees the shape of the layer's input, where OPT flattens batch and tokens."""

    def __init__(self, edit: Callable, *, carried: bool) -> None:
        """`carried`: the layer adds to what is edited after the module has read it, so its output has to move too."""
        self._edit, self._carried = edit, carried
        self._shape = torch.Size()
        self._moved: Tensor | None = None

    def enter(self, take: "_Take", *hook_args: object) -> None:
        self._shape, self._moved = take(*hook_args)[0].shape, None

    def __call__(self, take: "_Take", *hook_args: object) -> object:
        act, put_back = take(*hook_args)

        def put_back_flat(new: Tensor) -> object:
            if self._carried:
                self._moved = new - act.reshape(self._shape)
            return put_back(new.reshape(act.shape))

        return self._edit(lambda: (act.reshape(self._shape), put_back_flat))

    def leave(self, take: "_Take", *hook_args: object) -> object:
        moved, self._moved = self._moved, None
        if moved is None:
            return None
        act, put_back = take(*hook_args)
        return put_back(act + moved.to(act))


def _on_mid(block: nn.Module, doors: Doors, module: nn.Module, edit: Callable) -> Callable[[], None]:
    """What the module reads is edited, and the layer's output moves by as much, before anything else sees it."""
    inside = _InLayer(edit, carried=True)
    return _all(
        _on_input(doors, block, inside.enter),
        _on_input(doors, module, inside),
        _on_output(doors, block, inside.leave, first=True),
    )


def _on_mlp(block: nn.Module, doors: Doors, module: nn.Module, edit: Callable) -> Callable[[], None]:
    inside = _InLayer(edit, carried=False)
    return _all(_on_input(doors, block, inside.enter), _on_output(doors, module, inside))


def _all(*removes: Callable[[], None]) -> Callable[[], None]:
    def remove() -> None:
        for one in removes:
            one()

    return remove


def _on_input(doors: Doors, module: nn.Module, edit: Callable) -> Callable[[], None]:
    def take(args: tuple, kwargs: dict) -> tuple[Tensor, Callable[[Tensor], object]]:
        if args:
            return args[0], lambda new: ((new, *args[1:]), kwargs)
        key = "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
        return kwargs[key], lambda new: (args, {**kwargs, key: new})

    return doors.before(module, lambda args, kwargs: edit(take, args, kwargs))


def _on_output(doors: Doors, module: nn.Module, edit: Callable, *, first: bool = False) -> Callable[[], None]:
    """`first`: before every hook that is there already."""

    def take(output: Tensor | tuple) -> tuple[Tensor, Callable[[Tensor], object]]:
        if isinstance(output, tuple):
            return output[0], lambda new: (new, *output[1:])
        return output, lambda new: new

    return doors.after(module, lambda output: edit(take, output), first=first)
