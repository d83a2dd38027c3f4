"""What a sweep measures of a batch: the whole model first, then the model without each unit."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.answer_metrics import Answers, answers_of, measured
from experiments.sweeps.ablated import Ablation, Ablator
from experiments.sweeps.units import Unit
from head_analysis.forced import answered
from headscope.answers import stop_strings
from headscope.encoding import pad_left
from headscope.errors import HeadscopeError, UnsupportedModelError, UsageError
from headscope.hooks import Record
from headscope.model import HookedModel
from headscope.samples import Sample, Task

Metric = Literal["logit_difference", "probability", "kl", "loss", "score"]
"""`logit_difference`: logit of the right answer's first token minus that of the wrong one's. `probability`: of the right
answer's first token. `kl`: KL(clean || ablated) of the next-token distributions, nats. `loss`: mean loss of the answer's
tokens under teacher forcing, nats. `score`: the task's own score of the answer that is generated; costs a generation for
each unit and batch."""

Values = Iterator[tuple[Unit | None, Float[Tensor, " sample"]]]


@runtime_checkable
class Runner(Protocol):
    """What gives the logits of a batch without each unit."""

    def logits(
        self, inputs: Mapping[str, Tensor], units: Sequence[Unit], *, wanted: int
    ) -> Iterator[tuple[Unit | None, Tensor]]:
        """Logits of the last `wanted` columns, of the whole model (None) and without each unit."""


@dataclass(frozen=True)
class HookedRunner:
    """One whole pass a unit: for models whose passes cannot be taken up in the middle, and the reference of the other."""

    model: HookedModel
    ablation: Ablation

    def logits(
        self, inputs: Mapping[str, Tensor], units: Sequence[Unit], *, wanted: int
    ) -> Iterator[tuple[Unit | None, Tensor]]:
        """Logits of the last `wanted` columns, of the whole model (None) and without each unit."""
        for unit in (None, *units):
            with torch.no_grad(), self.model.hooks(*([self.ablation.of(unit.heads)] if unit else [])):
                places = self.model.positions_of(inputs["attention_mask"])
                found = self.model.hf(**inputs, **places, logits_to_keep=wanted, use_cache=False).logits[:, -wanted:]
            yield unit, found


def runner_for(model: HookedModel, ablation: Ablation, samples: Sequence[Sample]) -> Runner:
    """The fast runner where the model allows it and no sample has an image, else the one that runs whole passes."""
    if any(sample.images for sample in samples):
        return HookedRunner(model, ablation)
    try:
        return Ablator(model, ablation)
    except UnsupportedModelError:
        return HookedRunner(model, ablation)


@dataclass(frozen=True)
class Asked:
    """What of one sample is run, and the tokens of its answer where their loss is wanted."""

    ids: tuple[int, ...]
    answer: tuple[int, ...] = ()


def asked_all(model: HookedModel, samples: Sequence[Sample], metric: Metric, room: int) -> list[Asked]:
    """What is run of each sample; UsageError for an empty prompt, one without its answer, or one that does not fit.

    `room` tokens are generated behind each prompt.
    """
    found = []
    for i, sample in enumerate(samples):
        prompt = model.tokens(sample).ids if sample.prompt else ()
        if not prompt:
            raise UsageError(f"sample {i} has an empty prompt ({sample.prompt!r}); give it words to answer to")
        answer = _answer(model, sample) if metric == "loss" else ()
        needed = len(prompt) + max(room, len(answer) - 1)
        if model.context_length is not None and needed > model.context_length:
            raise UsageError(
                f"sample {i} takes {needed} tokens ({len(prompt)} of them its prompt), but the context of {model.name} "
                f"is {model.context_length} tokens; ask for shorter prompts"
            )
        found.append(Asked((*prompt, *answer[:-1]), answer))
    return found


def _answer(model: HookedModel, sample: Sample) -> tuple[int, ...]:
    answer = model.tokenizer(sample.target, add_special_tokens=False).input_ids
    if not answer:
        raise UsageError(f"the sample {sample.prompt[-40:]!r} has no target whose loss could be measured; give it one")
    return tuple(answer)


@dataclass(frozen=True)
class LogitValues:
    """A metric of the logits, exact."""

    model: HookedModel
    runner: Runner
    samples: Sequence[Sample]
    asked: Sequence[Asked]
    metric: Metric

    def of(self, places: Sequence[int], units: Sequence[Unit]) -> Values:
        """The metric of these samples: whole, then without each unit; HeadscopeError for logits that are not finite."""
        mine = [self.asked[i] for i in places]
        samples = [self.samples[i] for i in places]
        inputs = self._inputs(samples, mine)
        found = self.runner.logits(inputs, units, wanted=max(1, *(len(one.answer) for one in mine)))
        answers = None
        if self.metric != "loss" and self.metric != "score":
            answers = answers_of(self.model, samples, samples, self.metric)
        whole: Tensor | None = None
        for unit, logits in found:
            whole = logits if unit is None else whole
            assert whole is not None  # the whole model comes first
            _refuse_infinite(self.model, logits, inputs, unit)
            yield unit, self._measured(logits, whole, mine, answers)

    def _inputs(self, samples: Sequence[Sample], asked: Sequence[Asked]) -> Mapping[str, Tensor]:
        """Prompts, with all but the last token of the answers whose loss is wanted, padded on the left."""
        if any(sample.images for sample in samples):
            return answered(self.model, self.model.encode(samples).inputs, [one.answer[:-1] for one in asked])
        padded = pad_left([one.ids for one in asked], self.model.processor)
        return {name: value.to(self.model.device) for name, value in padded.items()}

    def _measured(self, logits: Tensor, whole: Tensor, asked: Sequence[Asked], answers: Answers | None) -> Tensor:
        if answers is not None and self.metric != "loss" and self.metric != "score":
            return measured(self.metric, logits[:, -1], whole[:, -1], answers)
        return torch.stack([_loss(row, one.answer) for row, one in zip(logits, asked, strict=True)]).cpu()


@dataclass(frozen=True)
class TaskScores:
    """The task's own score of the answers that are generated."""

    model: HookedModel
    ablation: Ablation
    samples: Sequence[Sample]
    task: Task
    room: int

    def of(self, places: Sequence[int], units: Sequence[Unit]) -> Values:
        """The scores of these samples: whole, then without each unit, in prefill and decode."""
        batch = self.model.encode([self.samples[i] for i in places])
        for unit in (None, *units):
            with self.model.hooks(*([self.ablation.of(unit.heads)] if unit else [])):
                answers = self.model.generate_batch(batch, max_new_tokens=self.room, stop=stop_strings(self.task))
            yield unit, torch.tensor([self.task.score(answer.sample, answer.text) for answer in answers]).double()


def _loss(logits: Float[Tensor, "wanted vocab"], answer: Sequence[int]) -> Tensor:
    target = torch.tensor(answer, device=logits.device)
    return torch.nn.functional.cross_entropy(logits[-len(answer) :].float(), target)


@torch.no_grad()
def _refuse_infinite(model: HookedModel, logits: Tensor, inputs: Mapping[str, Tensor], unit: Unit | None) -> None:
    if logits.isfinite().all():
        return
    record = Record("resid_post")
    with model.hooks(record):
        model.hf(**inputs, **model.positions_of(inputs["attention_mask"]))
    bad = [layer for layer in sorted(record.seen) if not record.seen[layer][0].isfinite().all()]
    where = (
        f"the state after layer {bad[0]} is the first that is not finite" if bad else "every layer's state is finite"
    )
    without = f" without {unit.name}" if unit else ""
    raise HeadscopeError(
        f"{model.name} gives logits that are not finite{without} ({where}); try --dtype float32, and check the weights"
    )
