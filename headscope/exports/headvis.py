"""A folder of attention rows laid out as the data of HeadVis: `config.json`, `scatter_data.json`, `heads/L{l}H{h}.json`.

HeadVis (Luger et al. 2026, https://transformer-circuits.pub/2026/headvis) is a page that reads such a folder. Its names
of files are kept. What stands inside is this project's own form, with a schema of its own: rows hold the keys above a
weight and say what was dropped, since full rows are n x n. HeadVis's page also shows positions of heads by their weights
and features, which are not made here, so its own data wants another writer.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headscope.encoding import tokenizer_of
from headscope.errors import UsageError
from headscope.exports.sparse import DECIMALS, SparseRows, sparse_rows
from headscope.files import json_text, write_new
from headscope.heads import Head
from headscope.model import HookedModel
from headscope.provenance import origin
from headscope.samples import Sample
from headscope.scores import HeadScores

SCHEMA = 1
"""Version of the folder that `write_headvis` writes."""


@dataclass(frozen=True)
class HeadRows:
    """What one head attends to in every sample of a folder, its scores by metric, and the tokens of the samples."""

    head: Head
    metrics: Mapping[str, float]
    tokens: tuple[tuple[str, ...], ...]
    rows: tuple[SparseRows, ...]


def write_headvis(
    model: HookedModel,
    samples: Sequence[Sample | str],
    folder: str | Path,
    *,
    heads: Iterable[Head | str | tuple[int, int]] | None = None,
    scores: Iterable[HeadScores] = (),
    min_weight: float = 0.01,
) -> None:
    """A new folder with the rows of the heads (all unless given) over the samples, and their scores.

    Costs one pass a sample and never holds n x n. UsageError if the folder holds anything, or scores are of a model of
    another shape.
    """
    folder, kept = Path(folder), tuple(scores)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not an empty folder; give another, results are never overwritten")
    if not samples:
        raise UsageError("attention was to be written of no samples; give at least one text")
    wanted = tuple(heads) if heads is not None else None
    tokens = [token_texts(model, sample) for sample in samples]
    read = [sparse_rows(model, sample, heads=wanted, min_weight=min_weight) for sample in samples]
    metrics = {head: _metrics(head, kept) for head in read[0]}
    about = {
        "schema": SCHEMA,
        "model": model.name,
        "revision": model.revision,
        "stack": model.main_stack,
        "heads": [str(head) for head in read[0]],
        "samples": len(samples),
        "min_weight": min_weight,
        "decimals": DECIMALS,
        "metrics": {one.metric: dict(one.meta) for one in kept},
        **origin(),
    }
    for head in read[0]:
        rows = [{"tokens": t, **asdict(one[head])} for t, one in zip(tokens, read, strict=True)]
        text = {"schema": SCHEMA, **head._asdict(), "metrics": metrics[head], "sequences": rows}
        _write(folder / "heads" / f"{head}.json", json.dumps(text, ensure_ascii=False))
    points = [{"name": str(head), **head._asdict(), "metrics": metrics[head]} for head in read[0]]
    _write(folder / "scatter_data.json", json.dumps(points))
    _write(folder / "config.json", json_text(about, "config"))  # last: a folder that has it is whole


def read_headvis(folder: str | Path) -> dict[Head, HeadRows]:
    """Everything in a folder that `write_headvis` wrote; UsageError for one that is missing, incomplete, or newer."""
    folder = Path(folder)
    config = _read(folder / "config.json")
    try:
        heads = [Head.parse(name) for name in config["heads"]]
        return {head: _head(_read(folder / "heads" / f"{head}.json"), head) for head in heads}
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{folder} is not a folder that write_headvis wrote ({error!r}); write it again") from error


def token_texts(model: HookedModel, sample: Sample | str) -> list[str]:
    """The tokens of a sample as the vocabulary writes them; UsageError where the main stack reads other tokens."""
    if model.hf.config.is_encoder_decoder:
        raise UsageError(
            f"{model.name} is an encoder-decoder, whose {model.main_stack} reads what it writes and not the text; use a "
            "model with one stack for text"
        )
    return list(tokenizer_of(model.processor).convert_ids_to_tokens(list(model.tokens(sample).ids)))


def _metrics(head: Head, scores: Sequence[HeadScores]) -> dict[str, float]:
    for one in scores:
        if head not in one.heads:
            layers, width = one.samples.shape[1:]
            raise UsageError(
                f"{head} has no {one.metric}, whose scores are of {layers} layers x {width} heads; give this model's"
            )
    return {one.metric: float(one.values[head]) for one in scores}


def _head(found: dict[str, Any], head: Head) -> HeadRows:
    if Head(found["layer"], found["head"]) != head:
        raise ValueError(f"the file of {head} is of L{found['layer']}H{found['head']}")
    rows = []
    for one in found["sequences"]:
        keys, weights = (tuple(map(tuple, one[name])) for name in ("keys", "weights"))
        if not len(one["tokens"]) == len(keys) == len(weights) == len(one["dropped"]):
            raise ValueError(f"{head} has {len(keys)} rows for {len(one['tokens'])} tokens")
        rows.append(SparseRows(keys, weights, tuple(one["dropped"])))
    return HeadRows(head, found["metrics"], tuple(tuple(one["tokens"]) for one in found["sequences"]), tuple(rows))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UsageError(f"there is no file {path}; give a folder that write_headvis wrote, or write it again")
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON ({error}); write the folder again") from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if type(schema) is not int:
        raise UsageError(
            f"{path} has no schema, so this project did not write it; give a folder that write_headvis wrote"
        )
    if schema > SCHEMA:
        raise UsageError(f"{path} has schema {schema}, this headscope reads up to {SCHEMA}; update headscope")
    return dict(found)


def _write(path: Path, text: str) -> None:
    write_new(path, lambda file: _put(file, text))


def _put(path: Path, text: str) -> None:
    path.write_text(text + "\n", "utf-8")
