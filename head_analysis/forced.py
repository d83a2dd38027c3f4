"""Answers read behind their prompts in one pass each, and what every answer token writes of the text."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headscope.encoding import Batch
from headscope.errors import UsageError
from headscope.generation import Generation
from headscope.images.removal import continued_inputs
from headscope.model import HookedModel
from headscope.progress import progress_bar
from headscope.prompting import Hook
from headscope.samples import Sample, Span, batches


@dataclass(frozen=True)
class Continuation:
    """An answer in tokens, and the span of its text that each token writes (empty for tokens that write nothing)."""

    text: str
    tokens: tuple[int, ...]
    spans: tuple[Span, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """The text of every token."""
        return tuple(self.text[start:end] for start, end in self.spans)


def continuation(answer: Generation | str, tokenizer: Any) -> Continuation:
    """A model's own answer, or a text that stands behind the prompt as it is given, leading blank included.

    UsageError for a text without tokens, and for one whose tokenizer cannot say which characters a token covers.
    """
    if isinstance(answer, Generation):
        return Continuation(answer.text, answer.tokens, token_spans(answer.tokens, answer.text, tokenizer))
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(
            f"{type(tokenizer).__name__} cannot say which characters a token covers; load a fast tokenizer "
            "(AutoProcessor.from_pretrained(..., use_fast=True))"
        )
    made = tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True)
    if not made["input_ids"]:
        raise UsageError(f"the answer {answer!r} has no tokens; give at least one word")
    return Continuation(answer, tuple(made["input_ids"]), tuple(tuple(span) for span in made["offset_mapping"]))


def token_spans(tokens: Sequence[int], text: str, tokenizer: Any) -> tuple[Span, ...]:
    """Span of characters that each token adds to `text`, which is what the tokenizer makes of all of them.

    A letter made of several tokens belongs to the one that completes it.
    """
    if not tokens:
        return ()
    written = tokenizer.batch_decode([tokens[: i + 1] for i in range(len(tokens))], skip_special_tokens=True)
    ends = [_shared(part, text) for part in written]
    latest = [max(ends[: i + 1]) for i in range(len(ends))]  # a prefix may end in a broken letter that goes away
    return tuple(zip([0, *latest[:-1]], latest, strict=True))


def _shared(part: str, text: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(part, text, strict=False)) if a != b), min(len(part), len(text)))


def answered(model: HookedModel, inputs: Mapping[str, Tensor], answers: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Inputs with each sample's answer behind its prompt, told apart from it where the model does so."""
    made = continued_inputs(inputs, answers)
    if model.hf.config.model_type == "paligemma" and "token_type_ids" in made:
        # A PaliGemma prompt sees itself in both directions; 1 marks what sees only what came before.
        for row, answer in zip(made["token_type_ids"], answers, strict=True):
            row[len(row) - len(answer) :] = 1
    return made


def run(model: HookedModel, inputs: Mapping[str, Tensor]) -> None:
    """One pass for what hooks see of it; logits of the last token only, where the model can leave the others out."""
    few = {"logits_to_keep": 1} if "logits_to_keep" in model.forward_arguments else {}
    places = {} if "position_ids" in inputs else model.positions_of(inputs["attention_mask"])
    model.hf(**inputs, **places, **few, use_cache=False)


@dataclass(frozen=True)
class Place:
    """One sample in the batch it was run in."""

    sample: int
    index: int
    """Row in the batch."""
    batch: Batch
    hooks: Sequence[Hook]
    """The hooks that saw the batch."""


def read_forced(
    model: HookedModel,
    samples: Sequence[Sample],
    answers: Sequence[Sequence[int]],
    hooks: Callable[[Batch, Sequence[int]], Sequence[Hook]],
    *,
    batch_tokens: int,
    progress: bool,
    what: str,
) -> Iterator[Place]:
    """Runs every prompt with its answer behind it (none: the prompt alone), a batch at a time, and says where it was.

    `hooks` makes the hooks of a batch from it and the places of its samples.
    """
    with progress_bar(len(samples), what, shown=progress) as update:
        for places, _ in batches(
            range(len(samples)), lambda i: len(model.tokens(samples[i]).ids) + len(answers[i]), batch_tokens
        ):
            batch = model.encode([samples[i] for i in places])
            made = hooks(batch, places)
            with torch.no_grad(), model.hooks(*made):
                run(model, answered(model, batch.inputs, [answers[place] for place in places]))
            for index, place in enumerate(places):
                yield Place(place, index, batch, made)
            update(len(places))


def head_grid(
    model: HookedModel, layers: Mapping[int, Float[Tensor, "*rest head"]]
) -> Float[Tensor, "*rest layer head"]:
    """Values of every layer side by side; NaN for heads that do not exist."""
    first = next(iter(layers.values()))
    grid = torch.full((*first.shape[:-1], model.n_layers, model.n_heads), torch.nan)
    for layer, values in layers.items():
        grid[..., layer, : values.shape[-1]] = values.float().cpu()
    return grid
