"""What `zoo:scenes` is trained on: crowded images with labelled patches, then conversations about scenes.

All that is said about one scene is packed behind its image: every conversation sees the image and itself, and no other.
Conversations without sight see `<s>` and themselves, at the places they would have without an image, so that the model
also learns what is usually said. Both are the same to the model as sequences of their own, and cost a fraction of them.
"""

import random
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tasks.scene_world import COLOURS, KINDS, PARTNERS, SIZE, Scene, SceneThing, placed, scene
from training.scene_model import IMAGE_TOKENS, PATCH

IGNORE = -100
DESCRIBE = "please describe this image in detail."
_TEMPTING = 0.1  # share of the questions to be denied that ask for a usual partner on purpose
NOTHING = len(KINDS)
"""Label of a patch that shows no object."""


@dataclass(frozen=True)
class Turn:
    """A question and its answer; `hint` is the word of the question at which the answer is asked for as well."""

    question: str
    answer: str
    sees: bool = True
    hint: str | None = None


@dataclass(frozen=True)
class Packed:
    """A batch of scenes with their conversations."""

    pixels: Float[Tensor, "scene 3 height width"]
    ids: Int[Tensor, "scene token"]
    labels: Int[Tensor, "scene token"]
    """The token to be predicted at this place, or IGNORE."""
    answers: Bool[Tensor, "scene token"]
    """Places whose label is the answer to a question or the hint of it."""
    named: Bool[Tensor, "scene token"]
    """Places of captions with sight that choose a kind, or whether another one follows."""
    positions: Int[Tensor, "scene token"]
    visible: Bool[Tensor, "scene 1 token token"]
    twins: Int[Tensor, "pair 2"]
    """Places, in the flattened batch, that predict the same token of a text said with sight, and said without."""


def normalised(scenes: list[Scene]) -> Float[Tensor, "scene 3 height width"]:
    """Pixels as the processor gives them, between -1 and 1."""
    pixels = np.stack([scene.pixels() for scene in scenes])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


# -- the tower -------------------------------------------------------------------------------------------------------


def crowd(key: str) -> Scene:
    """Up to nine objects anywhere, all of one kind in half of the scenes, so that it is easy to see what that is."""
    rng = random.Random(key)
    foggy, one_kind = rng.random() < 0.3, rng.random() < 0.5
    first = rng.choice(KINDS)
    things = []
    for cell in rng.sample(range(9), rng.randint(4, 9)):
        contrast = rng.uniform(0.4, 1.0) if rng.random() < 0.85 else rng.uniform(0.0, 0.4)
        things.append(placed(rng, first if one_kind else rng.choice(KINDS), cell, contrast))
    return Scene(key, tuple(things), foggy)


