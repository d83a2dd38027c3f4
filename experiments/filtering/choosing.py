"""Choices under conditions: what a model gives each option in one pass of the prompts, and which it so chooses."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from experiments.compare import Comparison, Condition, as_conditions, each_condition
from headscope.errors import UsageError
from headscope.model import HookedModel
from headscope.prompting import Hook
from headscope.runs import Run
from headscope.samples import Sample, batches
from tasks.choices import ChoiceTask


@torch.no_grad()
def choice_scores(model: HookedModel, task: ChoiceTask, *, batch_tokens: int = 8192) -> pd.DataFrame:
    """A row for each sample: sample, target, answer (the option chosen), score (1 if right) and margin.

    The margin is the right option's value less the best other's, in logits for `last_token`, in nats otherwise; a tie is
    wrong. `greedy` is 1 where the likeliest of all tokens is the right option's (multiple choice is often scored so), and
    missing where options are compared by likelihood. Costs one pass of the prompts, or with likelihoods one of every
    prompt with every option. UsageError where options cannot be told apart by their last token.
    """
    if model.tokenizer is None:
        raise UsageError(
            f"{model.name} came without a tokenizer, so it cannot be asked in words; save its tokenizer beside it"
        )
    if model.hf.config.is_encoder_decoder:
        raise UsageError(f"{model.name} has an encoder and a decoder; choices are read behind prompts of decoders only")
    samples = list(task.samples(model.processor if getattr(task, "sees_images", False) else model.tokenizer))
    if task.rule == "last_token":
        return _rows(samples, *_next_token(model, samples, batch_tokens))
    return _rows(samples, _likelihoods(model, samples, batch_tokens, mean=task.rule == "mean_likelihood"), None)


def compare_choices(
    model: HookedModel,
    task: ChoiceTask,
    conditions: Mapping[str, Sequence[Hook]] | Sequence[Condition],
    *,
    batch_tokens: int = 8192,
    run: Run | None = None,
    progress: bool = False,
) -> Comparison:
    """The choices of a model under every condition; as `compare`, with the margin beside the score."""
    conditions = as_conditions(conditions)

    def chosen(condition: Condition) -> pd.DataFrame:
        with model.hooks(*condition.interventions):
            return choice_scores(model, task, batch_tokens=batch_tokens)

    table = each_condition(run, conditions, chosen, progress=progress)
    return Comparison(table, {"model": model.name, "task": repr(task)})


def _rows(samples: Sequence[Sample], values: Sequence[Tensor], greedy: Sequence[bool] | None) -> pd.DataFrame:
    rows = []
    for i, (sample, value) in enumerate(zip(samples, values, strict=True)):
        right = sample.meta["answer"]
        others = torch.cat([value[:right], value[right + 1 :]])
        margin = float(value[right] - others.max())
        answer = sample.meta["options"][int(value.argmax())]
        row = {"sample": i, "target": sample.target, "answer": answer, "score": float(margin > 0), "margin": margin}
        rows.append(row | {"greedy": float("nan") if greedy is None else float(greedy[i])})
    return pd.DataFrame(rows)


def _next_token(
    model: HookedModel, samples: Sequence[Sample], batch_tokens: int
) -> tuple[list[Float[Tensor, " option"]], list[bool]]:
    """Logits of every sample's options, and whether the right one is the likeliest of all tokens."""
    ends = [[tokens[-1] for tokens in _option_tokens(model, sample)] for sample in samples]
    for sample, tokens in zip(samples, ends, strict=True):
        if len(set(tokens)) < len(tokens):
            raise UsageError(
                f"options {', '.join(sample.meta['options'])} do not all end in different tokens "
                f"({', '.join(model.tokenizer.convert_ids_to_tokens(tokens))}); use rule='likelihood'"
            )
    values: dict[int, Tensor] = {}
    greedy: dict[int, bool] = {}
    for places, chosen in batches(samples, lambda sample: len(model.tokens(sample).ids), batch_tokens):
        logits = model.forward(chosen, last=1).logits[:, -1].float().cpu()
        for place, row in zip(places, logits, strict=True):
            values[place] = row[ends[place]]
            greedy[place] = int(row.argmax()) == ends[place][samples[place].meta["answer"]]
    return [values[i] for i in range(len(samples))], [greedy[i] for i in range(len(samples))]


def _likelihoods(
    model: HookedModel, samples: Sequence[Sample], batch_tokens: int, *, mean: bool
) -> list[Float[Tensor, " option"]]:
    """Log-probability of every sample's options."""
    values = [torch.zeros(len(sample.meta["options"])) for sample in samples]
    tokens = [_option_tokens(model, sample) for sample in samples]
    each = [(i, option) for i, sample in enumerate(samples) for option in range(len(sample.meta["options"]))]

    def with_option(pair: tuple[int, int]) -> Sample:
        return _followed(samples[pair[0]], samples[pair[0]].meta["options"][pair[1]])

    for _, chosen in batches(each, lambda pair: len(model.tokens(with_option(pair)).ids), batch_tokens):
        longest = max(len(tokens[i][option]) for i, option in chosen)
        output = model.forward([with_option(pair) for pair in chosen], last=longest + 1)
        for row, (i, option) in zip(output.logits.float(), chosen, strict=True):
            ids = torch.tensor(tokens[i][option], device=row.device)
            written = row[-len(ids) - 1 : -1].log_softmax(-1).gather(1, ids[:, None]).sum()
            values[i][option] = written / len(ids) if mean else written
    return values


def _option_tokens(model: HookedModel, sample: Sample) -> list[tuple[int, ...]]:
    """What each option adds to the tokens of its prompt."""
    before = model.tokens(sample).ids
    found = []
    for option in sample.meta["options"]:
        ids = model.tokens(_followed(sample, option)).ids
        if ids[: len(before)] != before or len(ids) == len(before):
            raise UsageError(
                f"option {option!r} does not stand in tokens of its own behind the prompt {sample.prompt[-40:]!r}; end "
                "the prompt with a word or a colon, and give options in words"
            )
        found.append(ids[len(before) :])
    return found


def _followed(sample: Sample, option: str) -> Sample:
    """The prompt with an option behind it, and a blank between where a chat or the prompt's end does not part them."""
    blank = "" if sample.chat or sample.prompt[-1:].isspace() else " "
    return replace(sample, prompt=sample.prompt + blank + option, marks={})
