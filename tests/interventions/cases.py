"""Prompts with images for the tiny models, in pairs and batches, and what the models make of them under operators."""

import copy
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from headscope import HookedModel, Record, Where
from headscope.hooks import Site
from tests.headscope.test_hooks import hooked
from tests.tiny import FIRST_WORD, IMAGE_TOKEN, TINY, VOCAB, Inputs, _redraw, build

VLMS = tuple(name for name, row in TINY.items() if row.kind == "vlm")
PER_TOKEN = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"}


@cache
def model(name: str) -> HookedModel:
    """The tiny model of a row, made once."""
    return hooked(name)


@cache
def narrow_model(name: str) -> HookedModel:
    """The same in bfloat16."""
    return HookedModel(build(name).bfloat16(), example=narrow(TINY[name].inputs()), name=name)


def narrow(inputs: Mapping[str, Tensor]) -> Inputs:
    """Inputs whose pixels are bfloat16."""
    return {name: value.bfloat16() if value.is_floating_point() else value for name, value in inputs.items()}


def words(length: int, *, seed: int) -> Tensor:
    """Ids of random words [1 word]."""
    return torch.randint(FIRST_WORD, VOCAB, (1, length), generator=torch.Generator().manual_seed(seed))


def first(name: str) -> Inputs:
    """The prompt of the table."""
    return TINY[name].inputs()


def second(name: str, *, seed: int = 5) -> Inputs:
    """Another prompt, three tokens shorter before the image, with other words and pixels."""
    inputs = first(name)
    inputs = {key: value[:, 3:] if key in PER_TOKEN else value for key, value in inputs.items()}
    ids = inputs["input_ids"]
    inputs["input_ids"] = torch.where(ids >= FIRST_WORD, words(ids.shape[1], seed=seed), ids)
    if "pixel_values" in inputs:
        generator = torch.Generator().manual_seed(seed)
        inputs["pixel_values"] = torch.randn(inputs["pixel_values"].shape, generator=generator)
    return inputs


def other_end(inputs: Inputs, count: int = 2) -> Inputs:
    """The same prompt with other words at its end."""
    ids = inputs["input_ids"].clone()
    ids[:, -count:] = FIRST_WORD + (ids[:, -count:] - FIRST_WORD + 7) % (VOCAB - FIRST_WORD)
    return {**inputs, "input_ids": ids}


def longer(inputs: Inputs, more: Tensor, *, kind: int = 0) -> Inputs:
    """The prompt with words behind it; `kind` is their token type."""
    tails = {"input_ids": more, "attention_mask": torch.ones_like(more)}
    longer = {
        key: torch.cat([value, tails.get(key, torch.full_like(more, kind))], 1)
        for key, value in inputs.items()
        if key in PER_TOKEN
    }
    return {**inputs, **longer}


def together(*prompts: Inputs) -> Inputs:
    """One batch, padded on the left; prompts without images may be among them."""
    batch: Inputs = {}
    for key in dict.fromkeys(key for inputs in prompts for key in inputs):
        values = [inputs.get(key) for inputs in prompts]
        if key in PER_TOKEN:
            rows = [
                torch.zeros_like(inputs["input_ids"][0]) if value is None else value[0]
                for inputs, value in zip(prompts, values, strict=True)
            ]
            batch[key] = padded(rows)
        else:
            batch[key] = torch.cat([value for value in values if value is not None])
    batch["attention_mask"] = padded([torch.ones_like(inputs["input_ids"][0]) for inputs in prompts])
    return batch


def padded(rows: Sequence[Tensor]) -> Tensor:
    """Rows of one length, zeros before the shorter."""
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_side="left")


def image_of(inputs: Inputs) -> Tensor:
    """Which columns of the only sample are image tokens."""
    return inputs["input_ids"][0] == IMAGE_TOKEN


@torch.no_grad()
def forward(hooked: HookedModel, inputs: Inputs, **options: Any) -> Tensor:
    """Logits of one pass."""
    positions = hooked.positions_of(inputs["attention_mask"]) if "attention_mask" in inputs else {}
    return hooked.hf(**inputs, **positions, **options).logits


def logits(hooked: HookedModel, inputs: Inputs, *hooks: Any) -> Tensor:
    """Logits of one pass with these hooks open."""
    with hooked.hooks(*hooks):
        return forward(hooked, inputs)


def recorded(
    hooked: HookedModel, inputs: Inputs, site: Site, *hooks: Any, where: Where | None = None
) -> dict[int, Tensor]:
    """What one pass leaves at a site behind these hooks, layer by layer."""
    record = Record(site, where or Where())
    with hooked.hooks(*hooks, record):
        forward(hooked, inputs)
    return {
        layer: torch.cat(seen, -2 if site in ("pattern", "scores", "mask") else 1)
        for layer, seen in record.seen.items()
    }


@torch.no_grad()
def in_steps(hooked: HookedModel, inputs: Inputs, more: Tensor, *hooks: Any, size: int = 1) -> Tensor:
    """Logits from the prompt's last token on, the words behind it read `size` at a time on the cache."""
    with hooked.hooks(*hooks), hooked.emitting(inputs["input_ids"].shape[1] - 1):
        out = hooked.hf(**inputs, use_cache=True)
        found = [out.logits[:, -1:]]
        for chunk in more.split(size, 1):
            out = hooked.hf(input_ids=chunk, past_key_values=out.past_key_values, use_cache=True)
            found.append(out.logits)
    return torch.cat(found, 1)


@torch.no_grad()
def generated(hooked: HookedModel, inputs: Inputs, steps: int, *hooks: Any) -> tuple[Tensor, Tensor]:
    """What `generate` writes behind a prompt, and the logits it chose from."""
    with hooked.hooks(*hooks), hooked.emitting(inputs["input_ids"].shape[1] - 1):
        mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
        out = hooked.hf.generate(
            **{**inputs, "attention_mask": mask},
            max_new_tokens=steps,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return out.sequences[:, -steps:], torch.stack(out.logits, 1)


@torch.no_grad()
def at_once(hooked: HookedModel, inputs: Inputs, more: Tensor, *hooks: Any, kind: int = 0) -> Tensor:
    """The same logits from one pass without a cache."""
    start = inputs["input_ids"].shape[1] - 1
    with hooked.hooks(*hooks), hooked.emitting(start):
        return forward(hooked, longer(inputs, more, kind=kind))[:, start:]


@cache
def deep_model(layers: int) -> HookedModel:
    """The tiny LLaVA with more text layers."""
    row = TINY["llava"]
    hf = row.build()
    config = copy.deepcopy(hf.config)
    config.text_config.num_hidden_layers = layers
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        deep = type(hf)(config)
        _redraw(deep, 1.8)
    return HookedModel(deep.float().eval(), example=row.inputs(), name=f"llava with {layers} layers")
