"""Values written as text: `VHR(alpha=2)` to the operator it describes, without evaluating any code.

The text is parsed, not run: a call of a name on the list, and inside it numbers, strings, None, booleans, tuples and
other such calls. What a frozen dataclass prints as its repr reads back as an equal value, if its fields are of that kind.
"""

import ast
import inspect
from collections.abc import Mapping
from typing import Any

from headscope.errors import UsageError

_LONGEST = 10_000


def parse_call(text: str, allowed: Mapping[str, type]) -> Any:
    """The value that a call such as `VHR(alpha=2)` describes.

    `allowed` maps the names that may be called, nested ones included (`Head` for `Ablate(heads=(Head(1, 2),))`), to their
    types. Raises UsageError for any other name or argument, for anything but calls and literals, and for what the
    constructor refuses.
    """
    return _call(_expression(text), text, allowed)


def parse_calls(text: str, allowed: Mapping[str, type]) -> tuple[Any, ...]:
    """The values that calls separated by commas describe, in order: `VAR(), VHR(alpha=2)`. Raises as `parse_call`."""
    tree = _expression(text)
    calls = tree.elts if isinstance(tree, ast.Tuple) else [tree]
    if not calls:
        raise _unreadable(text, "it holds no call", allowed)
    return tuple(_call(call, text, allowed) for call in calls)


def _expression(text: str) -> ast.expr:
    if len(text) > _LONGEST:
        raise UsageError(f"{text[:40]!r}... has {len(text)} characters; at most {_LONGEST} are read")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        why = getattr(error, "msg", None) or str(error) or type(error).__name__
        raise UsageError(
            f"{text[:80]!r} cannot be read ({why}); write a call with literals, such as Name(alpha=2)"
        ) from error


def _call(node: ast.expr, text: str, allowed: Mapping[str, type]) -> Any:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise _unreadable(text, f"{_source(node)} is not a call of a name", allowed)
    name = node.func.id
    if name not in allowed:
        raise UsageError(f"{name!r} is not known in {text[:80]!r}; known are: {', '.join(sorted(allowed))}")
    if any(isinstance(argument, ast.Starred) for argument in node.args) or None in {k.arg for k in node.keywords}:
        raise _unreadable(text, f"{name} is given unpacked arguments", allowed)
    places = [_value(argument, text, allowed) for argument in node.args]
    names: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg in names:  # the parser lets it pass, only the compiler would not
            raise _unreadable(text, f"{name} is given {keyword.arg!r} twice", allowed)
        names[str(keyword.arg)] = _value(keyword.value, text, allowed)
    return _built(name, allowed[name], places, names)


def _value(node: ast.expr, text: str, allowed: Mapping[str, type]) -> Any:
    if isinstance(node, ast.Call):
        return _call(node, text, allowed)
    if isinstance(node, ast.Tuple):
        return tuple(_value(element, text, allowed) for element in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and _is_number(node.operand):
        return -ast.literal_eval(node.operand)
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, bool | int | float | str)):
        return node.value
    raise _unreadable(text, f"{_source(node)} is not a number, string, None, True, False or tuple", allowed)


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool)


def _built(name: str, kind: type, places: list[Any], names: dict[str, Any]) -> Any:
    takes = inspect.signature(kind).parameters
    for given in names:
        if given not in takes:
            raise UsageError(f"{name} has no {given!r}; it takes: {', '.join(takes) or 'nothing'}")
    try:
        return kind(*places, **names)
    except UsageError:
        raise
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{name} cannot be made of what it was given ({error}); it takes: {', '.join(takes)}"
        ) from error


def _source(node: ast.expr) -> str:
    found = ast.unparse(node)
    return found if len(found) <= 60 else f"{found[:60]}..."


def _unreadable(text: str, why: str, allowed: Mapping[str, type]) -> UsageError:
    return UsageError(
        f"{text[:80]!r} cannot be read: {why}; write calls with literals, of these names: {', '.join(sorted(allowed))}"
    )
