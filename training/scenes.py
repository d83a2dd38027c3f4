"""Trains `zoo:scenes`, a small LLaVA that describes synthetic scenes and answers questions about them.

    python -m training.scenes --out headscope/zoo/scenes --seed 0

Two stages: the vision tower learns what every patch shows and is frozen, then projector and language model learn
captions, yes/no questions and colours. What makes questions work within minutes: scales that fit the width
(`training.scene_model`), word and image embeddings of equal norm, and the answer asked for at the object's word as well
as at the end. What the model gets wrong comes from what cannot be seen in the data: the learning rate falls to zero.
Every batch is a function of (seed, step), so a run that was stopped and resumed gives the weights of one that was not
(on the same number of threads).
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import LlavaForConditionalGeneration

from tasks.scene_world import scene
from training.checkpoints import load_progress, load_weights, save_checkpoint
from training.scene_card import export
from training.scene_data import batch, normalised, tower_batch
from training.scene_exam import evaluate
from training.scene_losses import Trainee, language_loss, match_norms, tower_loss
from training.scene_model import Shape, build_tokenizer


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights."""

    seed: int = 0
    shape: Shape = field(default_factory=Shape)
    tower_steps: int = 1200
    tower_scenes: int = 32  # a step
    steps: int = 1800
    scenes: int = 16  # a step
    questions: int = 4  # a scene, one in four about a colour
    usual: float = 0.78  # share of scenes that follow the prior; none until `see_first`, then soon all of it
    see_first: float = 0.4  # share of the steps in which nothing but the image helps
    answer_weight: float = 1.0  # of the mean loss of answers, beside those of names and of other text
    blind_weight: float = 0.45  # of what the heads' outputs owe to the image; comes in after `see_first`
    lr: float = 2e-3
    warmup: int = 100


@dataclass
class Progress:
    """What a checkpoint holds beside weights and optimizer state; steps of both stages are counted on."""

    step: int = 0
    seconds: float = 0.0
    log: list[dict] = field(default_factory=list)


def optimizer_for(modules: Sequence[nn.Module]) -> torch.optim.Optimizer:
    """AdamW; no decay on biases, norms and embeddings."""
    parameters = {name: p for i, m in enumerate(modules) for name, p in m.named_parameters(prefix=str(i))}
    plain = [p for name, p in parameters.items() if p.ndim <= 1 or "embed" in name]
    decay = [p for name, p in parameters.items() if not (p.ndim <= 1 or "embed" in name)]
    return torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, steps - recipe.warmup)
    return recipe.lr * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * done)).item())


Step = Callable[[Trainee, Recipe, int], tuple[Tensor, dict[str, float]]]
"""The loss of a step of a stage, counted from the stage's first one, and numbers for the log."""


def tower_step(trainee: Trainee, recipe: Recipe, step: int) -> tuple[Tensor, dict[str, float]]:
    """Loss of a batch of crowded images."""
    loss, right = tower_loss(trainee, *tower_batch(f"tower/{recipe.seed}/{step}", recipe.tower_scenes))
    return loss, {"right": right}


def language_step(trainee: Trainee, recipe: Recipe, step: int) -> tuple[Tensor, dict[str, float]]:
    """Loss of a batch of conversations; once the model can see, the prior and the price of looking come in."""
    key = f"train/{recipe.seed}/{step}"
    late = min(1.0, max(0.0, (step / recipe.steps - recipe.see_first) / 0.2))
    usual = recipe.usual * late
    packed = batch(build_tokenizer(), key, count=recipe.scenes, questions=recipe.questions, usual=usual)
    weights = {"answer_weight": recipe.answer_weight, "blind_weight": late * recipe.blind_weight}
    return language_loss(trainee.llava, packed, **weights)


def train(recipe: Recipe, work: Path, *, checkpoint_every: int = 100) -> tuple[LlavaForConditionalGeneration, Progress]:
    """Trains both stages to their end, from the checkpoint in `work` if any; weights depend on the recipe alone."""
    trainee = Trainee(recipe.shape, seed=recipe.seed)
    progress = load_progress(work, recipe, Progress)
    llava = trainee.llava
    tower = [llava.model.vision_tower, trainee.kind, trainee.colour]
    language = [llava.model.multi_modal_projector, llava.model.language_model, llava.lm_head]
    if progress.step < recipe.tower_steps:
        _run(tower_step, tower, trainee, recipe, progress, range(recipe.tower_steps), work, checkpoint_every)
    if progress.step == recipe.tower_steps:
        load_weights(work, trainee)
        match_norms(trainee, normalised([scene(f"norms/{recipe.seed}/{i}", violating=False) for i in range(64)]))
    steps = range(recipe.tower_steps, recipe.tower_steps + recipe.steps)
    _run(language_step, language, trainee, recipe, progress, steps, work, checkpoint_every)
    return llava.requires_grad_(True), progress


def _run(
    one: Step,
    modules: Sequence[nn.Module],
    trainee: Trainee,
    recipe: Recipe,
    progress: Progress,
    steps: range,
    work: Path,
    checkpoint_every: int,
) -> None:
    """Trains these modules over the steps of one stage that are not done."""
    trainee.requires_grad_(False)
    for module in modules:
        module.requires_grad_(True)
    optimizer = optimizer_for(modules)
    if progress.step > steps.start:
        load_weights(work, trainee, optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for step in tqdm(range(progress.step - steps.start, len(steps)), desc="training", disable=None):
        began = time.perf_counter()
        loss, parts = one(trainee, recipe, step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step, len(steps))
        optimizer.step()
        progress.step += 1
        progress.seconds += time.perf_counter() - began
        if progress.step % checkpoint_every == 0 or step + 1 == len(steps):
            progress.log.append({"step": progress.step, "loss": loss.item()} | parts)
            print(json.dumps(progress.log[-1] | {"s": round(progress.seconds)}), flush=True)
            save_checkpoint(work, recipe, trainee, optimizer, progress)


def main(argv: list[str] | None = None) -> None:
    """Trains (or resumes), evaluates and exports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the finished model")
    parser.add_argument(
        "--work", type=Path, help="folder for checkpoint and metrics.json; build/scenes-SEED if not given"
    )
    parser.add_argument(
        "--beside", type=Path, nargs="*", default=(), help="metrics.json of the next seeds, for the card"
    )
    for name in ("seed", "tower_steps", "steps"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Recipe, name))
    args = parser.parse_args(argv)
    recipe = Recipe(seed=args.seed, tower_steps=args.tower_steps, steps=args.steps)
    work = args.work or Path(f"build/scenes-{recipe.seed}")
    model, progress = train(recipe, work)
    metrics = evaluate(model.eval())
    (work / "metrics.json").write_text(json.dumps(metrics, indent=1))
    others = [json.loads(path.read_text()) for path in args.beside]
    export(model, recipe, [metrics, *others], args.out, minutes=progress.seconds / 60)
    print(json.dumps(metrics, indent=1))


if __name__ == "__main__":
    main()
