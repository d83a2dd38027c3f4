"""nnsight: the same edits made inside traces of a `TransformersModel`.

Under any kernel, nnsight lets the arguments and the result of a model's call of its attention function be read and
written, so queries, keys, values and mask are taken there and what the handlers return is put in the result's place: rows
are worked out by the engine, and no n x n pattern is ever asked of the model. Every pass of the model is one trace, and
every answer one trace with a turn for each token. What a turn touches must be touched in the order in which the model
runs, which is noted in a pass beforehand. A trace may run on a server: see `remote`.
"""

import logging
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from headscope.backends.doors import After, AttentionHandler, Before, Remove
from headscope.backends.traces import Kind, Step, Work, attention_call, generated
from headscope.backends.transformers import AttentionCall, route_attention
from headscope.errors import UnsupportedModelError

_SENSES = re.compile(r"(^|[._])(vision|visual|image|vit|audio|speech)")


@dataclass(frozen=True)
class Event:
    """One moment of a forward pass: a module is called, it calls its attention function, or it returns."""

    kind: Kind
    module: str


class TracedModel:
    """Stands for a transformers model: attributes are those of the model, and calling it runs a trace.

    Hooks that are registered on it are called before and after every pass, at each token of `generate` too.
    """

    def __init__(self, traced: Any, order: tuple[Event, ...], place: Any = None) -> None:
        """`place` is where passes run (`remote.Place`); None for this process."""
        own = vars(self)
        own["_traced"] = traced
        own["_order"] = order
        own["_place"] = place
        own["_before"], own["_after"] = [], []
        own["_edits"] = defaultdict(list)
        own["_carried"] = []  # what is in force: hooks, and what must be told of every pass
        own["_envoys"] = {envoy._module: envoy for envoy in traced.modules()}  # a path may name a child or an output
        own["_prompted"] = hasattr(traced, "tokenizer")  # takes its inputs as a prompt, not as arguments by name

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """That of the model, for whoever asks what kind of model this is."""
        return type(self._traced._module)

    @property
    def device(self) -> torch.device:
        """Where inputs are made: with the weights, or on the CPU where they are somewhere else."""
        found = self._traced._module.device
        return torch.device("cpu") if found.type == "meta" else found

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_traced"]._module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._traced._module, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._traced._module, name)

    def register_forward_pre_hook(self, hook: Callable, **_: bool) -> "_Handle":
        """`hook(model, args, kwargs)` before every pass; what it returns is ignored."""
        return _Handle(self._before, hook)

    def register_forward_hook(self, hook: Callable, **_: bool) -> "_Handle":
        """`hook()` after every pass, also one that failed."""
        return _Handle(self._after, hook)

    def __call__(self, **kwargs: Any) -> Any:
        """One pass, in one trace."""
        model, found = self._traced, []
        with self._around(kwargs):
            work = self._work()
            if self._place is not None:
                return self._remote().passed(model, self._place, kwargs, work, self._hooks)
            with model.trace(kwargs) if self._prompted else model.trace(**kwargs):
                work.next((), kwargs)
                found.append(model.output)
        return found[0]

    def generate(self, **kwargs: Any) -> Any:
        """As of the model; the edits are made at every token."""
        if self.config.is_encoder_decoder:
            raise UnsupportedModelError(
                f"{type(self._traced._module).__name__} reads its prompt in an encoder before the passes that a trace "
                "follows; generate with backend='transformers'"
            )
        if kwargs.get("use_cache") is False and len(self._before) > 1:  # more than what follows the passes: operators
            raise UnsupportedModelError(
                "without a cache operators choose anew in every pass, which cannot be done inside a trace; leave out "
                "use_cache=False, or use backend='transformers'"
            )
        model, found = self._traced, []
        inputs = {name: value for name, value in kwargs.items() if isinstance(value, Tensor)}
        settings = {name: value for name, value in kwargs.items() if name not in inputs}
        with self._around(kwargs), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*was never reached.*")  # the answer ended before its limit
            work = self._work()
            if self._place is not None:
                return self._remote().written(model, self._place, inputs, settings, work, self._hooks)
            with model.trace(fn=partial(generated, model), **settings) as tracer:
                with tracer.invoke(inputs):
                    for _ in tracer.iter[: settings.get("max_new_tokens")]:
                        work.next(*model.inputs)
                with tracer.invoke():
                    found.append(tracer.result)
        return found[0]

    @contextmanager
    def _around(self, kwargs: dict[str, Any]) -> Iterator[None]:
        """The hooks of the whole model; operators among them run passes of their own, which no trace may surround."""
        try:
            for hook in list(self._before):
                hook(self, (), kwargs)
            yield
        finally:
            for hook in list(self._after):
                hook()

    @property
    def _hooks(self) -> tuple[Any, ...]:
        return tuple(hook for hooks, _ in self._carried for hook in hooks)

    def _work(self) -> Work:
        """The edits that are in force, in the order in which the model reaches them."""
        modules = dict(self._traced._module.named_modules())
        steps: list[Step] = []
        for event in self._order:
            if self._edits.get(event):
                envoy = self._envoys[modules[event.module]]
                call = attention_call(envoy) if event.kind == "attention" else ""
                senses = bool(_SENSES.search(event.module))
                steps.append((event.kind, envoy, call, list(self._edits[event]), senses))
        return Work(steps, [announce for _, announce in self._carried])

    @staticmethod
    def _remote() -> Any:
        from headscope.backends import remote  # brings nnsight along

        return remote


