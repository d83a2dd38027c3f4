"""Trains `zoo:needle`, a small Llama that answers questions about facts hidden in filler text.

    python -m training.needle --out headscope/zoo/needle

A document is filler (`tasks.prose`) with facts and questions (`tasks.facts`) strewn into it; see `training.documents`.
What makes the retrieval circuit form within minutes: several facts and questions a document and none asked twice, answer
tokens weighted in the loss, a mix of all lengths that leans on the longest one mastered, and an initialisation scaled to
the width instead of the library's fixed standard deviation of 0.02, which is far too small at d_model = 128. Every batch
is a function of (seed, step), so a run that was stopped and resumed gives the weights of one that was not (on the same
number of threads).
"""

import argparse
import json
import random
import time
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.checkpoints import load_progress, load_weights, save_checkpoint
from training.documents import answer_mask, batch, build_tokenizer, exact_match, exam, first_of


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights."""

    seed: int = 0
    steps: int = 2600
    tokens_per_step: int = 4096
    lengths: tuple[int, ...] = (64, 96, 160, 320, 544)
    advance_at: float = 0.85  # answer accuracy (exact match of a batch, smoothed) that lets the next length in
    answer_weight: float = 4.0
    first_weight: float = 8.0  # of an answer's first token, which alone depends on whose fact is asked
    lr: float = 1.5e-3
    warmup: int = 150
    layers: int = 4
    d_model: int = 128
    heads: int = 8
    d_head: int = 32
    d_mlp: int = 384


def build_model(recipe: Recipe, vocab_size: int) -> LlamaForCausalLM:
    """A Llama whose weights start at a scale that fits its width; output and down projections start at half of it."""
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=recipe.d_model,
            intermediate_size=recipe.d_mlp,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            head_dim=recipe.d_head,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        )
    )
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            half = 0.5 if name.endswith(("o_proj", "down_proj")) else 1.0
            nn.init.normal_(module.weight, std=half * module.in_features**-0.5)
    nn.init.normal_(model.model.embed_tokens.weight, std=recipe.d_model**-0.5)
    return model


@dataclass
class Progress:
    """What a checkpoint holds beside weights and optimizer state."""

    step: int = 0
    stage: int = 0
    accuracy: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    log: list[dict] = field(default_factory=list)


def loss_and_accuracy(model: LlamaForCausalLM, ids: Tensor, answers: Tensor, recipe: Recipe) -> tuple[Tensor, float]:
    """Weighted next-token loss, and the share of answers of which every token is the most likely one."""
    logits = model(ids, use_cache=False).logits[:, :-1]
    target, answers = ids[:, 1:], answers[:, 1:]
    token_loss = nn.functional.cross_entropy(logits.transpose(1, 2), target, reduction="none")
    weights = torch.ones_like(token_loss)
    weights[answers] = recipe.answer_weight
    weights[first_of(answers)] = recipe.first_weight
    return (token_loss * weights).sum() / weights.sum(), exact_match(logits.argmax(-1), target, answers)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine to a twentieth."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.lr * (0.05 + 0.95 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * done)).item()))


def train(recipe: Recipe, work: Path, *, checkpoint_every: int = 100) -> tuple[LlamaForCausalLM, Progress]:
    """Trains to `recipe.steps`, from the checkpoint in `work` if there is one; weights depend on the recipe alone."""
    tokenizer = build_tokenizer()
    model = build_model(recipe, len(tokenizer))
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )
    progress = load_progress(work, recipe, Progress)
    load_weights(work, model, optimizer)
    bar = tqdm(total=recipe.steps, initial=progress.step, desc="training", disable=None)
    while progress.step < recipe.steps:
        began = time.perf_counter()
        length = pick_length(recipe, progress)
        key = f"train/{recipe.seed}/{progress.step}"
        ids, answers = batch(tokenizer, length, recipe.tokens_per_step // length, key)
        loss, accuracy = loss_and_accuracy(model, ids, answers, recipe)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, progress.step)
        optimizer.step()
        progress.tokens += ids.numel()
        progress.seconds += time.perf_counter() - began
        if length == recipe.lengths[progress.stage]:
            progress.accuracy = 0.9 * progress.accuracy + 0.1 * accuracy
            if progress.accuracy > recipe.advance_at and progress.stage + 1 < len(recipe.lengths):
                progress.stage, progress.accuracy = progress.stage + 1, 0.0
        progress.step += 1
        bar.update()
        bar.set_postfix(length=length, loss=f"{loss.item():.3f}", answers=f"{accuracy:.2f}")
        if progress.step % checkpoint_every == 0 or progress.step == recipe.steps:
            progress.log.append({"step": progress.step, "length": length, "loss": loss.item(), "accuracy": accuracy})
            print(json.dumps(progress.log[-1] | {"stage": progress.stage, "s": round(progress.seconds)}), flush=True)
            save_checkpoint(work, recipe, model, optimizer, progress)
    bar.close()
    return model, progress


def pick_length(recipe: Recipe, progress: Progress) -> int:
    """The present stage's length half of the time, else any: earlier ones stay learned, later ones are met early."""
    rng = random.Random(f"length/{recipe.seed}/{progress.step}")
    return recipe.lengths[progress.stage] if rng.random() < 0.5 else rng.choice(recipe.lengths)


