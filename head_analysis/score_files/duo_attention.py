"""Gates of Xiao et al. 2024, "DuoAttention" (https://arxiv.org/abs/2410.10819), `full_attention_heads.tsv`.

A line a layer, in it a number for each **key-value** head between tabs, written by numpy.savetxt: the learned share of
full attention, 1 for heads that need it and 0 for heads that stream. With grouped-query attention there are fewer columns
than query heads (8 for the 32 of Mistral-7B). Published values reach slightly below 0 (-1.2e-4); the project's loader
clips them to 0 to 1, and so does this one. A `config.json` beside the file holds the settings of the training, of which
`model_name`, `sink_size` and `recent_size` (tokens that streaming heads keep) are taken over.
"""

import json
from typing import Any

import torch

from head_analysis.score_files.content import Content, short
from headscope.errors import UsageError
from headscope.scores import HeadScores

FORM = (
    "full_attention_heads.tsv has a line for each layer, with a gate from 0 to 1 for each key-value head between tabs"
)

_ROOM = 0.1
"""How far a gate may lie outside 0 to 1 before it is no gate."""

_SETTINGS = ("sink_size", "recent_size", "deploy_sink_size", "deploy_recent_size")


def read_duo_attention(content: Content, *, query_heads: int | None) -> HeadScores:
    """The gates of key-value heads; with `query_heads`, one for each query head, heads of a group sharing theirs."""
    rows = [_row(line, number, content) for number, line in enumerate(content.text.rstrip("\n").split("\n"))]
    for layer, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise UsageError(
                f"{content.path}: layer {layer} has {len(row)} heads but layer 0 has {len(rows[0])}; {FORM}"
            )
    raw = torch.tensor([rows])
    if raw.min() < -_ROOM or raw.max() > 1 + _ROOM:
        raise UsageError(f"{content.path} reaches from {raw.min():.3g} to {raw.max():.3g}, gates from 0 to 1; {FORM}")
    samples, kept = raw.clamp(0, 1), len(rows[0])
    heads = "key-value heads"
    if query_heads is not None:
        if query_heads < kept or query_heads % kept:
            raise UsageError(
                f"{content.path} has {kept} key-value heads in a layer, which {query_heads} query heads cannot share "
                f"evenly; give a multiple of {kept}, the model's num_attention_heads"
            )
        samples = samples.repeat_interleave(query_heads // kept, dim=2)
        heads = f"query heads, {query_heads // kept} with the gate of each key-value head"
    meta = {
        "n": 1,
        "heads": heads,
        "range": [round(float(end), 6) for end in (raw.min(), raw.max())],
        **_beside(content),
    }
    return HeadScores(samples, "full-attention gate", meta)


def _row(line: str, layer: int, content: Content) -> list[float]:
    try:
        row = [float(cell) for cell in line.split("\t")]
    except ValueError:
        row = []
    if not row or not torch.tensor(row).isfinite().all():
        raise UsageError(f"{content.path}: layer {layer} is {short(line)}, not finite numbers between tabs; {FORM}")
    return row


def _beside(content: Content) -> dict[str, Any]:
    """What the training's settings say, if they lie beside the file."""
    path = content.path.with_name("config.json")
    if content.path.name.removesuffix(".gz") != "full_attention_heads.tsv" or not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{path} is not JSON ({error}); fetch it again, or read the gates from another folder"
        ) from error
    if not isinstance(settings, dict) or any(type(settings.get(key)) is not int for key in _SETTINGS[:2]):
        raise UsageError(
            f"{path} has no whole number as sink_size or recent_size; it is not DuoAttention's config.json"
        )
    name = settings.get("model_name")
    model = {"model": name.removeprefix("models/")} if isinstance(name, str) and name else {}
    return model | {key: settings[key] for key in _SETTINGS if type(settings.get(key)) is int}
