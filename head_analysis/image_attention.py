"""How much attention every head gives the image: from text, from the image itself, and past its sinks.

`text_to_image` and `image_to_image`: attention mass on image tokens, mean over the queries behind the image (or those
that choose an answer's tokens), and over image tokens. `image_centric`: share of the former queries at which the head
meets the two conditions of Kang et al. 2025 (VAR, arXiv 2503.03321): it gives the image at least `min_image` of its
attention, and at least `rho` of that lies on image tokens which are no sinks. Under a causal mask an early query sees
little but the image, so compare heads within a model and a prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from head_analysis.forced import head_grid, read_forced
from head_analysis.mass_summary import MassSummary, mean_over
from head_analysis.sink_marks import SinkMarks
from head_analysis.sinks import relative_threshold, sink_dimensions
from headscope.encoding import Batch
from headscope.errors import UsageError
from headscope.generation import Generation
from headscope.hooks import Context
from headscope.model import HookedModel
from headscope.prompting import Hook
from headscope.samples import Sample
from headscope.scores import HeadScores
from headscope.tables import html_table

_NAMES = ("text_to_image", "image_to_image", "image_centric")


@dataclass(frozen=True)
class ImageAttention:
    """Attention of every head to the image, one value a sample."""

    text_to_image: HeadScores
    image_to_image: HeadScores
    image_centric: HeadScores

    def plot(self) -> Any:
        """Heatmap of the attention from text to image, layer by head."""
        return self.text_to_image.plot()

    def _repr_html_(self) -> str:
        best = self.text_to_image.top(min(10, len(self.text_to_image.heads)))
        columns = {_NAMED[name]: getattr(self, name).values for name in _NAMES}
        rows = [{"head": str(head), **{name: float(of[head]) for name, of in columns.items()}} for head in best]
        model, n = self.text_to_image.meta.get("model", ""), self.text_to_image.n
        return html_table(pd.DataFrame(rows), f"attention to the image, {model}: top {len(best)} heads, n = {n}")


def measure_image_attention(
    model: HookedModel,
    samples: Sequence[Sample],
    *,
    answers: Sequence[Generation | Sequence[int]] | None = None,
    steps: Sequence[Sequence[int]] | None = None,
    min_image: float = 0.2,
    rho: float = 0.5,
    dims: tuple[int, ...] | None = None,
    tau: float | None = None,
    batch_tokens: int = 8192,
    progress: bool = False,
) -> ImageAttention:
    """Reads every prompt (with its answer, if given) in one pass; costs about one more attention call a layer.

    With `answers`, the text queries are those that choose their tokens, or the chosen `steps` of them. Sink dimensions
    and threshold are the model's own unless given. Raises UsageError for samples without an image, without text behind
    it, or without a chosen step.
    """
    model.require_images("attention to images")
    for name, value in {"min_image": min_image, "rho": rho}.items():
        if not 0 <= value <= 1:
            raise UsageError(f"{name} is {value}, but it is a share of attention; give a number from 0 to 1")
    tokens = _tokens(samples, answers)
    chosen = _chosen(tokens, answers is not None, steps)
    limit = relative_threshold(model.d_model) if tau is None else tau
    sink_dims = sink_dimensions(model, tau=limit).dims if dims is None else dims

    def hooks(batch: Batch, places: Sequence[int]) -> Sequence[Hook]:
        marks = SinkMarks(sink_dims, limit)
        wanted = None if chosen is None else [chosen[place] for place in places]
        summary = partial(_summary, wanted=wanted, min_image=min_image, rho=rho)
        return marks, MassSummary(partial(_groups, marks=marks), summary)

    found: dict[int, Float[Tensor, "number layer head"]] = {}
    for place in read_forced(
        model, samples, tokens, hooks, batch_tokens=batch_tokens, progress=progress, what="image attention"
    ):
        reader = place.hooks[1]
        assert isinstance(reader, MassSummary)
        found[place.sample] = head_grid(model, reader.of_sample(place.index))
        _check_queries(place.sample, reader.of_sample(place.index))
    meta = {
        "model": model.name,
        "revision": model.revision,
        "queries": "behind the image" if chosen is None else "choosing answer tokens",
    }
    centric = {"min_image": min_image, "rho": rho, "dims": list(sink_dims), "tau": limit}
    numbers = torch.stack([found[i] for i in range(len(samples))], 1)
    scores = [
        HeadScores(numbers[i], _NAMED[name], meta | (centric if name == "image_centric" else {}))
        for i, name in enumerate(_NAMES)
    ]
    return ImageAttention(*scores)


_NAMED: Mapping[str, str] = {
    "text_to_image": "attention from text to image",
    "image_to_image": "attention from image to image",
    "image_centric": "share of queries at which image-centric",
}


def image_centric(
    image: Float[Tensor, "*query"], useful: Float[Tensor, "*query"], *, min_image: float = 0.2, rho: float = 0.5
) -> Bool[Tensor, "*query"]:
    """The two conditions, from the mass on the image and the part of it that is not on sinks."""
    return (image >= min_image) & (useful >= rho * image) & (useful > 0)


def _groups(ctx: Context, *, marks: SinkMarks) -> Bool[Tensor, "batch key group"]:
    image = _known(ctx.image_keys)
    return torch.stack([image, image & ~marks.found[ctx.layer]], -1)


def _summary(
    mass: Float[Tensor, "batch head query group"],
    ctx: Context,
    *,
    wanted: Sequence[range | Sequence[int]] | None,
    min_image: float,
    rho: float,
) -> Float[Tensor, "batch head number"]:
    queries = ctx.in_region("after_image") if wanted is None else _predicting(ctx, wanted)
    centric = image_centric(mass[..., 0], mass[..., 1], min_image=min_image, rho=rho).float()
    numbers = (
        mean_over(mass[..., 0], queries),
        mean_over(mass[..., 0], _known(ctx.image)),
        mean_over(centric, queries),
    )
    return torch.stack(numbers, -1)


def _predicting(ctx: Context, wanted: Sequence[range | Sequence[int]]) -> Bool[Tensor, "batch query"]:
    """Queries that choose the wanted tokens, counted from the end of each sample: -1 is the newest query."""
    queries = torch.zeros_like(ctx.positions, dtype=torch.bool)
    for row, columns in zip(queries, wanted, strict=True):
        row[[len(row) + column for column in columns]] = True
    return queries


def _chosen(
    tokens: Sequence[Sequence[int]], answered: bool, steps: Sequence[Sequence[int]] | None
) -> list[list[int]] | None:
    """Columns from the end that choose the tokens asked for; None for all text behind the image."""
    if not answered:
        if steps is not None:
            raise UsageError("steps were chosen without answers; give the answers that the steps belong to")
        return None
    every = [range(len(answer)) for answer in tokens] if steps is None else steps
    for i, (mine, answer) in enumerate(zip(every, tokens, strict=True)):
        if not mine or not all(0 <= step < len(answer) for step in mine):
            raise UsageError(
                f"steps {list(mine)} were chosen of answer {i}, which has {len(answer)} tokens; choose at least one of "
                "them, counted from 0, or leave the sample out"
            )
    return [[step - len(answer) - 1 for step in mine] for mine, answer in zip(every, tokens, strict=True)]


def _tokens(samples: Sequence[Sample], answers: Sequence[Generation | Sequence[int]] | None) -> list[tuple[int, ...]]:
    if not samples:
        raise UsageError("there are no samples to measure; give at least one with an image")
    if answers is None:
        return [()] * len(samples)
    if len(answers) != len(samples):
        raise UsageError(f"{len(answers)} answers were given for {len(samples)} samples; give one for each")
    return [answer.tokens if isinstance(answer, Generation) else tuple(answer) for answer in answers]


def _check_queries(sample: int, numbers: Mapping[int, Float[Tensor, "number head"]]) -> None:
    if any(values.isnan().any() for values in numbers.values()):
        raise UsageError(f"sample {sample} has no image, or no text behind it, so there is no attention to measure")


def _known(image: Any) -> Tensor:
    if image is None:
        raise UsageError("the image tokens of this pass are not known; give samples to a model that takes images")
    return image
