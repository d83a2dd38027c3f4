"""What `headscope eval` asks, from its options, and from them as text: the same in any process that has the model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from experiments.compare import Condition
from experiments.controls import with_controls
from experiments.judging_work import JudgedTask, judging_work
from headscope.errors import UsageError
from headscope.model import HookedModel
from headscope.sharing import Work
from interventions.named import parse_interventions
from tasks.annotated import AnnotatedImage
from tasks.chair import CHAIR
from tasks.coco import read_coco
from tasks.pope import POPE, Split
from tasks.scenes import scene_captions, scene_pope
from tasks.synonyms import coco_synonyms, read_synonyms

Benchmark = Literal["pope", "chair"]

_PATHS = ("annotations", "images", "captions", "synonyms")


@dataclass(frozen=True)
class JudgingSettings:
    """What is asked, of the options of a command, and under which conditions."""

    benchmark: Benchmark
    asked: Mapping[str, Any]
    operators: Sequence[str]
    draws: int
    max_new_tokens: int | None
    batch_tokens: int

    def tasks(self) -> dict[str, JudgedTask]:
        """The tasks of the benchmark by name."""
        asked: dict[str, Any] = dict(self.asked)
        asked |= {key: Path(asked[key]) for key in _PATHS if asked.get(key) is not None}
        return dict(_pope_tasks(**asked)) if self.benchmark == "pope" else {"captions": captions_task(**asked)}


def conditions_of(model: HookedModel, texts: Sequence[str], draws: int) -> list[Condition]:
    """The baseline, and each text's interventions with their random controls; they are tried on the model at once."""
    conditions = [Condition("none")]
    for text in texts:
        interventions = parse_interventions(text)
        with model.hooks(*interventions):
            pass  # refuses what the model cannot do before anything is run
        conditions += with_controls(model, text, interventions, draws=draws)
    return conditions


def judging_from(model: HookedModel, facts: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Work]:
    """Makes the work of judging one task, of what another process tells of it."""
    settings = JudgingSettings(**facts)
    tasks, conditions = settings.tasks(), conditions_of(model, settings.operators, settings.draws)

    def work(told: Mapping[str, Any]) -> Work:
        return judging_work(
            model,
            tasks[told["name"]],
            conditions,
            name=told["name"],
            max_new_tokens=settings.max_new_tokens,
            batch_tokens=settings.batch_tokens,
        ).work

    return work


def _pope_tasks(
    split: str,
    annotations: Path | None,
    images: Path | None,
    per_image: int | None,
    limit: int,
    seed: int,
    prior: str,
) -> dict[str, POPE]:
    """A task for each split, of the user's annotated images, or of synthetic scenes where none are given."""
    splits: tuple[Split, ...] = tuple(one for one in get_args(Split) if split in (one, "all"))
    if annotations is None:
        violating, asked = prior == "violating", per_image or 2
        return {one: scene_pope(limit, one, seed=seed, violating=violating, per_image=asked) for one in splits}
    annotated = _annotated(annotations, images, None, limit)
    return {one: POPE(annotated, one, per_image or 3, seed) for one in splits}


def captions_task(
    annotations: Path | None,
    images: Path | None,
    captions: Path | None,
    synonyms: Path | None,
    prompt: str,
    limit: int,
    seed: int,
    prior: str,
) -> CHAIR:
    """Captions of the user's annotated images, or of synthetic scenes where none are given."""
    if annotations is None:
        return scene_captions(limit, seed=seed, violating=prior == "violating")
    table = coco_synonyms() if synonyms is None else read_synonyms(synonyms)
    return CHAIR(_annotated(annotations, images, captions, limit), table, prompt)


def _annotated(annotations: Path, images: Path | None, captions: Path | None, limit: int) -> tuple[AnnotatedImage, ...]:
    if images is None:
        raise UsageError(f"--annotations {annotations} is given without --images, the folder that holds its images")
    return tuple(read_coco(annotations, images, captions_json=captions, limit=limit))
