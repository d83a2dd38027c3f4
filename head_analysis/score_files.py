"""Score files published with the code of Wu et al. 2024, "Retrieval Head" (https://arxiv.org/abs/2404.15574).

JSON, plain or gzipped: `{"layer-head": [score of every sample]}`. Scores count copied tokens with repetition over the
length of the answer, so a repeated answer can push one above 1; samples that the model failed are not in the file.
"""

import gzip
import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headscope.errors import UsageError
from headscope.heads import Head
from headscope.scores import HeadScores

_FORMAT = 'a score file is JSON of the form {"layer-head": [score of every sample]}, such as {"0-0": [0, 0.5]}'
_GZIP = b"\x1f\x8b"
_LARGEST = 1e30


def read_score_file(path: str | Path, *, model: str | None = None) -> HeadScores:
    """The scores in a Retrieval_Head file; `model` is the file's name without its endings unless given.

    UsageError says what is wrong with a file that is missing, cut short, or in another form.
    """
    path = Path(path)
    table = _table(path)
    meta = {
        "model": model or re.sub(r"(\.json)?(\.gz)?$", "", path.name),
        "task": "needle",
        "source": path.name,
        "format": "Retrieval_Head",
    }
    samples = _samples(table, path)
    return HeadScores(samples, "retrieval score", meta | {"n": len(samples)})


def _table(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UsageError(f"there is no file {path}; give the path of a score file")
    data = path.read_bytes()
    try:
        text = gzip.decompress(data) if data.startswith(_GZIP) else data
    except (EOFError, OSError, zlib.error) as error:
        raise UsageError(f"{path} is not a whole gzip file ({error}); fetch it again") from error
    try:
        table = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{path} is not JSON ({error}); {_FORMAT}") from error
    if not isinstance(table, dict) or not table:
        raise UsageError(f"{path} holds {'no heads' if table == {} else type(table).__name__}; {_FORMAT}")
    return table


def _samples(table: Mapping[str, Any], path: Path) -> Tensor:
    heads = {_head(key, path): scores for key, scores in table.items()}
    n = len(heads[_head(next(iter(table)), path)]) if isinstance(next(iter(table.values())), list) else 0
    for head, scores in heads.items():
        if not _are_scores(scores):
            raise UsageError(f"{path}: {head} has {_short(scores)} instead of a list of finite numbers; {_FORMAT}")
        if len(scores) != n:
            first = next(iter(heads))
            raise UsageError(
                f"{path}: {head} has {len(scores)} samples but {first} has {n}; every head needs the same samples"
            )
    n_layers, n_heads = (1 + max(ids) for ids in zip(*heads, strict=True))
    if len(heads) != n_layers * n_heads:
        missing = next(Head(i, j) for i in range(n_layers) for j in range(n_heads) if Head(i, j) not in heads)
        raise UsageError(
            f"{path}: {missing} is missing from the {n_layers} layers x {n_heads} heads that the file names "
            f"({n_layers * n_heads - len(heads)} missing in all); fetch it again or complete it"
        )
    rows = torch.tensor([heads[head] for head in sorted(heads)], dtype=torch.float32)
    return rows.reshape(n_layers, n_heads, n).permute(2, 0, 1).contiguous()


def _head(key: str, path: Path) -> Head:
    if not re.fullmatch(r"(0|[1-9]\d*)-(0|[1-9]\d*)", key):
        raise UsageError(f"{path} has the key {_short(key)}, which is not layer-head, such as 5-3; {_FORMAT}")
    return Head.parse(key)


def _are_scores(values: Any) -> bool:
    # A file holds hundreds of thousands of values, so their types are gathered before they are looked at.
    numbers = isinstance(values, list) and bool(values) and set(map(type, values)) <= {int, float}
    return numbers and all(-_LARGEST < value < _LARGEST for value in values)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
