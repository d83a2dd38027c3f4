"""How hooks reach into a model: the one thing in which backends differ.

Interventions are the same everywhere, and so is what they are told of their place. A backend only says how an attention
call, a module's input or a module's output is got hold of, and how what an intervention returns is put in their place.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from headscope.backends.transformers import AttentionCall, route_attention
from headscope.engine.inputs import AttentionInputs

Before = Callable[[tuple, dict[str, Any]], tuple[tuple, dict[str, Any]] | None]
"""Given a module's arguments, what it is called with instead; None for no change."""

After = Callable[[Any], Any]
"""Given a module's output, what takes its place; None for no change."""

Remove = Callable[[], None]


@runtime_checkable
class AttentionHandler(Protocol):
    """What is done at one attention layer."""

    def __call__(self, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        """Takes the place of the layer's attention function."""

    def edit_pattern(self, x: AttentionInputs, pattern: Tensor) -> Tensor:
        """The same where a library works the pattern out itself: the pattern to go on with, itself for no change."""


@runtime_checkable
class Doors(Protocol):
    """Ways into the modules of one model."""

    @property
    def name(self) -> str:
        """Name of the backend."""

    @property
    def remote(self) -> bool:
        """Whether passes run on a server, so that what hooks keep has to travel."""

    @property
    def remark(self) -> str:
        """What to add where a part of the model is looked for in vain; empty where all parts can be reached."""

    def attention(self, handlers: Mapping[nn.Module, AttentionHandler]) -> AbstractContextManager[None]:
        """Inside the block, the attention calls of these modules go to their handlers."""

    def carrying(self, hooks: Sequence[Any], announce: Callable[..., None]) -> AbstractContextManager[None]:
        """Inside the block these hooks are in force, and `announce(module, args, kwargs)` is called before every pass.

        For libraries that run passes where neither a hook of the model nor what an intervention keeps can be seen.
        """

    def before(self, module: nn.Module, edit: Before) -> Remove:
        """From now on `edit` sees the arguments of every call of the module; calling what is returned ends it."""

    def after(self, module: nn.Module, edit: After, *, first: bool = False) -> Remove:
        """The same of outputs; `first` comes before every edit that is there already."""


class TorchDoors:
    """Hooks of torch, and the registry of attention functions of transformers."""

    name = "transformers"
    remote = False
    remark = ""

    def attention(self, handlers: Mapping[nn.Module, AttentionHandler]) -> AbstractContextManager[None]:
        """Through `route_attention`."""
        return route_attention(handlers)

    def carrying(self, hooks: Sequence[Any], announce: Callable[..., None]) -> AbstractContextManager[None]:
        """Nothing to do: passes run here."""
        return nullcontext()

    def before(self, module: nn.Module, edit: Before) -> Remove:
        """A forward pre-hook."""
        return module.register_forward_pre_hook(lambda _, args, kwargs: edit(args, kwargs), with_kwargs=True).remove

    def after(self, module: nn.Module, edit: After, *, first: bool = False) -> Remove:
        """A forward hook."""
        return module.register_forward_hook(lambda _, args, output: edit(output), prepend=first).remove
