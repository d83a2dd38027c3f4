"""Forward passes that begin in the middle of a layer: what an edit of one layer changes, without what it leaves alone.

An edit of layer l's heads changes nothing below it. A pass that goes on from there is given the clean stream into layer l
and the attention output that the edit leaves; layers below are passed over, layer l runs from the addition of its
attention on, later layers run whole, and the last one runs its MLP only at the columns whose logits are wanted. All of it
is the model's own code, called through its own forward: modules are made to answer at once for the length of a call.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import DynamicCache

from headscope.errors import UnsupportedModelError
from headscope.heads import Head
from headscope.hooks import Context, Record, Site, Where
from headscope.model import HookedModel
from headscope.sites import AttentionSite

_PROOF_TOKENS = 8
"""Enough for columns that are wanted and others, and a small part of what a short sweep costs."""


@dataclass(frozen=True)
class CleanPass:
    """What one unedited pass leaves for others to go on from; columns are those of the batch, padding included."""

    inputs: Mapping[str, Tensor]
    pre: Mapping[int, Float[Tensor, "row column d_model"]]
    """The stream into each layer."""
    attention: Mapping[int, Float[Tensor, "row column d_model"]]
    """What each layer's attention module returned."""
    z: Mapping[int, Float[Tensor, "row column head d_head"]]
    contexts: Mapping[int, Context]
    """The place of z in each layer."""
    logits: Float[Tensor, "row wanted vocab"]
    cache: DynamicCache | None
    """Keys and values of the tokens before these columns, and of these; None where none were asked for."""

    @property
    def wanted(self) -> int:
        """Number of last columns whose logits were asked for."""
        return self.logits.shape[1]


