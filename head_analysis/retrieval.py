"""Retrieval heads: heads that point at a token of the text exactly when the model copies it into its answer.

Wu et al. 2024, "Retrieval Head Mechanistically Explains Long-Context Factuality", arXiv 2404.15574, section 2. While the
model answers greedily, let j be the key that a head attends to most in the row that chooses answer token w. The head
copies w if j lies in the needle and holds the same token. Two scores are in use, and both are offered by name:

`paper`     share of the needle's distinct tokens that the head copied at least once; at most 1; every sample counts.
`released`  number of copying steps divided by the needle's tokens; an answer that repeats itself counts twice, so it can
            exceed 1; samples whose ROUGE-1 recall is at most 0.5 are dropped for all heads.

Attention is read in decode rows only, for all heads at once, while the answer is generated: nothing is n x n. A needle
is found by character offsets in any tokenizer; the released code's search for a similar token set, which may start a
token early and scores 0 when it finds nothing, is not reproduced.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from head_analysis.top_keys import LateTopKeys, TopKeys, best_keys, top_keys_reader
from headscope.answers import answer_row, asked_of, stop_strings
from headscope.errors import UsageError
from headscope.generation import Generation
from headscope.heads import Head
from headscope.model import HookedModel
from headscope.progress import progress_bar
from headscope.runs import Run
from headscope.samples import Sample, Span, Task
from headscope.scores import HeadScores
from headscope.scoring import rouge1_recall
from headscope.sharing import each_sample
from headscope.tables import html_table

Variant = Literal["paper", "released"]


def copy_hits(
    rows: Float[Tensor, "step head key"],
    tokens: Int[Tensor, " step"],
    prompt: Int[Tensor, " prompt"],
    needle: Span,
    *,
    top_k: int = 1,
) -> Bool[Tensor, "step head"]:
    """Whether each head copied at each step: one of its `top_k` keys is a needle token equal to the one chosen.

    `rows[t]` is the attention of the query whose logits chose `tokens[t]`; keys beyond the prompt are earlier answer
    tokens and never count.
    """
    return _hits(best_keys(rows, top_k), tokens, prompt, needle)


def _hits(
    keys: Int[Tensor, "step head k"], tokens: Int[Tensor, " step"], prompt: Int[Tensor, " prompt"], needle: Span
) -> Bool[Tensor, "step head"]:
    start, end = needle
    inside = (keys >= start) & (keys < end)
    copied = prompt[keys.clamp(0, len(prompt) - 1)] == tokens[:, None, None]
    return (inside & copied).any(-1)


def copy_score(
    hits: Bool[Tensor, "step head"], tokens: Int[Tensor, " step"], needle_tokens: Int[Tensor, " needle"], *, dedup: bool
) -> Float[Tensor, " head"]:
    """Score of each head in one sample: distinct needle tokens copied (`dedup`), or copying steps, over their number."""
    if not dedup:
        return hits.sum(0) / len(needle_tokens)
    distinct = needle_tokens.unique()
    copied = (tokens[:, None] == distinct).float()
    return ((hits.float().T @ copied) > 0).sum(1) / len(distinct)


@dataclass(frozen=True)
class Retrieval:
    """Every sample's answer and the score of every head on it, before and after the filter on answers."""

    answers: pd.DataFrame
    """A row a sample: what was asked and answered, its `score` by the task, its `recall`, and whether it is `kept`."""
    every_score: Float[Tensor, "sample layer head"]
    """Scores on all samples, those the filter drops included; NaN for heads that do not exist."""
    meta: Mapping[str, Any]

    @property
    def scores(self) -> HeadScores:
        """Scores on the samples that the filter keeps; UsageError if it keeps none."""
        kept = torch.tensor(self.answers["kept"].to_numpy(bool))
        if not kept.any():
            raise UsageError(
                f"none of {len(kept)} answers has a ROUGE-1 recall above {self.meta['min_recall']}; the model does not "
                "answer this task, so its heads cannot be scored by the released rule: use variant='paper', shorter "
                "lengths or another model"
            )
        dropped = {"samples_dropped": int((~kept).sum())}
        return HeadScores(self.every_score[kept], f"retrieval score ({self.meta['variant']})", {**self.meta, **dropped})

    def __repr__(self) -> str:
        kept = int(self.answers["kept"].sum())
        return f"Retrieval({self.meta.get('model', '')!r}, {len(self.answers)} answers, {kept} kept)"

    def plot(self) -> Any:
        """Heatmap of the scores, layer by head."""
        return self.scores.plot()

    def _repr_html_(self) -> str:
        n, kept = len(self.answers), int(self.answers["kept"].sum())
        right = pd.DataFrame([{"answers": n, "mean score": self.answers["score"].mean(), "kept": kept}])
        scores = self.scores._repr_html_() if kept else ""
        return html_table(right, f"{self.meta.get('model', '')}: answers") + scores


