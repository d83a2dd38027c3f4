"""Score files published with the code of Wu et al. 2024, "Retrieval Head" (https://arxiv.org/abs/2404.15574).

JSON, plain or gzipped: `{"layer-head": [score of every sample]}`. Scores count copied tokens with repetition over the
length of the needle, so a repeated answer can push one above 1, and all scores of a sample are whole multiples of one
over a length; samples that the model failed are not in the file. The project's own loaders take the first line of the
file as the whole of it.
"""

import json
from pathlib import Path
from typing import Any

import torch

from head_analysis.score_files.content import Content
from head_analysis.score_files.grid import by_head, samples_of
from headscope.errors import UsageError
from headscope.files import write_new
from headscope.heads import Head
from headscope.scores import HeadScores

FORM = 'a score file is JSON of the form {"layer-head": [score of every sample]}, such as {"0-0": [0, 0.5]}'

_LONGEST = 512
"""Tokens of the longest needle that counts are looked for in."""


def read_retrieval_head(content: Content) -> HeadScores:
    """The retrieval scores in a file."""
    samples = samples_of(heads_in(content), content.path, FORM)
    return HeadScores(samples, "retrieval score", {"task": "needle", "n": len(samples)})


def heads_in(content: Content) -> dict[Head, Any]:
    """The lists of a file under their heads, in the order of the file; UsageError for another form."""
    table = content.json
    if not isinstance(table, dict) or not table:
        raise UsageError(f"{content.path} holds {'no heads' if table == {} else type(table).__name__}; {FORM}")
    return by_head(table.items(), content.path, FORM)


def are_counts(scores: HeadScores) -> bool:
    """Whether the scores of every sample are whole multiples of one over some length, as counts of copies are."""
    lengths = torch.arange(1, _LONGEST + 1).double()
    for sample in scores.samples.double():
        products = sample.unique()[:, None] * lengths
        # Files are read as float32, so that a product is only as exact as its size allows.
        if not ((products - products.round()).abs() <= 1e-6 * products.abs().clamp(min=1)).all(0).any():
            return False
    return True


def write_score_file(scores: HeadScores, path: str | Path) -> None:
    """A new file in this form, on one line and head by head, as the project's loaders want it.

    What the form has no place for is lost: model, metric and all else in `meta`. UsageError for scores in which heads do
    not exist, and for a file that does.
    """
    if not scores.exists.all():
        layer, head = (~scores.exists).nonzero()[0].tolist()
        raise UsageError(
            f"L{layer}H{head} does not exist in these scores, and a retrieval-head file needs every head of every layer; "
            "write a head-score table instead"
        )
    table = {f"{layer}-{head}": scores.samples[:, layer, head].tolist() for layer, head in scores.heads}
    write_new(Path(path), lambda file: _write(file, json.dumps(table) + "\n"))


def _write(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
