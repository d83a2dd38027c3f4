"""Captions token by token: which words name objects, which of these are made up, and how much each needs the image."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from dashboards.reading import run_table
from dashboards.sink_data import whole
from experiments.vhd_by_token import read_by_token
from head_analysis.object_vhd import kinds_of
from head_analysis.object_words import object_words
from head_analysis.vhd import measure_vhd
from headscope.errors import UsageError
from headscope.heads import Head
from headscope.model import HookedModel
from headscope.runs import Run
from tasks.scene_world import scene
from tasks.scenes import scene_captions

LIVE = "zoo:scenes"
SCENES = 64
"""Scenes that can be asked for, of each kind."""
TOKEN_VHD, MEAN = "Token-VHD", "mean of all heads"
_SCENE = re.compile(r"(violating|usual)/\d{1,6}/\d{1,6}", re.ASCII)
_KINDS = ("correct", "hallucinated", "continued", "other")


@dataclass(frozen=True)
class Caption:
    """A generated caption; `kinds` say what each token does, as in `head_analysis.object_words`."""

    tokens: tuple[str, ...]
    kinds: tuple[str, ...]
    token_vhd: tuple[float, ...]
    invented: str
    """Objects that are named and not in the image."""
    vhd: Float[Tensor, "step layer head"] | None = None
    """None where only Token-VHD is known."""
    lacks: str = ""
    """Why only Token-VHD is known, and what to do."""

    @property
    def choices(self) -> tuple[str, ...]:
        """What `amounts` knows: Token-VHD, and where every head was kept their mean and each that exists."""
        if self.vhd is None:
            return (TOKEN_VHD,)
        exist = ~self.vhd.isnan().all(0)
        return (TOKEN_VHD, MEAN, *(f"L{layer}H{head}" for layer, head in exist.nonzero().tolist()))

    def amounts(self, by: str) -> Float[Tensor, " step"]:
        """Token-VHD, the mean of all heads, or the VHD of the head that `by` names; UsageError where it is not known."""
        if by == TOKEN_VHD:
            return torch.tensor(self.token_vhd)
        if self.vhd is None:
            raise UsageError(
                f"the VHD of {by} at every token is not known: {self.lacks or f'only {TOKEN_VHD} was kept'}"
            )
        if by == MEAN:
            return self.vhd.flatten(1).nanmean(1)
        head = Head.parse(by)
        if head.layer >= self.vhd.shape[1] or head.head >= self.vhd.shape[2]:
            raise UsageError(f"{head} was asked for, but this model has no such head; choose one from the list")
        return self.vhd[:, head.layer, head.head]

    def table(self, by: str) -> pd.DataFrame:
        """A row a token: token, kind, and the amount that `by` names."""
        return pd.DataFrame({"token": self.tokens, "kind": self.kinds, by: self.amounts(by).tolist()})


def saved_captions(run: Run) -> pd.DataFrame:
    """A row a caption: image_id, caption, invented; empty where a run holds none."""
    if not {"captions", "caption_tokens"} <= set(run.table_names()):
        return pd.DataFrame(columns=["image_id", "caption", "invented"])
    table = run_table(run, "captions")
    if not set(table.columns) >= {"image_id", "caption", "invented"}:
        raise UsageError(f"the captions of {run.path.name} lack an image, a text or what is invented; make them again")
    if table[["image_id", "caption", "invented"]].isna().any(axis=None):
        raise UsageError(f"the captions of {run.path.name} have gaps; make them again")
    return table.astype({"image_id": str, "caption": str, "invented": str})


def saved_caption(run: Run, captions: pd.DataFrame, sample: int) -> Caption:
    """One caption of a run; UsageError for one that it does not hold."""
    with whole(run, "caption_tokens"):
        table = run_table(run, "caption_tokens")
        rows = table[table["sample"] == sample].sort_values("step")
        if rows.empty:
            raise UsageError(f"caption {sample} has no tokens in {run.path.name}; choose another")
        kinds = tuple(kind if kind in _KINDS else "other" for kind in rows["kind"])
        amounts = tuple(rows["token_vhd"].astype(float))
        vhd, lacks = _by_token(run, sample, len(rows))
        return Caption(tuple(map(str, rows["token"])), kinds, amounts, captions["invented"].iloc[sample], vhd, lacks)


def _by_token(run: Run, sample: int, tokens: int) -> tuple[Float[Tensor, "step layer head"] | None, str]:
    """VHD of every head, or else why there is none: Token-VHD is shown without it."""
    try:
        vhd = read_by_token(run, sample)
    except UsageError as error:
        return None, str(error)
    if len(vhd) != tokens:
        return None, f"{run.path} keeps VHD of {len(vhd)} tokens of a caption of {tokens}; make the run again"
    return vhd, ""


def first_telling(captions: pd.DataFrame) -> int:
    """The first caption that names something made up, else the first."""
    return next((i for i, invented in enumerate(captions["invented"]) if invented.strip()), 0)


def image_of(image_id: str) -> Image.Image | None:
    """The picture of a synthetic scene, drawn from its name; None for any other image, of which a run keeps no copy."""
    if _SCENE.fullmatch(image_id) is None:
        return None
    return scene(image_id, violating=image_id.startswith("violating")).image()


def live_caption(model: HookedModel, number: int, *, violating: bool) -> tuple[Caption, Image.Image]:
    """What the model writes about a scene, and the VHD of every head at every token, with the picture.

    Costs a generation and one pass without the image.
    """
    if not 0 <= number < SCENES:
        raise UsageError(f"scene {number} was asked for; choose one from 0 to {SCENES - 1}")
    task = scene_captions(number + 1, seed=0, violating=violating)
    sample = task.samples(model.processor)[number]
    found = measure_vhd(model, [sample], max_new_tokens=task.answer_tokens, stop=task.stop)
    words = object_words(task.mentions(found.answers[0].text), sample.meta["truth"])
    if not found.tokens(0):
        raise UsageError("the model wrote nothing about this scene; choose another")
    invented = ", ".join(sorted({word.category for word in words if word.hallucinated}))
    kinds = tuple(map(str, kinds_of(found, [words])[0]))
    amounts = tuple(found.token_vhd()[0].tolist())
    return Caption(found.tokens(0), kinds, amounts, invented, found.steps[0]), sample.images[0]


def said_of(caption: Caption, by: str) -> str:
    """The strip in words: range, and the object words apart."""
    values = caption.amounts(by)
    named = {kind: _words(caption, kind) for kind in ("correct", "hallucinated")}
    right = f"; objects that are there: {named['correct']}" if named["correct"] else ""
    wrong = f"; made up: {named['hallucinated']}" if named["hallucinated"] else "; nothing is made up"
    return (
        f"{by} over {len(caption.tokens)} tokens of the caption, {float(values.min()):.3g} to "
        f"{float(values.max()):.3g}{right}{wrong}"
    )


def _words(caption: Caption, kind: str) -> str:
    pairs: Sequence[tuple[str, str]] = list(zip(caption.tokens, caption.kinds, strict=True))
    return ", ".join(f"“{token.strip()}”" for token, mine in pairs if mine == kind)