def retrieval_scores(model: HookedModel, task: Task, **options: Any) -> HeadScores:
    """Retrieval score of every head on every sample of a task; the options are those of `measure_retrieval`."""
    return measure_retrieval(model, task, **options).scores


def measure_retrieval(
    model: HookedModel,
    task: Task,
    *,
    variant: Variant = "paper",
    top_k: int = 1,
    min_recall: float | None = None,
    max_new_tokens: int | None = None,
    batch_tokens: int = 8192,
    run: Run | None = None,
    progress: bool = False,
) -> Retrieval:
    """Generates every sample's answer and scores all heads of the main stack on the way.

    Samples need a mark "needle". `min_recall` keeps only samples whose answer has a higher ROUGE-1 recall (default: none
    for `paper`, 0.5 for `released`). With a `run`, each finished batch is kept there and not computed again. Costs
    little more than generating the answers. Raises UsageError for a sample longer than the model's context.
    """
    if variant not in get_args(Variant):
        raise UsageError(f"variant {variant!r} is not known; use 'paper' or 'released'")
    if top_k < 1:
        raise UsageError(f"top_k is {top_k}; a head copies with one of its best-attended keys, so ask for at least 1")
    if min_recall is None and variant == "released":
        min_recall = 0.5
    samples, room = asked_of(model, task, max_new_tokens)
    _check_marks(samples)
    sizes = [len(model.tokens(sample).ids) for sample in samples]

    def measure(places: Sequence[int]) -> pd.DataFrame:
        return _measured(model, task, [samples[i] for i in places], variant, top_k, room).assign(sample=list(places))

    with progress_bar(len(samples), "retrieval", shown=progress) as update:
        whole = each_sample(run, sizes, measure, key=_CELL, batch_tokens=batch_tokens, update=update)
    heads = [column for column in whole.columns if column.startswith("L")]
    answers = whole.drop(columns=heads)
    kept = answers["recall"] > min_recall if min_recall is not None else True
    meta = {
        "model": model.name,
        "revision": model.revision,
        "task": repr(task),
        "variant": variant,
        "top_k": top_k,
        "min_recall": min_recall,
        "phase": "decode",
        "seed": getattr(task, "seed", None),
    }
    return Retrieval(answers.assign(kept=kept), _grid(model, whole[heads]), meta)


_CELL = "retrieval from sample "


def _check_marks(samples: Sequence[Sample]) -> None:
    for sample in samples:
        if "needle" not in sample.marks:
            raise UsageError(
                f"a sample has no mark 'needle' (it has {', '.join(sample.marks) or 'none'}), so it cannot be told what "
                "a head should copy; mark the answer's place in the prompt"
            )


def _measured(
    model: HookedModel, task: Task, samples: Sequence[Sample], variant: Variant, top_k: int, room: int
) -> pd.DataFrame:
    """A row a sample: its answer, how right it is, and a column for every head."""
    top = top_keys_reader(model, top_k)
    with model.hooks(top):
        written = model.generate_batch(model.encode(samples), max_new_tokens=room, stop=stop_strings(task))
    rows = []
    for i, answer in enumerate(written):
        heads = _sample_scores(model, top, i, answer, dedup=variant == "paper")
        rows.append({**answer_row(task, answer), "recall": rouge1_recall(answer.text, answer.sample.target), **heads})
    return pd.DataFrame(rows)


def _sample_scores(
    model: HookedModel, top: TopKeys | LateTopKeys, index: int, answer: Generation, *, dedup: bool
) -> dict[str, float]:
    located = model.tokens(answer.sample)
    start, end = located.marks["needle"]
    prompt, tokens = torch.tensor(located.ids), torch.tensor(answer.tokens, dtype=torch.long)
    scores = {}
    for layer in model.layers():
        hits = _hits(top.of_sample(layer, index, len(tokens)), tokens, prompt, (start, end))
        for head, score in enumerate(copy_score(hits, tokens, prompt[start:end], dedup=dedup).tolist()):
            scores[str(Head(layer, head))] = score
    return scores


def _grid(model: HookedModel, columns: pd.DataFrame) -> Float[Tensor, "sample layer head"]:
    scores = torch.full((len(columns), model.n_layers, model.n_heads), torch.nan)
    for name in columns:
        head = Head.parse(name)
        scores[:, head.layer, head.head] = torch.tensor(columns[name].to_numpy(float), dtype=torch.float32)
    return scores
