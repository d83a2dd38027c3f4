"""What a model wrote, and when it stops writing."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from headscope.encoding import Batch
from headscope.samples import Sample

_SHOWN = 400
"""Characters of a prompt that a notebook shows before the answer."""


@dataclass(frozen=True)
class Generation:
    """The answer to one sample: its text, its tokens, and why it ended."""

    sample: Sample
    text: str
    tokens: tuple[int, ...]
    finish: Literal["stop", "length"]
    """"stop": an end-of-text token or a stop string was written; "length": max_new_tokens were."""

    def _repr_html_(self) -> str:
        prompt = self.sample.prompt
        shown = prompt if len(prompt) <= _SHOWN else f"… {prompt[-_SHOWN:]}"
        end = "it ended by itself" if self.finish == "stop" else "cut off at max_new_tokens"
        answer = f'<p style="white-space:pre-wrap">{escape(shown)}<b>{escape(self.text)}</b></p>'
        return f"{answer}<p><small>{len(self.tokens)} tokens, {end}</small></p>"


class StopOnText(StoppingCriteria):
    """Stops a sample as soon as its new text holds one of the given strings."""

    def __init__(self, tokenizer: Any, stop: Sequence[str], prompt_columns: int) -> None:
        self._tokenizer, self._stop, self._columns = tokenizer, tuple(stop), prompt_columns

    def __call__(self, input_ids: Tensor, scores: Tensor | None, **_: Any) -> Tensor:
        """Which samples are done."""
        texts = self._tokenizer.batch_decode(input_ids[:, self._columns :], skip_special_tokens=True)
        found = [any(stop in text for stop in self._stop) for text in texts]
        return torch.tensor(found, device=input_ids.device)


def continued(
    hf: Any, tokenizer: Any, batch: Batch, max_new_tokens: int, stop: Sequence[str], **options: Any
) -> list[Generation]:
    """What the model writes after each prompt of a batch; greedy unless `do_sample=True`."""
    columns = 1 if hf.config.is_encoder_decoder else batch.columns
    settings = {"do_sample": False, **({} if options.get("do_sample") else _GREEDY), **options}
    pad = tokenizer.pad_token_id
    written = hf.generate(
        **batch.inputs,
        max_new_tokens=max_new_tokens,
        stopping_criteria=StoppingCriteriaList([StopOnText(tokenizer, stop, columns)] if stop else []),
        pad_token_id=0 if pad is None else pad,
        **settings,
    )
    end = hf.generation_config.eos_token_id
    ends = frozenset([end] if isinstance(end, int) else end or ())
    answers = []
    for sample, row in zip(batch.samples, written[:, columns:].tolist(), strict=True):
        tokens, ended = _trimmed(row, ends, tokenizer, stop)
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        answers.append(Generation(sample, text, tuple(tokens), "stop" if ended else "length"))
    return answers


# Settings that a checkpoint may bring for sampling, which greedy decoding would warn of.
_GREEDY = {"temperature": None, "top_p": None, "top_k": None, "num_beams": 1}


def _trimmed(tokens: Sequence[int], end: frozenset[int], tokenizer: Any, stop: Sequence[str]) -> tuple[list[int], bool]:
    """Tokens up to the first end-of-text token (left out) or the token that completes a stop string (kept)."""
    for i, token in enumerate(tokens):
        if token in end:
            return list(tokens[:i]), True
        if stop and any(s in tokenizer.decode(tokens[: i + 1], skip_special_tokens=True) for s in stop):
            return list(tokens[: i + 1]), True
    return list(tokens), False
