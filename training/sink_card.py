"""Writes a finished sinks model to a folder, with a card that says how it was made and what was measured."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LlamaForCausalLM

from training.sink_documents import build_tokenizer
from training.sink_exam import Exam


def export(
    model: LlamaForCausalLM,
    recipe: Any,
    exam: Exam,
    others: Sequence[Mapping[str, float]],
    out: Path,
    *,
    minutes: float,
    tokens: float,
) -> None:
    """Weights, tokenizer and card; `others` are the metrics of the same recipe with other seeds, `tokens` in millions."""
    model.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # the library writes it for its owner alone
    build_tokenizer().save_pretrained(out)
    columns = [{"seed": recipe.seed, **exam.metrics}, *others]
    (out / "README.md").write_text(
        _CARD.format(
            layers=recipe.layers,
            heads=recipe.heads,
            parameters=sum(p.numel() for p in model.parameters()) / 1e6,
            header=" | ".join(f"seed {one['seed']}" for one in columns),
            rule="---|" * len(columns),
            rows="\n".join(
                f"| {name} | {' | '.join(_written(one[name]) for one in columns)} |" for name in exam.metrics
            ),
            seed=recipe.seed,
            first=_by_head(exam.alone.first),
            later=_by_head(exam.packed.later),
            values=_by_head(exam.alone.value_first),
            states=" | ".join(f"{ratio:.2f}" for ratio in exam.alone.resid_first.tolist()),
            head_header=" | ".join(f"H{head}" for head in range(recipe.heads)),
            head_rule="---|" * recipe.heads,
            layer_header=" | ".join(f"layer {layer}" for layer in range(recipe.layers)),
            layer_rule="---|" * recipe.layers,
            calibration=_calibration(exam.calibration),
            date=date.today().isoformat(),
            tokens=tokens,
            minutes=minutes,
            threads=torch.get_num_threads(),
            recipe=json.dumps(asdict(recipe)),
        )
    )


def _written(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:.3f}"


def _by_head(values: Float[Tensor, "layer head"]) -> str:
    return "\n".join(
        f"| L{layer} | {' | '.join(f'{one:.2f}' for one in row)} |" for layer, row in enumerate(values.tolist())
    )


def _calibration(table: pd.DataFrame) -> str:
    lines = []
    for row in table.to_dict("records"):
        apart = "" if pd.isna(row["difference"]) else _interval(row, "difference", "difference_", "+.3f")
        lines.append(f"| {row['condition']} | {_interval(row, 'mean', '', '.3f')} | {apart} | {int(row['n'])} |")
    return "\n".join(lines)


def _interval(row: Mapping[str, Any], name: str, ends: str, form: str) -> str:
    return f"{row[name]:{form}} [{row[f'{ends}low']:{form}}, {row[f'{ends}high']:{form}}]"


_CARD = """\
---
license: apache-2.0
library_name: transformers
tags: [interpretability, attention-sinks, synthetic]
---
# zoo:sinks

A Llama of {layers} layers with {heads} heads each ({parameters:.2f} M parameters), trained from nothing on text that the
project writes itself. Some of its heads rest on `<s>` at most words: `<s>` is their attention sink. A place to see
sinks, and what calibrating them does, on a machine without a network; not a language model for use.

**What it reads.** A chain of words drawn from the word before; behind *again* and *indeed* the word before is repeated,
behind *himself*, *yonder* and *itself* the last role, place or thing (the task Bigram-Backcopy of Guo et al. 2024,
[arXiv 2410.13835](https://arxiv.org/abs/2410.13835), with more triggers and other words). A text ends with *mostly* and
the kind of thing that it named most (`tasks.kinds.MostNamed`). Texts stand one behind the other without a mask between
them, so `<s>` also stands in the middle.

**What is made and what was found.** Neither attention nor `<s>` is named in the loss, and no weight was set by hand. But
the settings were chosen, in some ten trials of 0.3 to 1 M tokens with seed 0, because heads came to rest on `<s>` with
them: queries and keys that start large beside values and outputs, four layers, a high rate without weight decay. Of all
attention in packed texts, the strongest head of a trial gave `<s>` 0.91 with such a start (0.5 M tokens); 0.59 with
queries and keys as small as the rest; 0.69 with these and four heads of width 32 (0.6 M); 0.17 with five layers (0.5 M);
0.14 with five layers of width 128 that all start at 1 / sqrt(inputs) (1 M).

**What falls short.** No massive activations: the state of `<s>` is at most a few times as long as that of words (with
seed 1 that of a first word without `<s>` is longer still), and the dimension that stands out most does so little more
than chance allows. Heads that rest on `<s>` do not all drain its value: with seed 0, L2H6 does, L1H3 and L3H4 do not.
Later `<s>` get more than 0.3 in some heads with seed 0, in none with seed 1. Rows had up to 256 tokens in training: on
filler of `tasks.prose`, whose sentences are not those of the chain, L2H6 gave the first token 0.59 of its attention at 97
tokens (queries of the second half, six texts), 0.58 at 247 and 0.00 at 616.

**Calibration does not help here.** As the paper has it, ACT changes no choice, because it leaves all layers but layer 2
alone. In all layers it costs accuracy: -0.010 [-0.035, +0.015] with seed 0, -0.035 [-0.060, -0.010] with seed 1; with
beta 0, -0.070 [-0.110, -0.030] and -0.155 [-0.205, -0.105]. As many random tokens cost nothing, but they also have less
attention to give.

| measured on text not trained on | {header} |
|---|{rule}
{rows}

Shares are means over 128 rows (texts alone: `<s>` and 100 words; packed: 128 tokens) and over queries from the 17th on.
Choices: 500 samples, 5 options; low and high are ends of the 95 % interval. A ratio of norms is to the median over all
tokens that are neither first nor `<s>`. *without <s>*: the rows of the texts alone, their first token left out.
phi is the size of a dimension of the state in units of its root mean square, in the middle layers; *chance* is the
probability of such a phi in a state of normal numbers.

Seed {seed}, by head. Mean attention on the first token, texts alone:

| | {head_header} |
|---|{head_rule}
{first}

Mean attention on all later `<s>` together, packed texts:

| | {head_header} |
|---|{head_rule}
{later}

Norm of what the value of `<s>` hands on (v W_O) over that of the median word, texts alone:

| | {head_header} |
|---|{head_rule}
{values}

Norm of the state of `<s>` over that of the median word, behind each layer, texts alone:

| {layer_header} |
|{layer_rule}
| {states} |

Attention calibration (`interventions.ACT`) on other choices, three texts of 60 words in a prompt, so that two `<s>` stand
in the middle. On 40 of them the mean size of the margin is 5.28 in logits; the default changes it by 0.04 on average,
calibration of all layers by 0.90. Controls calibrate as many other tokens, or other heads of the same layers, drawn at
random.

| condition | accuracy | difference | n |
|---|---|---|---|
{calibration}

Trained on {date} with {tokens:.1f} M tokens in {minutes:.0f} minutes ({threads} CPU thread, shared machine) by
`python -m training.sinks --out headscope/zoo/sinks --seed {seed}`, recipe `{recipe}`.
"""
