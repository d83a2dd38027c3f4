"""Values of heads, as files list them, laid out by layer and head."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from head_analysis.score_files.content import short
from headscope.errors import UsageError
from headscope.heads import Head

_LARGEST = 1e30


def by_head(pairs: Iterable[tuple[Any, Any]], path: Path, form: str) -> dict[Head, Any]:
    """Values under their heads, written `layer-head`; UsageError for anything else, and for a head that comes twice."""
    found: dict[Head, Any] = {}
    for key, value in pairs:
        head = parse_key(key, path, form)
        if head in found:
            raise UsageError(f"{path} has {head} twice; keep one of them")
        found[head] = value
    return found


def parse_key(key: Any, path: Path, form: str) -> Head:
    """The head written `layer-head`; UsageError for any other way, negative numbers included."""
    if not isinstance(key, str) or not re.fullmatch(r"(0|[1-9]\d{0,8})-(0|[1-9]\d{0,8})", key):
        raise UsageError(f"{path} has the key {short(key)}, which is not layer-head, such as 5-3; {form}")
    return Head.parse(key)


def samples_of(heads: Mapping[Head, Any], path: Path, form: str) -> Float[Tensor, "sample layer head"]:
    """The values of every head, one list each; UsageError for lists that are none, ragged, or of missing heads."""
    first = next(iter(heads))
    for head, scores in heads.items():
        if not are_numbers(scores):
            raise UsageError(f"{path}: {head} has {short(scores)} instead of a list of finite numbers; {form}")
        if len(scores) != len(heads[first]):
            raise UsageError(
                f"{path}: {head} has {len(scores)} samples but {first} has {len(heads[first])}; every head needs the "
                "same samples"
            )
    n_layers, n_heads = (1 + max(ids) for ids in zip(*heads, strict=True))
    if len(heads) != n_layers * n_heads:
        missing = next(Head(i, j) for i in range(n_layers) for j in range(n_heads) if Head(i, j) not in heads)
        raise UsageError(
            f"{path}: {missing} is missing from the {n_layers} layers x {n_heads} heads that the file names "
            f"({n_layers * n_heads - len(heads)} missing in all); fetch it again or complete it"
        )
    rows = torch.tensor([heads[head] for head in sorted(heads)], dtype=torch.float32)
    return rows.reshape(n_layers, n_heads, -1).permute(2, 0, 1).contiguous()


def are_numbers(values: Any) -> bool:
    """Whether this is a list of finite numbers, with at least one."""
    # A file holds hundreds of thousands of values, so their types are gathered before they are looked at.
    numbers = isinstance(values, list) and bool(values) and set(map(type, values)) <= {int, float}
    return numbers and all(-_LARGEST < value < _LARGEST for value in values)
