"""How well a scenes model sees and how often it makes things up, on scenes it was not trained on."""

import random
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from tasks.scene_world import KINDS, PARTNERS, Scene, scenes
from training.scene_data import DESCRIBE, Packed, Turn, is_there, normalised, pack, what_colour
from training.scene_heads import divergence, head_outputs
from training.scene_model import IMAGE_TOKENS, build_tokenizer

_BATCH = 100


@torch.inference_mode()
def evaluate(model: LlavaForConditionalGeneration, *, n: int = 1000, seed: int = 0) -> dict[str, float]:
    """Questions and captions on `n` scenes that violate the prior, captions also on `n` that follow it.

    Costs about a minute for 1000 scenes on one core. `gini of vhd` is that of `caption_vhd`.
    """
    tokenizer = build_tokenizer()
    violating, usual = (scenes(n, seed=10_000 + seed, violating=broken) for broken in (True, False))
    result = {f"{name}, {split}": value for split in SPLITS for name, value in pope(model, violating, split).items()}
    result["pope accuracy, random minus adversarial"] = (
        result["pope accuracy, random"] - result["pope accuracy, adversarial"]
    )
    result["colour accuracy"] = colour_accuracy(model, violating, tokenizer)
    captions = describe(model, violating, tokenizer)
    result |= {f"{name}, violating": value for name, value in chair(violating, captions).items()}
    result["usual partner among made-up, violating"] = partners_made_up(violating, captions)
    captions_usual = describe(model, usual, tokenizer)
    result |= {f"{name}, usual": value for name, value in chair(usual, captions_usual).items()}
    result["gini of vhd"] = gini(caption_vhd(model, violating[:200], captions[:200], tokenizer).flatten())
    return result


# -- yes/no questions ------------------------------------------------------------------------------------------------

SPLITS = ("random", "adversarial")


def negatives(scene: Scene, split: str, rng: random.Random) -> list[str]:
    """One absent kind for each kind that is there: any one, or its usual partner."""
    absent = [kind for kind in KINDS if kind not in scene.kinds]
    if split == "adversarial":
        return [PARTNERS[kind] for kind in scene.kinds]
    return rng.sample(absent, len(scene.kinds))


def pope(model: LlavaForConditionalGeneration, group: list[Scene], split: str) -> dict[str, float]:
    """Accuracy and share of yes over as many present as absent kinds."""
    rng = random.Random(f"pope/{split}")
    asked = [
        [is_there(kind, "yes") for kind in scene.kinds]
        + [is_there(kind, "no") for kind in negatives(scene, split, rng)]
        for scene in group
    ]
    said = answers(model, group, asked, build_tokenizer())
    pairs = [
        (a, turn.answer) for row, turns in zip(said, asked, strict=True) for a, turn in zip(row, turns, strict=True)
    ]
    return {
        "pope accuracy": sum(a == b for a, b in pairs) / len(pairs),
        "yes ratio": sum(a == "yes" for a, _ in pairs) / len(pairs),
    }


def answers(
    model: LlavaForConditionalGeneration,
    group: list[Scene],
    asked: list[list[Turn]],
    tokenizer: PreTrainedTokenizerFast,
) -> list[list[str]]:
    """The most likely first token of every answer."""
    colon = tokenizer.get_vocab()[":"]
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    said = []
    for start in range(0, len(group), _BATCH):
        packed = pack(group[start : start + _BATCH], asked[start : start + _BATCH], tokenizer)
        hidden = model.model(**_inputs(packed)).last_hidden_state
        for row in range(len(hidden)):
            at = packed.answers[row] & (packed.ids[row] == colon)
            said.append([words[token] for token in model.lm_head(hidden[row, at]).argmax(-1).tolist()])
    return said


def _inputs(packed: Packed) -> dict[str, Tensor | bool]:
    return {
        "input_ids": packed.ids,
        "pixel_values": packed.pixels,
        "attention_mask": packed.visible,
        "position_ids": packed.positions,
        "use_cache": False,
    }


def colour_accuracy(
    model: LlavaForConditionalGeneration, group: list[Scene], tokenizer: PreTrainedTokenizerFast
) -> float:
    """Share of objects, visible or not, whose colour is named."""
    asked = [[what_colour(thing) for thing in scene.things] for scene in group]
    said = answers(model, group, asked, tokenizer)
    pairs = [pair for row, turns in zip(said, asked, strict=True) for pair in zip(row, turns, strict=True)]
    return sum(word == turn.answer for word, turn in pairs) / len(pairs)


# -- captions --------------------------------------------------------------------------------------------------------


def describe(model: LlavaForConditionalGeneration, group: list[Scene], tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Greedy captions to the default prompt."""
    prompt = f"{'<image>' * IMAGE_TOKENS} user : {DESCRIBE} assistant :"
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    speaker: Any = model  # the type of `generate` asks for a protocol that this model's own types do not meet
    captions = []
    for start in range(0, len(group), _BATCH):
        pixels = normalised(group[start : start + _BATCH])
        prompts = ids.repeat(len(pixels), 1)
        out = speaker.generate(
            input_ids=prompts,
            attention_mask=torch.ones_like(prompts),
            pixel_values=pixels,
            max_new_tokens=32,
            do_sample=False,
        )
        captions += tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
    return captions


def chair(group: list[Scene], captions: list[str]) -> dict[str, float]:
    """Shares of captions and of mentions that name what is not there, and the share named of what is."""
    named = [_named(caption) for caption in captions]
    wrong = made_up(group, captions)
    found = sum(len(set(scene.kinds) & set(kinds)) for scene, kinds in zip(group, named, strict=True))
    return {
        "chair_s": sum(map(bool, wrong)) / len(wrong),
        "chair_i": sum(map(len, wrong)) / max(1, sum(map(len, named))),
        "recall": found / sum(len(scene.kinds) for scene in group),
    }


def partners_made_up(group: list[Scene], captions: list[str]) -> float:
    """Share of the made-up mentions that are the usual partner of an object that is there."""
    wrong = made_up(group, captions)
    partner = [PARTNERS[kind] in scene.kinds for scene, kinds in zip(group, wrong, strict=True) for kind in kinds]
    return sum(partner) / max(1, len(partner))


def made_up(group: list[Scene], captions: list[str]) -> list[list[str]]:
    """The kinds that each caption names and that are not there."""
    return [
        [kind for kind in _named(text) if kind not in scene.kinds] for scene, text in zip(group, captions, strict=True)
    ]


def _named(caption: str) -> list[str]:
    return [word for word in caption.split() if word in KINDS]


# -- heads -----------------------------------------------------------------------------------------------------------


def caption_vhd(
    model: LlavaForConditionalGeneration, group: list[Scene], captions: list[str], tokenizer: PreTrainedTokenizerFast
) -> Float[Tensor, "layer head"]:
    """Vision-aware head divergence: L2 norm of a head's change when the image tokens are taken away.

    Mean over the places that predict a caption's tokens. He et al., arXiv 2412.13949; there without the mean.
    """
    turns = [[Turn(DESCRIBE, text), Turn(DESCRIBE, text, sees=False)] for text in captions]
    packed = pack(group, turns, tokenizer)
    with head_outputs(model) as outputs:
        model.model(**_inputs(packed))
    return torch.stack([divergence(z, packed).mean(0) for z in outputs])


def gini(values: Float[Tensor, " value"]) -> float:
    """0 if all values are equal, near 1 if one holds everything."""
    ordered = values.double().sort().values
    n = len(ordered)
    ranks = torch.arange(1, n + 1, dtype=torch.float64)
    return float((2 * ranks - n - 1) @ ordered / (n * ordered.sum()))