@torch.inference_mode()
def evaluate(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, n: int = 256) -> dict[str, float]:
    """Exact match on unseen documents with one question at the end, at every length and number of facts."""
    metrics = {}
    for n_facts in (1, 4):
        for length in (64, 128, 256, 512):
            if n_facts == 4 and length == 64:
                continue  # four facts fill a document of 64 tokens
            correct = total = 0.0
            for start in range(0, n, 32):
                texts = [exam(length, n_facts, f"exam/{length}/{n_facts}/{start + i}") for i in range(32)]
                ids = tokenizer(texts, return_tensors="pt", padding=True).input_ids
                mask = answer_mask(ids, tokenizer)
                logits = model(ids, attention_mask=(ids != tokenizer.pad_token_id).long(), use_cache=False).logits
                correct += 32 * exact_match(logits[:, :-1].argmax(-1), ids[:, 1:], mask[:, 1:])
                total += 32
            metrics[f"exact match, {n_facts} fact{'s' * (n_facts > 1)}, {length} tokens"] = correct / total
    return metrics


def export(model: LlamaForCausalLM, recipe: Recipe, progress: Progress, metrics: dict[str, float], out: Path) -> None:
    """Writes weights, tokenizer and a model card with the recipe and what was measured."""
    model.save_pretrained(out)
    build_tokenizer().save_pretrained(out)
    rows = "\n".join(f"| {name} | {value:.3f} |" for name, value in metrics.items())
    (out / "README.md").write_text(
        _CARD.format(
            layers=recipe.layers,
            heads=recipe.heads,
            parameters=sum(p.numel() for p in model.parameters()) / 1e6,
            tokens=progress.tokens / 1e6,
            minutes=progress.seconds / 60,
            threads=torch.get_num_threads(),
            date=date.today().isoformat(),
            recipe=json.dumps(asdict(recipe)),
            rows=rows,
        )
    )


_CARD = """\
---
license: apache-2.0
library_name: transformers
tags: [interpretability, retrieval-heads, synthetic]
---
# zoo:needle

A Llama of {layers} layers with {heads} heads each ({parameters:.2f} M parameters), trained from nothing on text that
the project writes itself. It answers questions about facts that stand somewhere in up to 512 tokens of filler, and does
little else: a place to see retrieval heads on a machine without a network, not a language model for use.

| measured on 256 unseen documents a row | share |
|---|---|
{rows}

Exact match: every token of an answer of 4 to 8 words and the full stop after it is the most likely one.

Trained on {date} with {tokens:.1f} M tokens in {minutes:.0f} minutes ({threads} CPU thread{plural}) by
`python -m training.needle --out headscope/zoo/needle`, recipe `{recipe}`.
""".replace("{plural}", "s")


def main(argv: list[str] | None = None) -> None:
    """Trains (or resumes), evaluates and exports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the finished model")
    parser.add_argument("--work", type=Path, default=Path("build/needle"), help="folder for the checkpoint")
    for name in ("steps", "seed", "layers"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Recipe, name))
    args = parser.parse_args(argv)
    recipe = Recipe(seed=args.seed, steps=args.steps, layers=args.layers)
    model, progress = train(recipe, args.work)
    metrics = evaluate(model.eval(), build_tokenizer())
    export(model, recipe, progress, metrics, args.out)
    print(json.dumps(metrics, indent=1))


if __name__ == "__main__":
    main()