class Resumable:
    """A model whose passes can be taken up at any layer of its main stack; UnsupportedModelError for one whose cannot."""

    def __init__(self, model: HookedModel) -> None:
        """Costs a short pass a layer and one of as many rows: a head hooked out must equal a pass taken up without it."""
        if model.doors.name != "transformers":
            raise UnsupportedModelError(
                f"passes of {model.name} run in {model.doors.name}, whose modules cannot be made to answer at once; "
                "ablate with hooks instead"
            )
        if model.hf.config.is_encoder_decoder:
            raise UnsupportedModelError(
                f"{model.name} has an encoder and a decoder, whose passes cannot be taken up; ablate with hooks instead"
            )
        self.model, self.hf = model, model.hf
        self.sites = {site.layer: site for site in model.sites_of()}
        self._blocks = _blocks(model.hf, tuple(self.sites.values()))
        self._last = max(self._blocks)
        self._modules = {name for name, _ in model.hf.named_modules()}
        self._narrow = self.sites.get(self._last) is not None and self.sites[self._last].mid is not None
        self._prove()

    @property
    def only_attention(self) -> bool:
        """Whether every layer has attention, so that keys and values are all that a cache holds."""
        return len(self.sites) == len(self._blocks)

    @torch.no_grad()
    def clean(self, inputs: Mapping[str, Tensor], *, wanted: int, cache: DynamicCache | None = None) -> CleanPass:
        """One unedited pass; memory is about two streams and z of every layer. `cache` is filled if given."""
        pre, z = Record("resid_pre"), _KeepZ()
        outputs: dict[int, Tensor] = {}
        options = {} if cache is None else {"past_key_values": cache, "use_cache": True}
        with ExitStack() as stack:
            for layer, site in self.sites.items():
                hook = partial(_keep, outputs, layer)
                stack.callback(self.hf.get_submodule(site.name).register_forward_hook(hook).remove)
            with self.model.hooks(pre, z):
                logits = self._call(inputs, wanted, options)
        states = {layer: seen[0] for layer, seen in pre.seen.items()}
        return CleanPass(dict(inputs), states, outputs, z.seen, z.contexts, logits, cache)

    @torch.no_grad()
    def resumed(
        self,
        layer: int,
        pre: Float[Tensor, "row column d_model"],
        attention: Float[Tensor, "row column d_model"],
        inputs: Mapping[str, Tensor],
        *,
        wanted: int,
        cache: DynamicCache | None = None,
    ) -> Float[Tensor, "row wanted vocab"]:
        """Logits of the last `wanted` columns, had `layer` read this stream and its attention returned this.

        `cache` holds what comes before these columns; it is filled in the layers above.
        """
        options = {} if cache is None else {"past_key_values": cache, "use_cache": True}
        with ExitStack() as stack:
            for number, block in self._blocks.items():
                if number < layer:
                    stack.enter_context(_answering(block, _pass_on))
            narrow = self._narrow and wanted < pre.shape[1]
            columns = slice(-wanted, None) if narrow and layer == self._last else slice(None)
            stack.enter_context(self._taken_up(layer, pre[:, columns], attention[:, columns], pre.shape[1]))
            if narrow and layer < self._last:
                stack.enter_context(self._narrowed(wanted))
            return self._call(inputs, wanted, options)

    def _call(self, inputs: Mapping[str, Tensor], wanted: int, options: Mapping[str, Any]) -> Tensor:
        places = self.model.positions_of(inputs["attention_mask"])
        columns = inputs["input_ids"].shape[1]  # the mask also covers what is in the cache
        places = {name: value[:, -columns:] for name, value in places.items()}
        options = {"use_cache": False, "logits_to_keep": wanted, **options}
        return self.hf(**inputs, **places, **options).logits[:, -wanted:]

    @contextmanager
    def _taken_up(self, layer: int, pre: Tensor, attention: Tensor, columns: int) -> Iterator[None]:
        """The layer reads `pre`, whatever it is given, and its attention answers `attention`."""
        block, module = self._blocks[layer], self.hf.get_submodule(self.sites[layer].name)
        run = block.forward

        def from_here(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = _with_input(pre, args, kwargs)
            return _widened(run(*args, **kwargs), columns)

        with _answering(module, lambda *_, **__: (attention, None)), _answering(block, from_here):
            yield

    @contextmanager
    def _narrowed(self, wanted: int) -> Iterator[None]:
        """The last layer shows keys and values of every column, and runs all else that it can at the last ones only."""
        site, block = self.sites[self._last], self._blocks[self._last]
        module, mid = self.hf.get_submodule(site.name), self.hf.get_submodule(site.mid or "")
        run = block.forward

        def narrow(*args: Any, **kwargs: Any) -> Any:
            whole = _input(args, kwargs)
            try:
                with _answering(mid, _stop), self._projecting(site, wanted):
                    run(*args, **kwargs)
            except _ReachedError as reached:  # some models flatten rows and columns on the way
                state = reached.state.reshape(whole.shape)[:, -wanted:]
            args, kwargs = _with_input(state, args, kwargs)
            with _answering(module, lambda *_, **__: (torch.zeros_like(state), None)):
                output = run(*args, **kwargs)
            return _widened(output, whole.shape[1])

        with _answering(block, narrow):
            yield

    @contextmanager
    def _projecting(self, site: AttentionSite, wanted: int) -> Iterator[None]:
        """W_O, and W_Q where it is a module of its own, run at the last columns only; nobody reads the others."""
        with ExitStack() as stack:
            for name in {site.projection, f"{site.name}.q_proj"} & self._modules:
                module = self.hf.get_submodule(name)
                stack.enter_context(_answering(module, partial(_at_the_end, module.forward, wanted)))
            yield

    @torch.no_grad()
    def _prove(self) -> None:
        ids = self.model.example["input_ids"][:1, -_PROOF_TOKENS:]
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        found = self.clean(inputs, wanted=2)
        spread = found.logits.float().std().clamp_min(1e-9)
        tolerance = 1e-4 if self.hf.dtype in (torch.float32, torch.float64) else 5e-2
        rows = {layer: row for row, layer in enumerate(self.sites)}
        with self.model.hooks(_ZeroFirst(Where(heads=tuple(Head(layer, 0) for layer in rows)), rows)):
            hooked = self._call({name: value.repeat(len(rows), 1) for name, value in inputs.items()}, 2, {})
        for layer, row in rows.items():
            lost = found.z[layer][:, :, 0] @ self.model.output_weights(layer)[0]
            without = self.resumed(layer, found.pre[layer], found.attention[layer] - lost, inputs, wanted=2)
            error = ((without - hooked[row]).abs().max() / spread).item()
            if not error <= tolerance:
                raise UnsupportedModelError(
                    f"{self.model.name}: a pass taken up at layer {layer} gives logits that differ by {error:.1e} of "
                    "their spread from those under a hook, so passes cannot be shared; ablate with hooks instead"
                )


@dataclass(frozen=True)
class _KeepZ:
    """Keeps z and its place."""

    seen: dict[int, Tensor] = field(default_factory=dict)
    contexts: dict[int, Context] = field(default_factory=dict)
    site: ClassVar[Site] = "z"
    where: ClassVar[Where] = Where()

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        self.seen[ctx.layer], self.contexts[ctx.layer] = act, ctx
        return act


@dataclass(frozen=True)
class _ZeroFirst:
    """Zeroes the first head of every layer, each in a row of its own."""

    where: Where
    rows: Mapping[int, int]
    site: Site = "z"

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        act = act.clone()
        act[self.rows[ctx.layer]] = 0
        return act


class _ReachedError(Exception):
    """The stream between attention and MLP was reached."""

    def __init__(self, state: Tensor) -> None:
        super().__init__()
        self.state = state


def _stop(state: Tensor, *_: Any, **__: Any) -> Any:
    raise _ReachedError(state)


def _keep(outputs: dict[int, Tensor], layer: int, module: nn.Module, args: tuple, output: Any) -> None:
    outputs[layer] = output[0] if isinstance(output, tuple) else output


@contextmanager
def _answering(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """The module runs `forward` instead of its own inside the block."""
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def _input(args: tuple, kwargs: Mapping[str, Any]) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]


def _pass_on(*args: Any, **kwargs: Any) -> Tensor:
    return _input(args, kwargs)


def _widened(output: Any, columns: int) -> Any:
    """A layer's output with columns of zeros before those that were computed; what follows expects all of them."""
    if isinstance(output, tuple):
        return (_widened(output[0], columns), *output[1:])
    room = columns - output.shape[1]
    return nn.functional.pad(output, (0, 0, room, 0)) if room else output


def _at_the_end(run: Callable[[Tensor], Tensor], wanted: int, act: Tensor) -> Tensor:
    """What a linear layer makes of the last columns; zeros before them."""
    return _widened(run(act[:, -wanted:].contiguous()), act.shape[1]) if act.ndim == 3 else run(act)


def _with_input(state: Tensor, args: tuple, kwargs: Mapping[str, Any]) -> tuple[tuple, dict[str, Any]]:
    return ((state, *args[1:]), dict(kwargs)) if args else ((), {**kwargs, "hidden_states": state})


def _blocks(hf: nn.Module, sites: Sequence[AttentionSite]) -> dict[int, nn.Module]:
    """Every layer of the stack by number, those without attention included."""
    names = [site.block for site in sites]
    parents = {name.rpartition(".")[0] for name in names if name is not None}
    if None in names or len(parents) != 1:
        raise UnsupportedModelError("the model's layers do not stand in one list, so passes cannot be taken up in it")
    layers = hf.get_submodule(parents.pop())
    return {int(number): block for number, block in layers.named_children()}
