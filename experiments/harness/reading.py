"""What a model gives the tokens of a continuation, read as they would be written: the context is the prompt.

A query whose logits choose a token of the continuation is a `decode` query, so the last token of the context and all
that follow are, and every other query is `prefill`, as in `HookedModel.generate`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from headscope.encoding import pad_left
from headscope.model import HookedModel
from headscope.prompting import Operator


class Reading(NamedTuple):
    """The tokens of a context, and those of its continuation that are read: all but the last, which is only chosen."""

    context: tuple[int, ...]
    written: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens that the model reads."""
        return len(self.context) + len(self.written)


def depends_on_prompt(model: HookedModel) -> bool:
    """Whether an intervention in force learns something of every prompt, as ACT does."""
    return any(isinstance(hook, Operator) for hook in model.in_force)


def read_at_once(model: HookedModel, readings: Sequence[Reading]) -> list[Float[Tensor, "token vocab"]]:
    """Logits that choose the tokens of every continuation, in one padded pass of contexts and continuations."""
    inputs = _padded(model, [reading.context + reading.written for reading in readings])
    columns = inputs["input_ids"].shape[1]
    kept = {"logits_to_keep": 1 + max(len(reading.written) for reading in readings), "use_cache": False}
    first = torch.tensor([columns - 1 - len(reading.written) for reading in readings])
    with torch.no_grad(), model.emitting(first):
        logits = _call(model, inputs, kept).logits
    return [row[-1 - len(reading.written) :] for row, reading in zip(logits, readings, strict=True)]


def read_in_steps(model: HookedModel, readings: Sequence[Reading]) -> list[Float[Tensor, "token vocab"]]:
    """The same with the contexts in one pass, and then token after token as it would be generated.

    An operator that depends on the prompt sees the context as the prompt, and no token before its turn. Costs a short
    pass for every token of the longest continuation.
    """
    inputs = _padded(model, [reading.context for reading in readings])
    columns, steps = inputs["input_ids"].shape[1], max(len(reading.written) for reading in readings)
    # A row that has ended reads on with a token that nobody asks about.
    ahead = torch.tensor([[*reading.written, *[0] * (steps - len(reading.written))] for reading in readings])
    chosen = []
    with torch.no_grad(), model.emitting(columns - 1):
        out = _call(model, inputs, {"logits_to_keep": 1, "use_cache": True})
        chosen.append(out.logits[:, -1])
        for step in range(steps):
            mask = torch.nn.functional.pad(inputs["attention_mask"], (0, step + 1), value=1)
            new = {"input_ids": ahead[:, step : step + 1].to(model.device), "attention_mask": mask}
            out = _call(model, new, {"past_key_values": out.past_key_values, "use_cache": True})
            chosen.append(out.logits[:, -1])
    logits = torch.stack(chosen, 1)
    return [row[: 1 + len(reading.written)] for row, reading in zip(logits, readings, strict=True)]


def _padded(model: HookedModel, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    return {name: value.to(model.device) for name, value in pad_left(rows, model.processor).items()}


def _call(model: HookedModel, inputs: dict[str, Tensor], options: dict[str, Any]) -> Any:
    taken = {name: value for name, value in options.items() if name in model.forward_arguments}
    columns = inputs["input_ids"].shape[1]
    positions = {name: value[:, -columns:] for name, value in model.positions_of(inputs["attention_mask"]).items()}
    return model.hf(**inputs, **positions, **taken)
