"""Reads samples once and measures their sinks; what comes out is `head_analysis.sink_summary`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from head_analysis.chosen_rows import ChosenRows
from head_analysis.forced import head_grid, read_forced
from head_analysis.mass_summary import MassSummary, mean_over
from head_analysis.sink_marks import SinkMarks
from head_analysis.sink_summary import GROUPS, SinkReport
from head_analysis.sinks import sink_dimensions
from headscope.encoding import Batch
from headscope.engine.inputs import AttentionInputs
from headscope.errors import UsageError
from headscope.flow import image_tokens
from headscope.hooks import Context
from headscope.model import HookedModel
from headscope.prompting import Hook
from headscope.samples import Sample
from headscope.scores import HeadScores


def sink_report(
    model: HookedModel,
    samples: Sequence[Sample | str],
    *,
    dims: tuple[int, ...] | None = None,
    tau: float | None = None,
    batch_tokens: int = 8192,
    progress: bool = False,
) -> SinkReport:
    """Reads every sample in one pass and measures its sinks.

    Attention mass is averaged over the text behind the image, or over all tokens but the first where there is no image;
    contributions are those to the last token. `dims` and `tau` replace the model's own sink dimensions and threshold.
    Costs about one more attention call a layer, and memory for the values' norms.
    """
    if not samples:
        raise UsageError("there are no samples to look for sinks in; give at least one")
    asked = [Sample(sample) if isinstance(sample, str) else sample for sample in samples]
    found = sink_dimensions(model, tau=tau)
    dimensions = found if dims is None else replace(found, dims=dims)
    weights = {layer: model.output_weights(layer) for layer in model.layers()}

    def hooks(batch: Batch, places: Sequence[int]) -> Sequence[Hook]:
        marks = SinkMarks(dimensions.dims, dimensions.threshold)
        last = [[len(tokens.ids) - 1] for tokens in batch.tokens]
        mass = MassSummary(partial(_sink_groups, marks=marks), _mean_over_text)
        return marks, mass, ChosenRows(last, partial(_by_group, marks=marks, weights=weights))

    mass: dict[int, Tensor] = {}
    groups: dict[int, Tensor] = {}
    tokens: list[pd.DataFrame] = []
    layers: list[Tensor] = []
    nothing: list[tuple[int, ...]] = [()] * len(asked)
    for place in read_forced(model, asked, nothing, hooks, batch_tokens=batch_tokens, progress=progress, what="sinks"):
        marks, reader, rows = place.hooks
        assert isinstance(marks, SinkMarks)
        assert isinstance(reader, MassSummary)
        assert isinstance(rows, ChosenRows)
        mass[place.sample] = head_grid(model, reader.of_sample(place.index))
        groups[place.sample] = head_grid(model, rows.of_sample(place.index))
        ids = place.batch.tokens[place.index].ids
        sink = marks.of_sample(place.index)[:, -len(ids) :]
        image = torch.isin(torch.tensor(ids), torch.tensor(image_tokens(model.hf.config)))
        tokens.append(_token_rows(model, place.sample, ids, image, sink))
        layers.append(torch.stack([(sink & ~image).sum(1), (sink & image).sum(1)]))
    meta = {
        "model": model.name,
        "revision": model.revision,
        "dims": list(dimensions.dims),
        "tau": dimensions.threshold,
    }
    numbers = torch.stack([mass[i] for i in range(len(asked))], 1)
    both = torch.stack([groups[i] for i in range(len(asked))])  # sample, number, layer, head
    apart = both.reshape(len(both), 2, len(GROUPS), *both.shape[2:]).permute(1, 0, 3, 4, 2)
    text_sinks, image_sinks = torch.stack(layers).double().mean(0).tolist()
    return SinkReport(
        dimensions,
        pd.concat(tokens).sort_values(["sample", "place"]).reset_index(drop=True),
        pd.DataFrame({"layer": model.layers(), "text": text_sinks, "image": image_sinks}),
        HeadScores(numbers[0], "attention on sinks", meta),
        HeadScores(numbers[1], "attention on image sinks", meta),
        apart[0],
        apart[1],
        meta,
    )


def _sink_groups(ctx: Context, *, marks: SinkMarks) -> Bool[Tensor, "batch key group"]:
    sink = marks.found[ctx.layer]
    return torch.stack([sink, sink & _images(ctx)], -1)


def _images(ctx: Context) -> Bool[Tensor, "batch key"]:
    return torch.zeros_like(ctx.key_positions, dtype=torch.bool) if ctx.image_keys is None else ctx.image_keys


def _mean_over_text(mass: Float[Tensor, "batch head query group"], ctx: Context) -> Float[Tensor, "batch head group"]:
    queries = ctx.positions >= 1
    if ctx.image_end is not None:
        seeing = (ctx.image_end > 0).unsqueeze(1)
        queries = torch.where(seeing, ctx.in_region("after_image"), queries)
    if not queries.any(1).all():
        raise UsageError(
            "a sample has no text behind its image, or only one token, so no query's attention can be averaged; give "
            "longer prompts"
        )
    return mean_over(mass, queries)


def _by_group(
    rows: Float[Tensor, "head row key"],
    x: AttentionInputs,
    ctx: Context,
    index: int,
    *,
    marks: SinkMarks,
    weights: Mapping[int, Float[Tensor, "head d_head d_model"]],
) -> Float[Tensor, "number head"]:
    """Attention, then contribution, of one token of each group to the only row; NaN for groups without a token."""
    attention = rows[:, 0]
    contribution = attention * value_norms(x.value[0], weights[ctx.layer])
    real, sink, image = ctx.key_positions[index] >= 0, marks.found[ctx.layer][index], _images(ctx)[index]
    members = {
        "text sink": sink & ~image,
        "image sink": sink & image,
        "other text": real & ~sink & ~image,
        "other image": image & ~sink,
    }
    numbers = [values.cpu()[:, members[group]].mean(-1) for values in (attention, contribution) for group in GROUPS]
    return torch.stack(numbers)


def value_norms(
    value: Float[Tensor, "kv_head key d_head"], weights: Float[Tensor, "head d_head d_model"]
) -> Float[Tensor, "head key"]:
    """Norm of v_j W_O for every head and key, without a state of d_model for each of them."""
    heads = value.float().repeat_interleave(len(weights) // len(value), 0)
    wide = weights.float()
    gram = wide @ wide.transpose(1, 2)
    return (heads @ gram * heads).sum(-1).clamp_min(0).sqrt()


def _token_rows(
    model: HookedModel,
    sample: int,
    ids: Sequence[int],
    image: Bool[Tensor, " token"],
    sink: Bool[Tensor, "layer token"],
) -> pd.DataFrame:
    number = torch.where(image, image.cumsum(0), (~image).cumsum(0)) - 1
    return pd.DataFrame(
        {
            "sample": sample,
            "place": range(len(ids)),
            "token": list(ids),
            "text": model.tokenizer.convert_ids_to_tokens(list(ids)),
            "kind": ["image" if one else "text" for one in image.tolist()],
            "number": number.tolist(),
            "layers": sink.sum(0).tolist(),
        }
    )
