"""Vision-aware head divergence of generated answers: how much each head depends on the image, token by token.

He et al. 2024, "Cracking the Code of Hallucination in LVLMs with Vision-aware Head Divergence" (arXiv 2412.13949), eq. 3:
VHD of a head at the step that writes y_t is the L2 distance between its output, before W_O, given the prompt with its
image and the answer so far, and given the same without the image. Eq. 5, Token-VHD: the sum over layers of the k largest
VHD of a layer. The paper does not give k (here a tenth of the heads) nor what becomes of positions when the image goes
(`removal`, see `headscope.images.removal`).

z with the image is kept while the answer is generated; z without it comes from one pass over prompt and answer.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from head_analysis.forced import answered, head_grid, run, token_spans
from head_analysis.vision import divergence
from headscope.errors import UsageError
from headscope.flow import image_tokens
from headscope.generation import Generation
from headscope.hooks import Context, Site, Where
from headscope.images.removal import Removal, image_free
from headscope.model import HookedModel
from headscope.progress import progress_bar
from headscope.samples import Sample, Span, batches
from headscope.scores import HeadScores
from headscope.tables import html_table


@dataclass(frozen=True)
class VHD:
    """Answers to samples with images, and the VHD of every head at every step, in the units of z."""

    steps: tuple[Float[Tensor, "_ layer head"], ...]
    """For each sample, a step a token of its answer (end-of-text left out); NaN for heads that do not exist."""
    answers: tuple[Generation, ...]
    spans: tuple[tuple[Span, ...], ...]
    """For each sample, the characters of the answer that each token writes."""
    meta: Mapping[str, Any]

    def tokens(self, sample: int) -> tuple[str, ...]:
        """Text of each step's token, with the blanks before it."""
        return tuple(self.answers[sample].text[start:end] for start, end in self.spans[sample])

    def scores(self) -> HeadScores:
        """Mean over the steps of each sample; samples without a step are left out, and counted in `meta`."""
        spoken = [steps for steps in self.steps if len(steps)]
        if not spoken:
            raise UsageError(f"none of {len(self.steps)} samples has a step to average; generate longer answers")
        dropped = {"samples_dropped": len(self.steps) - len(spoken)}
        return HeadScores(torch.stack([steps.mean(0) for steps in spoken]), "VHD", {**self.meta, **dropped})

    def __repr__(self) -> str:
        steps = sum(map(len, self.steps))
        return f"VHD({self.meta.get('model', '')!r}, {len(self.steps)} answers, {steps} steps)"

    def plot(self) -> Any:
        """Heatmap of `scores()`, layer by head."""
        return self.scores().plot()

    def _repr_html_(self) -> str:
        steps = sum(map(len, self.steps))
        lengths = pd.DataFrame([{"answers": len(self.steps), "steps": steps}])
        scores = self.scores()._repr_html_() if steps else ""
        return html_table(lengths, f"{self.meta.get('model', '')}: answers that VHD was read from") + scores

    def at(self, chosen: Sequence[Collection[int]]) -> "VHD":
        """The same answers at chosen steps only, a collection of steps for each sample.

        UsageError for a step that an answer does not have.
        """
        if len(chosen) != len(self.steps):
            raise UsageError(f"steps were chosen for {len(chosen)} samples, and there are {len(self.steps)}")
        for sample, (steps, mine) in enumerate(zip(self.steps, chosen, strict=True)):
            wrong = [step for step in mine if not 0 <= step < len(steps)]
            if wrong:
                raise UsageError(f"step {wrong[0]} was chosen, but answer {sample} has {len(steps)} tokens, from 0")
        order = [sorted(mine) for mine in chosen]
        return replace(
            self,
            steps=tuple(steps[mine] for steps, mine in zip(self.steps, order, strict=True)),
            spans=tuple(tuple(spans[i] for i in mine) for spans, mine in zip(self.spans, order, strict=True)),
        )

    def token_vhd(self, k: int | None = None) -> list[Float[Tensor, " _"]]:
        """Token-VHD of every answer's steps; by default k is a tenth of a layer's heads, at least 1."""
        return [token_vhd(steps, k) for steps in self.steps]


def token_vhd(vhd: Float[Tensor, "step layer head"], k: int | None = None) -> Float[Tensor, " step"]:
    """Sum over layers of the `k` largest values of each layer."""
    heads = vhd.shape[-1]
    many = max(1, round(0.1 * heads)) if k is None else k
    if not 1 <= many <= heads:
        raise UsageError(f"k is {many}, but a layer has {heads} heads; use a k from 1 to {heads}")
    return vhd.nan_to_num(0.0).topk(many, -1).values.sum((1, 2))


