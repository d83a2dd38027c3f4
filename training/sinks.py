"""Trains `zoo:sinks`, a small Llama in which attention sinks come up by themselves.

    python -m training.sinks --out headscope/zoo/sinks

Most words of its text can be told from the word before, and behind a few triggers an earlier word is copied
(`tasks.backcopy`), so that a head that copies is idle nearly everywhere: Guo et al. 2024 (arXiv 2410.13835) show that
such heads come to rest on the first token. Texts are packed one behind the other without a mask between them, so
`<s>` also stands in the middle of a row. Nothing in the loss names attention or `<s>`. What made sinks come up within
minutes in trials: queries and keys that start large beside values and outputs, narrow heads, so that copying takes
several of them, no weight decay, and many small steps at a high rate.

Every batch is a function of (seed, step), so a run that was stopped and resumed gives the weights of one that was not
(on the same number of threads).
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from headscope import HookedModel
from training.checkpoints import load_progress, load_weights, save_checkpoint
from training.sink_card import export
from training.sink_documents import Rows, build_tokenizer, rows
from training.sink_exam import evaluate


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights."""

    seed: int = 0
    steps: int = 3500
    tokens_per_step: int = 1024
    lengths: tuple[int, ...] = (64, 128, 128, 256)  # of rows; any, drawn anew for every step
    kind_weight: float = 3.0  # of the name of a kind, once a text, in the loss
    lr: float = 6e-3
    warmup: int = 50
    decay_from: float = 0.6  # share of the steps after which the rate falls
    query_key_scale: float = 1.5  # of the initial weights, in units of 1 / sqrt(inputs)
    other_scale: float = 0.4
    layers: int = 4
    d_model: int = 64
    heads: int = 8
    d_head: int = 8
    d_mlp: int = 192


def build_model(recipe: Recipe, vocab_size: int) -> LlamaForCausalLM:
    """A Llama whose queries and keys start large, everything else small; output and down projections at half of that."""
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=recipe.d_model,
            intermediate_size=recipe.d_mlp,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
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
            scale = recipe.query_key_scale if name.endswith(("q_proj", "k_proj")) else recipe.other_scale
            half = 0.5 if name.endswith(("o_proj", "down_proj")) else 1.0
            nn.init.normal_(module.weight, std=scale * half * module.in_features**-0.5)
    nn.init.normal_(model.model.embed_tokens.weight, std=recipe.d_model**-0.5)
    return model


@dataclass
class Progress:
    """What a checkpoint holds beside weights and optimizer state."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    log: list[dict] = field(default_factory=list)


def loss_of(model: LlamaForCausalLM, batch: Rows, recipe: Recipe) -> Tensor:
    """Next-token loss, names of kinds weighted."""
    logits = model(batch.ids, use_cache=False).logits[:, :-1]
    token_loss = nn.functional.cross_entropy(logits.transpose(1, 2), batch.ids[:, 1:], reduction="none")
    weights = torch.ones_like(token_loss)
    weights[batch.kinds[:, 1:]] = recipe.kind_weight
    return (token_loss * weights).sum() / weights.sum()


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, level, then down a line to a twentieth."""
    rise = min(1.0, (step + 1) / recipe.warmup)
    late = max(0.0, (step / recipe.steps - recipe.decay_from) / (1 - recipe.decay_from))
    return recipe.lr * rise * (1 - 0.95 * late)


def batch_of(recipe: Recipe, vocabulary: dict[str, int], step: int) -> Rows:
    """The rows of one step."""
    key = f"train/{recipe.seed}/{step}"
    length = random.Random(f"length/{key}").choice(recipe.lengths)
    return rows(vocabulary, length, recipe.tokens_per_step // length, key)


def train(recipe: Recipe, work: Path, *, checkpoint_every: int = 250) -> tuple[LlamaForCausalLM, Progress]:
    """Trains to `recipe.steps`, from the checkpoint in `work` if there is one; weights depend on the recipe alone."""
    vocabulary = build_tokenizer().get_vocab()
    model = build_model(recipe, len(vocabulary))
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98))
    progress = load_progress(work, recipe, Progress)
    load_weights(work, model, optimizer)
    for step in tqdm(range(progress.step, recipe.steps), desc="training", disable=None):
        began = time.perf_counter()
        batch = batch_of(recipe, vocabulary, step)
        loss = loss_of(model, batch, recipe)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        optimizer.step()
        progress.step += 1
        progress.tokens += batch.ids.numel()
        progress.seconds += time.perf_counter() - began
        if progress.step % checkpoint_every == 0 or progress.step == recipe.steps:
            progress.log.append({"step": progress.step, "loss": loss.item()})
            print(json.dumps(progress.log[-1] | {"s": round(progress.seconds)}), flush=True)
            save_checkpoint(work, recipe, model, optimizer, progress)
    return model, progress


def main(argv: Sequence[str] | None = None) -> None:
    """Trains (or resumes), measures and exports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the finished model")
    parser.add_argument(
        "--work", type=Path, help="folder for checkpoint and metrics.json; build/sinks-SEED if not given"
    )
    parser.add_argument("--beside", type=Path, nargs="*", default=(), help="metrics.json of other seeds, for the card")
    for name in ("seed", "steps"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Recipe, name))
    args = parser.parse_args(argv)
    recipe = Recipe(seed=args.seed, steps=args.steps)
    work = args.work or Path(f"build/sinks-{recipe.seed}")
    trained, progress = train(recipe, work)
    model = HookedModel(trained.eval(), build_tokenizer(), name="zoo:sinks")
    exam = evaluate(model)
    (work / "metrics.json").write_text(json.dumps({"seed": recipe.seed, **exam.metrics}, indent=1))
    others = [json.loads(path.read_text()) for path in args.beside]
    export(trained, recipe, exam, others, args.out, minutes=progress.seconds / 60, tokens=progress.tokens / 1e6)
    print(json.dumps(exam.metrics, indent=1))


if __name__ == "__main__":
    main()