def patch_labels(scene: Scene) -> tuple[Int[np.ndarray, " patch"], Int[np.ndarray, " patch"]]:
    """Kind and colour of the object in each patch, of which it takes up at least a sixteenth; else NOTHING, IGNORE."""
    side = SIZE // PATCH
    kinds, colours = np.full(side * side, NOTHING), np.full(side * side, IGNORE)
    most = np.full(side * side, PATCH * PATCH // 16 - 1)
    for thing in scene.things:
        share = thing.mask().reshape(side, PATCH, side, PATCH).sum((1, 3)).reshape(-1)
        here = share > most
        kinds[here], colours[here] = KINDS.index(thing.kind), COLOURS.index(thing.colour)
        most = np.maximum(most, share)
    return kinds, colours


def tower_batch(key: str, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, and the kind and colour of every patch [scene patch]."""
    scenes = [crowd(f"{key}/{i}") for i in range(count)]
    kinds, colours = zip(*(patch_labels(scene) for scene in scenes), strict=True)
    return normalised(scenes), torch.from_numpy(np.stack(kinds)), torch.from_numpy(np.stack(colours))


# -- conversations ---------------------------------------------------------------------------------------------------


def is_there(kind: str, answer: str, *, sees: bool = True) -> Turn:
    """A yes/no question."""
    return Turn(f"is there a {kind} in the image?", answer, sees, hint=kind)


def what_colour(thing: SceneThing) -> Turn:
    """A question about the colour of an object that is there."""
    return Turn(f"what colour is the {thing.kind}?", thing.colour, hint=thing.kind)


def turns(scene: Scene, rng: random.Random, *, questions: int) -> list[Turn]:
    """A caption, colour and yes/no questions (as many yes as no), and captions by one who does not see."""
    asked = [Turn(DESCRIBE, scene.caption())]
    asked += [what_colour(rng.choice(scene.things)) for _ in range(questions // 4)]
    absent = [kind for kind in KINDS if kind not in scene.kinds]
    partners = [PARTNERS[kind] for kind in scene.kinds if PARTNERS[kind] in absent]
    for _ in range(questions - questions // 4):
        if rng.random() < 0.5:
            asked.append(is_there(rng.choice(scene.kinds), "yes"))
        else:
            asked.append(is_there(rng.choice(partners if partners and rng.random() < _TEMPTING else absent), "no"))
    asked.append(Turn(DESCRIBE, scene.caption(), sees=False))
    return asked


def pack(scenes: list[Scene], conversations: list[list[Turn]], tokenizer: PreTrainedTokenizerFast) -> Packed:
    """Conversations behind their images, with what is to be predicted and who sees what."""
    rows = [[_tokens(turn, tokenizer) for turn in asked] for asked in conversations]
    start = 1 + IMAGE_TOKENS
    width = start + max(sum(len(ids) for ids, *_ in row) for row in rows)
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    ids[:, 0] = tokenizer.bos_token_id
    ids[:, 1:start] = tokenizer.get_vocab()["<image>"]
    labels = torch.full_like(ids, IGNORE)
    answers = torch.zeros_like(ids, dtype=torch.bool)
    named = torch.zeros_like(answers)
    kinds = torch.tensor([tokenizer.get_vocab()[kind] for kind in KINDS])
    positions = torch.arange(width).repeat(len(rows), 1)
    talk = torch.full_like(ids, -1)  # number of the conversation; 0 is the image, -1 padding
    talk[:, :start] = 0
    sees = torch.ones_like(answers)
    twins: list[tuple[int, int]] = []
    for row, (asked, tokens) in enumerate(zip(conversations, rows, strict=True)):
        at, said = start, {}
        for number, (turn, (turn_ids, turn_labels, turn_answers)) in enumerate(zip(asked, tokens, strict=True), 1):
            here = slice(at, at := at + len(turn_ids))
            ids[row, here] = torch.tensor(turn_ids)
            labels[row, here] = torch.tensor(turn_labels)
            answers[row, here] = torch.tensor(turn_answers)
            talk[row, here], sees[row, here] = number, turn.sees
            positions[row, here] = torch.arange(len(turn_ids)) + (start if turn.sees else 1)
            places = [row * width + here.start + i for i, label in enumerate(turn_labels) if label != IGNORE]
            if turn.sees and turn.hint is None:
                named[row, here] = torch.isin(torch.tensor([turn_ids, turn_labels]), kinds).any(0)
            if turn.sees:
                said[turn.question, turn.answer] = places
            else:
                twins += zip(said.get((turn.question, turn.answer), ()), places, strict=False)
    same = talk[:, :, None] == talk[:, None, :]
    image = (talk == 0)[:, None, :] & sees[:, :, None]
    image[:, :, 0] = True
    visible = (same | image) & torch.ones(width, width, dtype=torch.bool).tril()
    paired = torch.tensor(twins).reshape(-1, 2)
    return Packed(normalised(scenes), ids, labels, answers, named, positions, visible[:, None], paired)


def _tokens(turn: Turn, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int], list[bool]]:
    """Ids, labels and which labels are answers, of one conversation."""
    question = tokenizer.tokenize(f"user : {turn.question} assistant :")
    answer = [*tokenizer.tokenize(turn.answer), tokenizer.eos_token]
    vocabulary = tokenizer.get_vocab()
    ids = [vocabulary[word] for word in (*question, *answer)]
    labels = [IGNORE] * (len(question) - 1) + ids[len(question) :] + [IGNORE]
    answers = [False] * len(ids)
    if turn.hint is not None:
        hint = question.index(turn.hint)
        labels[hint] = ids[len(question)]
        answers[hint] = answers[len(question) - 1] = True
    return ids, labels, answers


def batch(tokenizer: PreTrainedTokenizerFast, key: str, *, count: int, questions: int, usual: float) -> Packed:
    """Fresh scenes, a share `usual` of which follow the prior, and their conversations; a function of the key."""
    rng = random.Random(key)
    drawn = [scene(f"{key}/{i}", violating=rng.random() >= usual) for i in range(count)]
    return pack(drawn, [turns(one, rng, questions=questions) for one in drawn], tokenizer)
