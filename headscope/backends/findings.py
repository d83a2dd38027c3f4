"""What hooks keep while they run somewhere else: put into plain data there, and back into the hooks here.

Hooks keep what they see in lists, dicts and sets of their own. A copy of a hook that runs on a server fills a copy of
these, so their contents are sent back and put into the containers on this side. Only tensors, numbers, text, containers
and headscope's own dataclasses and named tuples travel; a class is looked up among those that are loaded here already,
and nothing of it is run, so an answer can name no other code.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from types import FunctionType
from typing import Any

from torch import Tensor

from headscope.errors import UsageError

PACKAGES = ("headscope", "tasks", "head_analysis", "interventions", "probes", "experiments")
"""The packages whose code travels, and whose classes may come back."""

Container = list | dict | set


def containers(hooks: Iterable[Any]) -> list[Container]:
    """The lists, dicts and sets that hooks hold, each once; also those that a function of theirs closes over."""
    found: dict[int, Any] = {}
    for hook in hooks:
        for value in vars(hook).values():
            _visit(value, found)
    return [value for value in found.values() if isinstance(value, Container)]


def _visit(value: Any, found: dict[int, Any]) -> None:
    if id(value) in found or isinstance(value, type | Tensor):
        return
    inner = list(_inside(value))
    if inner or isinstance(value, Container):
        found[id(value)] = value
        for one in inner:
            _visit(one, found)


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list | tuple | set):
        yield from value
    elif is_dataclass(value):
        yield from vars(value).values()
    elif isinstance(value, partial):
        yield from (*value.args, *value.keywords.values(), value.func)
    elif isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # a name that is not bound yet
                continue


class Watched:
    """Containers before the passes, and what has changed in them since."""

    def __init__(self, held: Sequence[Container]) -> None:
        self.held = held
        self.before = [_state(one) for one in held]

    def changes(self) -> list[tuple[int, Any]]:
        """Place and plain contents of every container that has changed; UsageError for what cannot be sent."""
        places = {id(one): place for place, one in enumerate(self.held)}
        known: dict[int, Any] = {}
        return [
            (place, [_plain(item, places, known) for item in _items(one)])
            for place, (one, before) in enumerate(zip(self.held, self.before, strict=True))
            if not _same(before, _state(one))
        ]


def put_back(held: Sequence[Container], changes: Iterable[tuple[int, Any]]) -> None:
    """Puts contents into the containers on this side; UsageError for a class that is not headscope's."""
    for place, contents in changes:
        items = [_rebuilt(item, held) for item in contents]
        one = held[place]
        one.clear()
        if isinstance(one, list):
            one.extend(items)
        else:
            one.update(items)


def _items(value: Container) -> list[Any]:
    return list(value.items()) if isinstance(value, dict) else list(value)


def _state(value: Container) -> list[tuple[Any, int]]:
    """The items themselves, and how often each tensor has been written to."""
    items = [part for pair in value.items() for part in pair] if isinstance(value, dict) else list(value)
    return [(one, _writes(one)) for one in items]


def _writes(value: Any) -> int:
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0


def _same(before: list[tuple[Any, int]], after: list[tuple[Any, int]]) -> bool:
    return len(before) == len(after) and all(a is b and i == j for (a, i), (b, j) in zip(before, after, strict=True))


def plain_output(value: Any) -> Any:
    """What a model returned, in plain data: its tensors, and tuples of them; caches and the like are left out."""
    known: dict[int, Any] = {}
    if isinstance(value, Tensor):
        return _plain(value, {}, known)
    kept = {name: one for name, one in dict(value).items() if _all_tensors(one)}
    return ("output", [(name, _plain(one, {}, known)) for name, one in kept.items()])


def _all_tensors(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_all_tensors(one) for one in value)
    return isinstance(value, Tensor)


def rebuilt_output(value: Any) -> Any:
    """The output again, of transformers' general kind."""
    if isinstance(value, Tensor):
        return value
    from transformers.utils import ModelOutput

    output = ModelOutput()
    for name, one in value[1]:
        output[name] = _rebuilt(one, ())
    return output


def _plain(value: Any, places: dict[int, int], known: dict[int, Any]) -> Any:
    if id(value) in places:
        return ("held", places[id(value)])
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        if id(value) not in known:
            known[id(value)] = (value, _alone(value))  # the value stays alive, or its id might be another's
        return known[id(value)][1]
    if isinstance(value, list | set | frozenset) or type(value) is tuple:
        return (type(value).__name__, [_plain(one, places, known) for one in value])
    if isinstance(value, dict):
        return ("dict", [(_plain(key, places, known), _plain(one, places, known)) for key, one in value.items()])
    names = _field_names(value)
    if type(value).__module__.split(".")[0] in PACKAGES and names is not None:
        qualified = f"{type(value).__module__}:{type(value).__qualname__}"
        return ("own", qualified, [(name, _plain(getattr(value, name), places, known)) for name in names])
    raise UsageError(
        f"a hook kept a {type(value).__module__}.{type(value).__qualname__} on the server, which cannot be sent back; "
        "keep tensors, numbers, text, and lists or dicts of them"
    )


def _field_names(value: Any) -> tuple[str, ...] | None:
    """Of a dataclass or named tuple, or of its class; None for anything else."""
    if is_dataclass(value):
        return tuple(field.name for field in fields(value))
    kind = value if isinstance(value, type) else type(value)
    return getattr(kind, "_fields", None) if issubclass(kind, tuple) else None


def _alone(value: Tensor) -> Tensor:
    """On the CPU and without the rest of a larger tensor that it is a part of, which would be sent too."""
    value = value.detach().cpu()
    return value.clone() if value.untyped_storage().nbytes() > value.numel() * value.element_size() else value


_KINDS: dict[str, Any] = {"list": list, "set": set, "frozenset": frozenset, "tuple": tuple}


def _rebuilt(value: Any, held: Sequence[Container]) -> Any:
    if not isinstance(value, tuple):
        return value
    kind, *rest = value
    if kind == "held":
        return held[rest[0]]
    if kind == "dict":
        return {_rebuilt(key, held): _rebuilt(one, held) for key, one in rest[0]}
    if kind == "own":
        return _own(rest[0], {name: _rebuilt(one, held) for name, one in rest[1]})
    return _KINDS[kind](_rebuilt(one, held) for one in rest[0])


def _own(qualified: str, values: dict[str, Any]) -> Any:
    """An object of a loaded class of headscope's, with these fields; its `__init__` is not run."""
    module, _, path = qualified.partition(":")
    kind: Any = sys.modules.get(module) if module.split(".")[0] in PACKAGES else None
    for name in path.split("."):
        kind = vars(kind).get(name) if kind is not None else None
    names = _field_names(kind) if isinstance(kind, type) and kind.__module__ == module else None
    if names is None or not set(values) <= set(names):
        raise UsageError(f"the server sent back a {qualified}, which is no record of headscope's here; it is refused")
    if issubclass(kind, tuple):
        return kind(**values)
    made = object.__new__(kind)
    for name, one in values.items():
        object.__setattr__(made, name, one)
    return made
