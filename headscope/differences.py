"""What differs between two sets of settings, in few words."""

from collections.abc import Mapping
from typing import Any

_SHOWN = 60
_BEFORE = 12


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], *, said: str = "{key!r} was {old} and is {new} now"
) -> str:
    """Every key whose values differ, `said` with both values, long ones cut to where they part; "" if none differs."""
    found = []
    for key in {**before, **now}:
        if key in before and key in now and before[key] == now[key]:
            continue
        old, new = _cut(*(repr(settings[key]) if key in settings else "absent" for settings in (before, now)))
        found.append(said.format(key=key, old=old, new=new))
    return "; ".join(found)


def _cut(old: str, new: str) -> tuple[str, str]:
    """Both texts from shortly before they part."""
    if max(len(old), len(new)) <= _SHOWN:
        return old, new
    part = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    start = max(0, part - _BEFORE)
    return _excerpt(old, start), _excerpt(new, start)


def _excerpt(text: str, start: int) -> str:
    end = start + _SHOWN
    return "..." * (start > 0) + text[start:end] + "..." * (end < len(text))