class _Handle:
    """What a registered hook is taken away with."""

    def __init__(self, hooks: list[Any], hook: Any, *, first: bool = False) -> None:
        self._hooks, self._hook = hooks, hook
        hooks.insert(0 if first else len(hooks), hook)

    def remove(self) -> None:
        self._hooks.remove(self._hook)


class TraceDoors:
    """Ways into the modules of a traced model."""

    name = "nnsight"

    def __init__(self, model: TracedModel) -> None:
        self._model = model
        self._names = {module: name for name, module in model.named_modules()}
        self._once = {event for event, times in Counter(model._order).items() if times == 1}

    @property
    def remote(self) -> bool:
        """Whether the model has a place other than this process."""
        return self._model._place is not None

    @property
    def remark(self) -> str:
        """Names a module whose attention is called several times in a pass."""
        several = [
            event.module for event in self._model._order if event.kind == "attention" and event not in self._once
        ]
        if not several:
            return ""
        return (
            f"; {several[0]} and its kind call attention several times in a pass, which a trace cannot tell apart: use "
            "backend='transformers' for them"
        )

    @contextmanager
    def attention(self, handlers: Mapping[nn.Module, AttentionHandler]) -> Iterator[None]:
        """At the calls of attention functions that were seen; once in a pass, or they cannot be told apart."""
        events = {Event("attention", self._names[module]): handler for module, handler in handlers.items()}
        removes = [self._put(event, handler) for event, handler in events.items() if event in self._once]
        try:
            yield
        finally:
            for remove in removes:
                remove()

    @contextmanager
    def carrying(self, hooks: Sequence[Any], announce: Callable[..., None]) -> Iterator[None]:
        """Later passes of an answer are announced inside the trace, and hooks may have to travel with it."""
        carried = (tuple(hooks), announce)
        self._model._carried.append(carried)
        try:
            yield
        finally:
            self._model._carried.remove(carried)

    def before(self, module: nn.Module, edit: Before) -> Remove:
        """The module's inputs."""
        return self._put(self._event("in", module), edit)

    def after(self, module: nn.Module, edit: After, *, first: bool = False) -> Remove:
        """The module's output."""
        return self._put(self._event("out", module), edit, first=first)

    def _event(self, kind: Literal["in", "out"], module: nn.Module) -> Event:
        event = Event(kind, self._names[module])
        if event not in self._once:
            raise UnsupportedModelError(
                f"{event.module} is called several times in a pass, which a trace cannot tell apart; use "
                "backend='transformers'"
            )
        return event

    def _put(self, event: Event, edit: Any, *, first: bool = False) -> Remove:
        return _Handle(self._model._edits[event], edit, first=first).remove


def is_traced(model: object) -> bool:
    """Whether a model is one of nnsight; nnsight is not imported to find out."""
    return any(kind.__module__.startswith("nnsight.") for kind in type(model).__mro__)


def traced(hf: Any, processor: Any) -> Any:
    """A loaded model as one of nnsight; it stays as it is."""
    from nnsight import NNsight, TransformersModel

    tokenizer = getattr(processor, "tokenizer", processor)
    # The logger says that a model with images is none for text, the warning that BERT has modules called `output`.
    with _quiet("transformers.pipelines.base"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*has a submodule named")
        if not hf.can_generate():
            return NNsight(hf)
        return TransformersModel(hf, tokenizer=tokenizer, task="text-generation", dispatch=True)


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def around(model: Any, example: Mapping[str, Tensor]) -> TracedModel:
    """A user's own model of nnsight as a traced model; UnsupportedModelError if its weights are not loaded."""
    module = model._module
    if any(parameter.is_meta for parameter in module.parameters()):
        raise UnsupportedModelError(
            "this nnsight model is not dispatched, so it has no weights to run with; call model.dispatch(), or load it "
            "with dispatch=True"
        )
    return TracedModel(model, order_of(module, example))


def order_of(hf: nn.Module, example: Mapping[str, Tensor]) -> tuple[Event, ...]:
    """The events of one pass, in order."""
    events: list[Event] = []
    names = {module: name for name, module in hf.named_modules() if name}
    handles = []
    for module, name in names.items():
        handles.append(module.register_forward_pre_hook(partial(_note, events, Event("in", name)), with_kwargs=True))
        handles.append(module.register_forward_hook(partial(_note, events, Event("out", name))))

    def note(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        events.append(Event("attention", names[call.module]))
        return call.fused()

    try:
        with torch.no_grad(), route_attention(dict.fromkeys(names, note)):
            hf(**example)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(events)


def _note(events: list[Event], event: Event, *_: object) -> None:
    events.append(event)