@torch.no_grad()
def measure_vhd(
    model: HookedModel,
    samples: Sequence[Sample],
    *,
    max_new_tokens: int = 64,
    removal: Removal = "delete",
    stop: Sequence[str] = (),
    batch_tokens: int = 8192,
    progress: bool = False,
) -> VHD:
    """Generates every sample's answer and compares each step's heads with and without the image.

    Interventions in force around the call act with and without the image. Costs the generation, a copy of z a step, and
    one pass of the texts without their images. Raises UsageError for models and samples without images.
    """
    model.require_images("VHD")
    _check_images(samples)
    done: dict[int, tuple[Generation, Tensor]] = {}
    with progress_bar(len(samples), "VHD", shown=progress) as update:
        for places, chosen in batches(samples, lambda sample: len(model.tokens(sample).ids), batch_tokens):
            batch, seen = model.encode(chosen), DecodeZ()
            with model.hooks(seen):
                answers = model.generate_batch(batch, max_new_tokens=max_new_tokens, stop=stop)
            bare = z_without_image(model, batch.inputs, [answer.tokens for answer in answers], removal=removal)
            for i, place in enumerate(places):
                done[place] = (answers[i], _compared(model, seen.of_sample(i, len(answers[i].tokens)), bare[i]))
            update(len(places))
    written = tuple(done[i][0] for i in range(len(samples)))
    spans = tuple(token_spans(answer.tokens, answer.text, model.tokenizer) for answer in written)
    meta = {
        "model": model.name,
        "revision": model.revision,
        "removal": removal,
        "max_new_tokens": max_new_tokens,
        "phase": "decode",
    }
    return VHD(tuple(done[i][1] for i in range(len(samples))), written, spans, meta)


@torch.no_grad()
def vhd_of_answers(
    model: HookedModel,
    inputs: Mapping[str, Tensor],
    answers: Sequence[Sequence[int]],
    *,
    removal: Removal = "delete",
) -> list[Float[Tensor, "_ layer head"]]:
    """VHD of given answers to encoded prompts (padded on the left), at the positions that predict each of their tokens.

    Costs a pass with the image and one without.
    """
    model.require_images("VHD")
    _check_answers(model, answers)
    seen = _LastZ(max(map(len, answers)))
    with model.hooks(seen):
        run(model, answered(model, inputs, [answer[:-1] for answer in answers]))
    bare = z_without_image(model, inputs, answers, removal=removal)
    return [_compared(model, seen.of_sample(i, len(answer)), bare[i]) for i, answer in enumerate(answers)]


@torch.no_grad()
def z_without_image(
    model: HookedModel, inputs: Mapping[str, Tensor], answers: Sequence[Sequence[int]], *, removal: Removal = "delete"
) -> list[dict[int, Float[Tensor, "_ head d_head"]]]:
    """Z of every layer at the positions that predict the answers' tokens, had the prompts had no image."""
    if not any(answers):
        return [{} for _ in answers]
    extended = answered(model, inputs, [answer[:-1] for answer in answers])
    image = torch.isin(extended["input_ids"], torch.tensor(image_tokens(model.hf.config), device=model.device))
    for row, answer in zip(image, answers, strict=True):  # an answer stays, whatever it holds
        row[image.shape[1] - max(0, len(answer) - 1) :] = False
    seen = _LastZ(max(map(len, answers)))
    with model.hooks(seen):
        run(model, image_free(model.hf, extended, image, removal=removal))
    return [seen.of_sample(i, len(answer)) for i, answer in enumerate(answers)]


@dataclass(frozen=True)
class DecodeZ:
    """Keeps z of every query that chooses an answer token, call by call."""

    seen: dict[int, list[Tensor]] = field(default_factory=dict, compare=False, repr=False)

    site: ClassVar[Site] = "z"
    where: ClassVar[Where] = Where(phase="decode")

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        """Keeps z; what the hook is handed is a copy of the chosen queries."""
        self.seen.setdefault(ctx.layer, []).append(act)
        return act

    def of_sample(self, index: int, steps: int) -> dict[int, Float[Tensor, "step head d_head"]]:
        """One sample's z at its first steps; a batch goes on until its last answer ends."""
        return {layer: torch.cat([act[index] for act in acts])[:steps] for layer, acts in self.seen.items()}


@dataclass(frozen=True)
class _LastZ:
    """Keeps z of the last columns of a batch."""

    columns: int
    seen: dict[int, Tensor] = field(default_factory=dict, compare=False, repr=False)

    site: ClassVar[Site] = "z"
    where: ClassVar[Where] = Where()

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        self.seen[ctx.layer] = act[:, -self.columns :].clone()
        return act

    def of_sample(self, index: int, steps: int) -> dict[int, Tensor]:
        return {layer: act[index, act.shape[1] - steps :] for layer, act in self.seen.items()}


def _compared(
    model: HookedModel, seen: Mapping[int, Tensor], bare: Mapping[int, Tensor]
) -> Float[Tensor, "step layer head"]:
    if not bare:
        return torch.zeros(0, model.n_layers, model.n_heads)
    return head_grid(model, {layer: divergence(seen[layer], bare[layer]) for layer in seen})


def _check_images(samples: Sequence[Sample]) -> None:
    blind = [i for i, sample in enumerate(samples) if not sample.images]
    if blind or not samples:
        what = f"sample {blind[0]} has no image" if blind else "there are no samples"
        raise UsageError(f"{what}, so nothing can be compared with and without it; give samples with images")


def _check_answers(model: HookedModel, answers: Sequence[Sequence[int]]) -> None:
    ids = set(image_tokens(model.hf.config))
    for i, answer in enumerate(answers):
        if not answer or ids & set(answer):
            what = "holds an image token" if answer else "is empty"
            raise UsageError(f"answer {i} {what}; give the tokens of a text that the model could write")
