"""What a command asks: `--task` and its options, as samples that the model can do, or an error before anything runs."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from experiments.answer_metrics import answers_of
from experiments.options import parse_numbers
from headscope.answers import asked_of
from headscope.errors import UsageError
from headscope.model import HookedModel
from headscope.samples import Sample, Task
from tasks import IOI, ColoredObjects, Needle, SecretChoices, Subset, ioi, needle_pairs
from tasks.needle_pairs import NeedlePairs
from tasks.pairs import PairTask, read_pairs

TASKS = ("needle", "choices", "ioi", "colored_objects")

TaskName = Annotated[
    str,
    typer.Option(
        "--task",
        help=f"{', '.join(TASKS)}, or a JSONL file of your own: prompt, target, foil, counterfactual on each line.",
    ),
]
Lengths = Annotated[str, typer.Option(help="Tokens of the prompts (needle, choices).")]
Depths = Annotated[int, typer.Option(help="Depths of the fact that is asked for (needle).", min=1)]
Repeats = Annotated[int, typer.Option(help="Prompts for each length and depth (needle).", min=1)]
Needles = Annotated[
    int, typer.Option(help="Facts in a text; from 2 on another one's answer is the wrong one (needle).", min=1)
]
Haystack = Annotated[Path | None, typer.Option(help="Text file, or folder of .txt files, to hide needles in.")]
Prompts = Annotated[int, typer.Option(help="Prompts (choices, ioi, colored_objects).", min=1)]
Choose = Annotated[int, typer.Option("--options", help="Answers to choose from (choices).", min=2)]
Corrupted = Annotated[
    str | None,
    typer.Option(
        "--counterfactual",
        help="How prompts are corrupted: abc or swap (ioi), asked or told (needle: the name in the question or text).",
    ),
]


@dataclass(frozen=True)
class Asking:
    """The task that was asked for, and its options."""

    name: str
    lengths: str = "128"
    depths: int = 5
    repeats: int = 4
    needles: int = 2
    haystack: Path | None = None
    prompts: int = 32
    options: int = 2
    counterfactual: str | None = None
    seed: int = 1
    limit: int | None = None

    def task(self) -> Task:
        """The task; UsageError for a name that is neither known nor a file."""
        lengths = parse_numbers(self.lengths, "lengths")
        corrupted: dict[str, Any] = {"counterfactual": self.counterfactual} if self.counterfactual else {}
        known = {"needle": get_args(needle_pairs.Counterfactual), "ioi": get_args(ioi.Counterfactual)}
        if corrupted and self.counterfactual not in known.get(self.name, (self.counterfactual,)):
            raise UsageError(
                f"--counterfactual {self.counterfactual!r} is none of {self.name}; use {' or '.join(known[self.name])}"
            )
        if corrupted and self.name not in known:
            raise UsageError(
                f"--counterfactual is a choice of needle and ioi; --task {self.name} has none, so leave it out"
            )
        if self.name == "needle":
            asked = (lengths, self.depths, self.repeats, self.needles)
            if self.needles == 1 and not corrupted:
                return Needle(*asked, haystack=self.haystack, seed=self.seed)
            return NeedlePairs(*asked, haystack=self.haystack, seed=self.seed, **corrupted)
        if self.name == "choices":
            if len(lengths) > 1:
                raise UsageError(f"--lengths {self.lengths} are several, and choices have one; give one")
            return SecretChoices(self.prompts, self.options, lengths[0], seed=self.seed)
        if self.name == "ioi":
            return IOI(self.prompts, seed=self.seed, **corrupted)
        if self.name == "colored_objects":
            return ColoredObjects(self.prompts, self.seed)
        if Path(self.name).suffix != ".jsonl":
            raise UsageError(
                f"--task {self.name!r} is not known; use {', '.join(TASKS)}, or a file that ends in .jsonl"
            )
        return read_pairs(self.name)

    def facts(self) -> dict[str, Any]:
        """What decides the samples, for a run's config; of a file, what it holds counts."""
        facts = asdict(self)
        if (file := Path(self.name)).is_file():
            facts["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        return facts


@dataclass(frozen=True)
class Asked:
    """A task's samples for a model, and their counterfactuals where the task has some."""

    name: str
    task: Task
    samples: tuple[Sample, ...]
    counterfactuals: tuple[Sample, ...] = ()

    @property
    def pairs(self) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
        """Clean and corrupted samples; UsageError where there are none of the second kind."""
        if not self.counterfactuals:
            raise UsageError(
                f"--task {self.name} has no counterfactual prompts, and patching needs pairs; use needle with "
                "--needles 2 or more, ioi, colored_objects, or a file in which every line has a counterfactual"
            )
        return self.samples, self.counterfactuals


def ask(model: HookedModel, asking: Asking) -> Asked:
    """The samples for this model, none of them empty or longer than its context; UsageError names the first that is."""
    if model.tokenizer is None:
        raise UsageError(
            f"{model.name} came without a tokenizer, so it cannot be asked in words; save its tokenizer beside it"
        )
    task = asking.task()
    pairs: tuple[Sample, ...] = ()
    try:
        samples = tuple(_spaced(sample) for sample in task.samples(model.tokenizer))[: asking.limit]
        if isinstance(task, PairTask):
            pairs = tuple(task.counterfactuals(model.tokenizer))[: asking.limit]
    except UsageError as error:
        raise UsageError(f"--task {asking.name} cannot be asked of {model.name}: {error}") from error
    check_fits(model, samples)
    check_fits(model, pairs, kind="the counterfactual of sample")
    return Asked(asking.name, task, samples, pairs)


def check_several(asked: Asked) -> None:
    """UsageError for a single sample, of which neither intervals nor p values can be had."""
    if len(asked.samples) < 2:
        raise UsageError(
            f"--task {asked.name} gives {len(asked.samples)} prompt with these options, and differences need two or more "
            "for an interval; raise --repeats, --depths, --prompts or --limit, or give a longer file"
        )


def answer_room(model: HookedModel, asked: Asked, metric: str, max_new_tokens: int | None = None) -> int:
    """Tokens behind the prompt that a metric runs; UsageError where the model's context does not hold them."""
    room = 0
    if metric == "score":
        _, room = asked_of(model, Subset(asked.task, len(asked.samples)), max_new_tokens)
    if metric == "loss":
        encoded = model.tokenizer([sample.target for sample in asked.samples], add_special_tokens=False).input_ids
        room = max(len(ids) for ids in encoded)
    check_fits(model, asked.samples, room=room)
    return room


def check_answers(model: HookedModel, asked: Asked, metric: str) -> None:
    """UsageError, naming the sample, where the metric lacks an answer, or two answers begin with the same token."""
    if metric in ("loss", "score"):
        for i, sample in enumerate(asked.samples):
            if not sample.target.strip():
                raise UsageError(
                    f"sample {i} ({sample.prompt[-40:]!r}) has no target, which metric {metric!r} needs; give it one, or "
                    "use --metric kl"
                )
    else:
        answers_of(model, asked.samples, asked.counterfactuals or asked.samples, metric)  # type: ignore[arg-type]


def check_fits(model: HookedModel, samples: Sequence[Sample], *, room: int = 0, kind: str = "sample") -> None:
    """UsageError for the first sample that is empty, or that does not fit the model's context with `room` tokens more."""
    for i, sample in enumerate(samples):
        if not sample.prompt.strip():
            raise UsageError(f"{kind} {i} is empty; give it a text that can be continued")
        length, most = len(model.tokens(sample).ids), model.context_length
        if most is not None and length + room > most:
            more = f" and its answer up to {room} more" if room else ""
            raise UsageError(
                f"{kind} {i} has {length} tokens{more}, but the context of {model.name} holds {most}; ask for shorter "
                "prompts (--lengths), or shorten the text"
            )


def _spaced(sample: Sample) -> Sample:
    """A sample of the project's own whose answer begins as its tokens would behind the prompt: with a space.

    Own files are taken as they stand: they name a foil, or no options.
    """
    if sample.chat or not {"options", "fact"} & set(sample.meta):
        return sample
    space = "" if sample.prompt[-1:].isspace() or sample.target[:1].isspace() else " "
    meta = dict(sample.meta)
    if "options" in meta and "foil" not in meta:
        meta["foil"] = space + next(option for option in meta["options"] if option != sample.target)
    return replace(sample, target=space + sample.target, meta=meta)
