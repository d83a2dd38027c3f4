"""The card of a repository of head scores: what the scores are of, as their `meta` says."""

import json
from typing import Any

from headscope.scores import HeadScores

_HEADER = """\
---
tags:
- headscope
- attention-heads
configs:
- config_name: head_scores
  data_files: tables/*.parquet
---

# Scores of attention heads

`scores/` holds the values of every sample, `tables/` their means with 95 % intervals, one row a head.
"""
_SHOWN = 5


def with_section(card: str | None, name: str, scores: HeadScores, address: str) -> str:
    """The card with a section for these scores at its end, begun if there is none."""
    return f"{(card or _HEADER).rstrip()}\n\n{_section(name, scores, address)}"


def _section(name: str, scores: HeadScores, address: str) -> str:
    layers, heads = scores.samples.shape[1:]
    facts = {"metric": scores.metric, "samples": scores.n, "layers": layers, "heads in a layer": heads}
    rows = [f"| {_cell(key)} | {_cell(value)} |" for key, value in {**facts, **scores.meta}.items()]
    best = scores.to_dataframe().nlargest(_SHOWN, "value")
    top = [
        f"| {row.name} | {row.value:.4g} | {row.low:.4g} to {row.high:.4g} |" for row in best.itertuples(index=False)
    ]
    return "\n".join(
        [
            f"## {name}",
            "",
            "| | |",
            "|---|---|",
            *rows,
            "",
            "| strongest heads | mean | 95 % interval |",
            "|---|---|---|",
            *top,
            "",
            "```python",
            "from headscope.hub import from_hub",
            "",
            f'scores = from_hub("{address}", "{name}")',
            "```",
            "",
        ]
    )


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
