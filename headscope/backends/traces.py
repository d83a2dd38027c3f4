"""What is done inside a trace: the edits of every pass, moment by moment.

The code of this file is what a remote pass takes along. It therefore knows modules as nnsight shows them, and nothing of
the model that stands on this side.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from headscope.backends.doors import AttentionHandler
from headscope.backends.transformers import AttentionCall
from headscope.errors import HeadscopeError, UnsupportedModelError

Kind = Literal["in", "attention", "out"]
"""A module is called, it calls its attention function, or it returns."""

Step = tuple[Kind, Any, str, list[Any], bool]
"""What is done at one moment of a pass: its kind, the module in the trace, the name of its call of the attention function
(empty for other kinds), the edits in order, and whether the module runs only in passes with pixels."""


class Work:
    """What is to be done in the passes of one trace, in the order in which they run."""

    def __init__(self, steps: Sequence[Step], announce: Sequence[Callable[..., None]]) -> None:
        """`announce` are told the arguments of every pass but the first, which was announced before the trace."""
        self.steps, self.announce = steps, announce
        self.passes = 0
        self.failure: tuple[str, str] | None = None

    def next(self, args: tuple, kwargs: Mapping[str, Any]) -> None:
        """Makes the edits of the next pass; `args` and `kwargs` are what the model is called with."""
        if self.passes:
            for tell in self.announce:
                tell(None, args, kwargs)
        self.passes += 1
        seeing = any("pixel" in name and value is not None for name, value in kwargs.items())
        make_edits([step for step in self.steps if seeing or not step[-1]])

    def attempt(self, args: tuple, kwargs: Mapping[str, Any]) -> None:
        """`next`, where an error of headscope's must not end the run: it is kept, and no more edits are made."""
        if self.failure is None:
            try:
                self.next(args, kwargs)
            except HeadscopeError as error:
                self.failure = (type(error).__name__, str(error))


def make_edits(steps: Sequence[Step]) -> None:
    """Makes the edits of one pass; called inside a trace."""
    for kind, envoy, call, edits, _ in steps:
        if kind == "in":
            given = edited = envoy.inputs
            for edit in edits:
                edited = edit(*edited) or edited
            if edited is not given:
                envoy.inputs = edited
        elif kind == "out":
            given = edited = envoy.output
            for edit in edits:
                after = edit(edited)
                edited = edited if after is None else after
            if edited is not given:
                envoy.output = edited
        else:
            (handler,) = edits  # a module has one handler, which makes all edits of its attention
            _handle(getattr(envoy.source, call), handler)


def _handle(function: Any, handler: AttentionHandler) -> None:
    args, kwargs = function.inputs
    module, query, key, value, *rest = args
    options = dict(kwargs)
    mask = rest[0] if rest else options.pop("attention_mask", None)
    given = (query, key, value)

    def own(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any) -> Any:
        if any(new is not old for new, old in zip((query, key, value), given, strict=True)):
            changed = (module, query, key, value, *rest)
            function.inputs = (changed, kwargs)
        return function.output

    function.output = handler(AttentionCall(own, module, query, key, value, mask, options))


def attention_call(envoy: Any) -> str:
    """Name of a module's call of its attention function: the last of that kind, the first ones being its look-up."""
    names = [name for name in envoy.source.names if re.fullmatch(r"attention_interface_\d+", name)]
    if not names:
        raise UnsupportedModelError(
            f"nnsight sees no call of an attention function in {envoy.path}; use backend='transformers'"
        )
    return max(names, key=lambda name: int(name.rsplit("_", 1)[1]))


def generated(model: Any, *args: Any, **kwargs: Any) -> Any:
    """As `generate` of the model under an nnsight model; its own pass encodes images, so that all passes are alike.

    Newer models encode the images of a prompt before the pass that reads it, where no edit would reach the tower.
    """
    module = model._module
    name = "_supports_mm_encoder_outputs"
    before = vars(module).get(name)
    setattr(module, name, lambda: False)
    try:
        return module.generate(*args, **kwargs)
    finally:
        delattr(module, name)
        if before is not None:
            setattr(module, name, before)
