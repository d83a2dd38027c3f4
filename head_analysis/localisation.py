"""Localisation heads: heads that look at an object in the image when the answer names it.

For every word of an answer that names an object with a known box, a head finds it if, of all image tokens, the one that
it attends to most lies in the box. The row is that of the query that predicts the word's first token (`predicting`), or
of the word's last token itself (`word`).

Two controls stand beside a head's share of words found. `chance` is the share of the image's tokens that lie in the box:
what a head that looks anywhere would reach. `elsewhere` is how often the head's token lies in boxes of words about other
images, in proportion to their size: what the head reaches by always looking at the same part of an image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from head_analysis.chosen_rows import ChosenRows
from head_analysis.forced import Continuation, continuation, head_grid, read_forced
from head_analysis.located import Localisation
from head_analysis.object_words import ObjectWord, word_steps
from headscope.encoding import Batch
from headscope.engine.inputs import AttentionInputs
from headscope.errors import UsageError
from headscope.generation import Generation
from headscope.hooks import Context
from headscope.images.layout import Box, ImageLayout
from headscope.model import HookedModel
from headscope.prompting import Hook
from headscope.samples import Sample

Row = Literal["predicting", "word"]
_CONTROLS = 50


def measure_localisation(
    model: HookedModel,
    samples: Sequence[Sample],
    answers: Sequence[Generation | str],
    words: Sequence[Sequence[ObjectWord]],
    *,
    row: Row = "predicting",
    batch_tokens: int = 8192,
    seed: int = 0,
    progress: bool = False,
) -> Localisation:
    """Reads every prompt with its answer in one pass and notes where each head looks at every object word.

    A sample has one image, and the boxes of its objects in `meta["boxes"]`: category -> boxes in pixels. Words without
    a box (hallucinated ones), or whose boxes hold no token's centre, are left out and counted in `meta`. Costs the rows
    of the words.
    """
    model.require_images("localisation")
    if row not in get_args(Row):
        raise UsageError(f"row {row!r} is not known; use one of {', '.join(get_args(Row))}")
    if not len(samples) == len(answers) == len(words):
        raise UsageError(
            f"there are {len(samples)} samples, {len(answers)} answers and words for {len(words)}; give one of each"
        )
    spoken = [continuation(answer, model.tokenizer) for answer in answers]
    named = [_located(sample, mine, text) for sample, mine, text in zip(samples, words, spoken, strict=True)]
    asked = [i for i, mine in enumerate(named) if mine]
    looked: list[tuple[int, _Sight]] = []

    def hooks(batch: Batch, places: Sequence[int]) -> Sequence[Hook]:
        lengths = [len(tokens.ids) for tokens in batch.tokens]
        queries = [
            [length + _query(steps, row) for _, steps in named[asked[place]]]
            for length, place in zip(lengths, places, strict=True)
        ]
        return (ChosenRows(queries, _best_image_token),)

    read = read_forced(
        model,
        [samples[i] for i in asked],
        [spoken[i].tokens for i in asked],
        hooks,
        batch_tokens=batch_tokens,
        progress=progress,
        what="localisation",
    )
    for place in read:
        reader = place.hooks[0]
        assert isinstance(reader, ChosenRows)
        i = asked[place.sample]
        layout = place.batch.layout_of(place.index, model.hf.config, model.processor)
        best = head_grid(model, {layer: numbers.float() for layer, numbers in reader.of_sample(place.index).items()})
        looked += [
            (i, _Sight(word, steps[0], _boxes(samples[i], word), best[w], layout))
            for w, (word, steps) in enumerate(named[i])
        ]
    looked.sort(key=lambda pair: pair[0])
    seen = [(i, sight) for i, sight in looked if sight.inside.any()]
    if not seen:
        total = sum(map(len, words))
        raise UsageError(
            f"none of {total} object words has a box with an image token in it, so nothing can be located; give samples "
            "with meta['boxes'] and answers that name their objects"
        )
    meta = {
        "model": model.name,
        "revision": model.revision,
        "row": row,
        "seed": seed,
        "words_without_box": sum(map(len, words)) - sum(map(len, named)),
        "words_without_token": len(looked) - len(seen),
    }
    return _judged(seen, meta, seed)


@dataclass(frozen=True)
class _Sight:
    """Where every head looks at one word."""

    word: ObjectWord
    step: int
    boxes: Sequence[Box]
    best: Float[Tensor, "layer head"]
    """Which image token, NaN for heads that do not exist."""
    layout: ImageLayout

    @property
    def inside(self) -> Bool[Tensor, " token"]:
        return torch.stack([self.layout.inside(box) for box in self.boxes]).any(0)

    @property
    def _tokens(self) -> Int[Tensor, "layer head"]:
        return self.best.nan_to_num(0).long()

    def found(self) -> Float[Tensor, "layer head"]:
        return self.inside.float()[self._tokens].masked_fill(self.best.isnan(), torch.nan)

    def in_boxes(self, boxes: Float[Tensor, "box 4"]) -> Float[Tensor, "layer head"]:
        """Share of boxes, given in shares of an image's width and height, that the token's centre lies in."""
        size = torch.tensor(self.layout.sizes[0])
        centre = ((self.layout.boxes[:, :2] + self.layout.boxes[:, 2:]) / 2 / size)[self._tokens]
        x, y = (centre[..., axis, None] for axis in (0, 1))
        left, top, right, bottom = boxes.unbind(1)
        within = (left <= x) & (x < right) & (top <= y) & (y < bottom)
        return within.float().mean(-1).masked_fill(self.best.isnan(), torch.nan)

    def box_shares(self) -> Float[Tensor, "box 4"]:
        return torch.tensor(self.boxes, dtype=torch.float32) / torch.tensor(self.layout.sizes[0] * 2)


def _judged(seen: Sequence[tuple[int, _Sight]], meta: Mapping[str, Any], seed: int) -> Localisation:
    rng = np.random.default_rng(seed)
    rows, elsewhere = [], []
    for i, sight in seen:
        others = [other for j, other in seen if j != i]
        drawn = rng.permutation(len(others))[:_CONTROLS]
        inside, tokens = int(sight.inside.sum()), len(sight.layout)
        rows.append(
            {
                "sample": i,
                "category": sight.word.category,
                "step": sight.step,
                "inside": inside,
                "tokens": tokens,
                "chance": inside / tokens,
            }
        )
        boxes = torch.cat([torch.zeros(0, 4), *(others[place].box_shares() for place in drawn)])
        elsewhere.append(sight.in_boxes(boxes))
    found = torch.stack([sight.found() for _, sight in seen])
    return Localisation(pd.DataFrame(rows), found, torch.stack(elsewhere), meta)


def _located(sample: Sample, words: Sequence[ObjectWord], text: Continuation) -> list[tuple[ObjectWord, range]]:
    """The words that have a box, with their steps; UsageError for a sample that cannot have any."""
    if len(sample.images) != 1 or "boxes" not in sample.meta:
        raise UsageError(
            f"a sample has {len(sample.images)} images and {'no ' * ('boxes' not in sample.meta)}boxes in its meta; give "
            "samples with one image and meta['boxes'], category -> boxes (left, top, right, bottom) in pixels"
        )
    return [(word, word_steps(text.spans, word)) for word in words if _boxes(sample, word)]


def _boxes(sample: Sample, word: ObjectWord) -> Sequence[Box]:
    return [tuple(box) for box in sample.meta["boxes"].get(word.category, ())]


def _query(steps: range, row: Row) -> int:
    """Place of the query, counted from the answer's first token."""
    return steps[0] - 1 if row == "predicting" else steps[-1]


def _best_image_token(
    rows: Float[Tensor, "head row key"], x: AttentionInputs, ctx: Context, index: int
) -> Int[Tensor, "row head"]:
    """Number of the image token that each head attends to most."""
    if ctx.image_keys is None:
        raise UsageError("the image tokens of this pass are not known; give samples to a model that takes images")
    return rows[..., ctx.image_keys[index].to(rows.device)].argmax(-1).T
