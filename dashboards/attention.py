"""What one token of a prompt attends to, in every head at once: one row a head, never n x n."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from head_analysis.forced import answered, run
from head_analysis.sink_marks import SinkMarks
from head_analysis.sinks import SinkDimensions
from headscope.errors import UsageError
from headscope.heads import Head
from headscope.hooks import Where
from headscope.images.layout import ImageLayout
from headscope.model import HookedModel
from headscope.recording import Keep
from headscope.samples import Sample

MOST_TOKENS = 4096


@dataclass(frozen=True)
class Reading:
    """The rows of one query."""

    query: int
    layers: tuple[int, ...]
    rows: Float[Tensor, "layer head key"]
    """Weights on all tokens; 0 for those that the query cannot see."""
    sinks: Bool[Tensor, "layer token"]

    def row(self, head: Head) -> Float[Tensor, " key"]:
        """What one head attends to; UsageError if there is no such head."""
        if head.layer not in self.layers or head.head >= self.rows.shape[1]:
            raise UsageError(f"{head} was asked for, but this model has no such head; choose one from the list")
        return self.rows[self.layers.index(head.layer), head.head]

    def sinks_at(self, layer: int) -> Bool[Tensor, " token"]:
        """Which tokens are sinks at the input of a layer."""
        return self.sinks[self.layers.index(layer)]

    def mass_on(self, places: Sequence[int]) -> pd.DataFrame:
        """What every head has on some tokens together: layer, head, name, value; as a map is drawn from."""
        mass = self.rows[..., list(places)].sum(-1)
        table = pd.DataFrame(
            [
                {"layer": layer, "head": head, "name": str(Head(layer, head)), "value": float(mass[i, head])}
                for i, layer in enumerate(self.layers)
                for head in range(mass.shape[1])
            ]
        )
        return table.sort_values("value", ascending=False, kind="stable").reset_index(drop=True)


@dataclass(frozen=True)
class Prompt:
    """A sample in tokens, with the answer behind it if there is one."""

    texts: tuple[str, ...]
    """The text of every token."""
    n_prompt: int
    answer: tuple[int, ...]
    groups: dict[str, tuple[int, ...]]
    """Places of marks, and of the image if there is one."""
    layout: ImageLayout | None


@torch.no_grad()
def read_prompt(model: HookedModel, sample: Sample, *, new_tokens: int = 0, stop: Sequence[str] = ()) -> Prompt:
    """The sample's tokens, and those that the model writes on; costs a generation if `new_tokens` are asked for."""
    located = model.tokens(sample)
    if len(located.ids) > MOST_TOKENS:
        raise UsageError(f"the prompt has {len(located.ids)} tokens; this page reads up to {MOST_TOKENS}: shorten it")
    answer = model.generate(sample, max_new_tokens=new_tokens, stop=stop).tokens if new_tokens else ()
    layout = model.image_layout(sample) if sample.images else None
    texts = model.tokenizer.batch_decode([[one] for one in (*located.ids, *answer)])
    groups = {name: tuple(range(*span)) for name, span in located.marks.items()}
    if layout is not None:
        groups["image"] = tuple(layout.places.tolist())
    return Prompt(tuple(map(_shown, texts)), len(located.ids), tuple(answer), groups, layout)


@torch.no_grad()
def read_rows(
    model: HookedModel, sample: Sample, answer: Sequence[int], query: int, dimensions: SinkDimensions
) -> Reading:
    """What the token at place `query` attends to, in one pass; UsageError for a place that does not exist."""
    batch = model.encode([sample])
    length = batch.columns + len(answer)
    if not 0 <= query < length:
        raise UsageError(f"token {query} was asked for, but there are {length}, counted from 0")
    keep, marks = Keep("pattern", Where(positions=(query,))), SinkMarks(dimensions.dims, dimensions.threshold)
    with model.unhooked(), model.hooks(marks, keep):
        run(model, answered(model, batch.inputs, [answer]))
    rows = keep.of_sample(0)[:, :, 0].float().cpu()
    return Reading(query, model.layers(), rows, marks.of_sample(0))


def token_table(
    prompt: Prompt, row: Float[Tensor, " key"], sinks: Bool[Tensor, " token"], query: int, *, columns: int
) -> pd.DataFrame:
    """A row a cell of the token map: place, text, weight, kind (such as query or needle), sink, line, column.

    All tokens of an image share one cell, which has their weights together and the place of the first.
    """
    image = set(prompt.groups.get("image", ())) if prompt.layout is not None else set()
    first = min(image, default=-1)
    weights = row.tolist()
    cells = []
    for place, text in enumerate(prompt.texts):
        if place in image and place != first:
            continue
        here = place == first
        cells.append(
            {
                "place": place,
                "text": f"image ×{len(image)}" if here else text,
                "weight": sum(weights[i] for i in image) if here else weights[place],
                "kind": "query" if here and query in image else _kind(prompt, place, query, image=here),
                "sink": bool(sinks[sorted(image)].any()) if here else bool(sinks[place]),
            }
        )
    table = pd.DataFrame(cells)
    table["line"], table["column"] = np.divmod(np.arange(len(table)), columns)
    return table


def _kind(prompt: Prompt, place: int, query: int, *, image: bool) -> str:
    if place == query:
        return "query"
    if image:
        return "image"
    if place in prompt.groups.get("needle", ()):
        return "needle"
    return "prompt" if place < prompt.n_prompt else "answer"


def _shown(text: str) -> str:
    return text.replace("\n", "⏎").strip() or ("⏎" if "\n" in text else "␣")
