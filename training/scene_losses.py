"""What is learnt in the two stages of a scenes model: patches by the tower, then words by the rest."""

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from tasks.scene_world import COLOURS, KINDS
from training.scene_data import IGNORE, NOTHING, Packed
from training.scene_heads import dependence, head_outputs
from training.scene_model import Shape, build_model


class Trainee(nn.Module):
    """The model and the two heads that read kind and colour from a patch while the tower learns."""

    def __init__(self, shape: Shape, *, seed: int) -> None:
        super().__init__()
        self.llava: LlavaForConditionalGeneration = build_model(shape, seed=seed)
        self.kind = nn.Linear(shape.tower_width, len(KINDS) + 1)
        self.colour = nn.Linear(shape.tower_width, len(COLOURS))

    def patches(self, pixels: Tensor) -> Tensor:
        """Tower features [scene patch width]."""
        return self.llava.model.vision_tower(pixels).last_hidden_state[:, 1:]


def tower_loss(trainee: Trainee, pixels: Tensor, kinds: Tensor, colours: Tensor) -> tuple[Tensor, float]:
    """Cross-entropy of kind and colour a patch, empty patches counted a fourth; share of objects' patches right."""
    features = trainee.patches(pixels)
    weight = torch.ones(len(KINDS) + 1)
    weight[NOTHING] = 0.25
    logits = trainee.kind(features).transpose(1, 2)
    loss = nn.functional.cross_entropy(logits, kinds, weight)
    loss = loss + 0.5 * nn.functional.cross_entropy(
        trainee.colour(features).transpose(1, 2), colours, ignore_index=IGNORE
    )
    there = kinds != NOTHING
    return loss, (logits.argmax(1) == kinds)[there].float().mean().item()


def language_loss(
    model: LlavaForConditionalGeneration, packed: Packed, *, answer_weight: float, blind_weight: float
) -> tuple[Tensor, dict[str, float]]:
    """Loss of text, names and answers, each a mean over its own tokens, and of dependence on the image; its parts."""
    with head_outputs(model) as outputs:
        hidden = model.model(
            input_ids=packed.ids,
            pixel_values=packed.pixels,
            attention_mask=packed.visible,
            position_ids=packed.positions,
            use_cache=False,
        ).last_hidden_state
    here = packed.labels != IGNORE
    logits, labels, answers = model.lm_head(hidden[here]), packed.labels[here], packed.answers[here]
    losses = nn.functional.cross_entropy(logits, labels, reduction="none")
    named = packed.named[here]
    text, name, answer = losses[~answers & ~named].mean(), losses[named].mean(), losses[answers].mean()
    right = (logits.argmax(-1) == labels)[answers].float().mean()
    depends = dependence(outputs, packed)
    values = {"text": text, "name": name, "answer": answer, "right": right, "depends": depends}
    loss = text + name + answer_weight * answer + blind_weight * depends
    return loss, {key: value.item() for key, value in values.items()}


@torch.no_grad()
def match_norms(trainee: Trainee, pixels: Tensor) -> None:
    """Folds a standardisation of the tower's features into the projector, and gives its outputs the words' scale."""
    projector = trainee.llava.model.multi_modal_projector
    features = trainee.patches(pixels).flatten(0, 1)
    mean, std = features.mean(0), features.std(0).clamp_min(1e-3)
    projector.linear_1.weight /= std
    projector.linear_1.bias -= projector.linear_1.weight @ mean
    out = projector(features)
    projector.linear_2.weight /= out.std(0)[:, None]
    projector.linear_2.bias -= out.mean(0) / out.std(0)
