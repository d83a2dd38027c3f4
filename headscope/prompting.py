"""Edits that depend on the prompt: an operator is asked once for every prompt which hooks to put in force for it.

What an operator learns of a prompt lives in the hooks that it answers with. They hold while this prompt is read and
continued, and go when the next one begins, so that nothing is carried from one sample to another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from headscope.errors import UsageError
from headscope.flow import Flow
from headscope.hooks import Intervention, Reader
from headscope.plan import followed, installed

if TYPE_CHECKING:
    from headscope.model import HookedModel


@dataclass(frozen=True)
class Prompt:
    """The prompt of a generation, or of a single pass, that is about to be read."""

    model: HookedModel
    inputs: Mapping[str, Any]
    """What the model's forward was called with."""
    image: Bool[Tensor, "batch column"] | None
    """Columns that are image tokens; None where the model has none, or was called without token ids."""
    before: tuple[Hook, ...]
    """What stands before this operator: in force while it chooses."""

    @torch.no_grad()
    def run(self, inputs: Mapping[str, Any], *hooks: Hook) -> Any:
        """One pass of other inputs with `before` and then `hooks` in force, and nothing else."""
        hf = self.model.hf
        with _undisturbed(hf), in_force(self.model, (*self.before, *hooks), Flow(hf)):
            return hf(**inputs)


@runtime_checkable
class Operator(Protocol):
    """A frozen value that makes its hooks anew for every prompt."""

    def prepared(self, model: HookedModel) -> Operator:
        """The operator as it will be used on this model; UsageError if it cannot be. Called when hooks open."""

    def begin(self, prompt: Prompt) -> Sequence[Hook]:
        """The hooks to put in force for this prompt and its continuation."""


Hook = Intervention | Reader | Operator

_ENCODES_FIRST = "_supports_mm_encoder_outputs"


@contextmanager
def in_force(model: HookedModel, hooks: Sequence[Hook], flow: Flow) -> Iterator[None]:
    """The hooks act inside the block, in order; operators among them at the beginning of every prompt."""
    plain = [hook for hook in hooks if not isinstance(hook, Operator)]
    with followed(model.hf, flow):
        if len(plain) < len(hooks):
            with _asked_at_every_prompt(model, tuple(hooks), flow):
                yield
        else:
            with installed(model.hf, model.sites, model.main_stack, plain, flow, model.doors):
                yield


@contextmanager
def _asked_at_every_prompt(model: HookedModel, hooks: tuple[Hook, ...], flow: Flow) -> Iterator[None]:
    with ExitStack() as bound:
        begun = False

        def begin(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            nonlocal begun
            if flow.is_paused:
                return
            if flow.past:
                _refuse_unseen(hooks, begun)
                return
            bound.close()
            begun = True
            inputs = flow.arguments(args, kwargs)
            with flow.paused():
                plain = _bound(model, hooks, inputs, flow.image_columns(inputs))
            bound.enter_context(installed(model.hf, model.sites, model.main_stack, plain, flow, model.doors))

        handle = model.hf.register_forward_pre_hook(begin, with_kwargs=True)
        try:
            with _images_encoded_inside(model.hf):
                yield
        finally:
            handle.remove()


def _bound(
    model: HookedModel, hooks: tuple[Hook, ...], inputs: Mapping[str, Any], image: Tensor | None
) -> list[Intervention | Reader]:
    plain: list[Any] = []
    for place, hook in enumerate(hooks):
        if isinstance(hook, Operator):
            plain += hook.begin(Prompt(model, inputs, image, hooks[:place]))
        else:
            plain.append(hook)
    return plain


def _refuse_unseen(hooks: Sequence[Hook], begun: bool) -> None:
    if not begun:
        names = ", ".join(sorted({type(hook).__name__ for hook in hooks if isinstance(hook, Operator)}))
        raise UsageError(
            f"{names} must see the prompt, but this pass continues a cache that was filled outside these hooks; run the "
            "prompt inside model.hooks(...) too"
        )


@contextmanager
def _images_encoded_inside(hf: Any) -> Iterator[None]:
    """`generate` hands the pixels of a prompt to the model's own pass, and does not encode them before it.

    Since transformers 5.23 it calls the vision tower first, and what reaches the model holds no pixels that an operator
    could take away or look at. The model says by this method whether that may be done; older versions do not ask.
    """
    if getattr(hf, _ENCODES_FIRST, None) is _never:  # an operator's own pass, inside of another
        yield
        return
    setattr(hf, _ENCODES_FIRST, _never)
    try:
        yield
    finally:
        delattr(hf, _ENCODES_FIRST)


def _never() -> bool:
    return False


@contextmanager
def _undisturbed(hf: nn.Module) -> Iterator[None]:
    """What a pass leaves behind on the model is put back: Qwen-VL keeps the offsets of the latest prompt's positions."""
    kept = [(module, module.rope_deltas) for module in hf.modules() if hasattr(module, "rope_deltas")]
    try:
        yield
    finally:
        for module, deltas in kept:
            module.rope_deltas = deltas
