"""How much faster an exact ablation sweep of all heads is than one pass a head: a table of speed-ups.

    python -m benchmarks.sweep [--rounds 3] [--heads 4] [--only NAME ...]

Effects of zeroing each head on a logit difference, in Llamas with random weights; time does not depend on them. The base
is one forward pass a head with a hook on o_proj that sets the head's input to 0, all logits computed, as most scripts do.
Beside it: the same with the last logits only, TransformerLens' `run_with_hooks` on `hook_z`, and an nnsight trace a head.
In all of those every head costs the same, so only some are timed and the time is scaled to all heads and the whole model;
ours sweeps all of them, tokenizing and the proof that passes may be shared included. The bars are the design's: 2.5, and
7 where three quarters of every prompt are the same.
"""

import argparse
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.peers import in_nnsight, in_transformer_lens, in_words, words_tokenizer
from benchmarks.rows import Row, table
from benchmarks.timing import least_seconds
from experiments import run_sweep, units
from experiments.sweeps.ablated import Ablation, Ablator
from headscope import Head, HookedModel, Sample

VOCABULARY = 8192
RIGHT, WRONG = 17, 4711
"""The answers whose logits are compared; any two do."""

Ablate = Callable[[Head], Float[Tensor, " prompt"]]
"""Logit difference of every prompt without a head."""


@dataclass(frozen=True)
class Work:
    """A model and prompts."""

    model: str
    layers: int
    width: int
    heads: int
    prompts: int
    tokens: int
    shared: int = 0
    """Tokens with which all prompts begin."""
    bar: float | None = 2.5

    @property
    def name(self) -> str:
        """Such as `M 8x128, 96 shared`."""
        return f"{self.model} {self.size}"

    @property
    def size(self) -> str:
        """Prompts x tokens."""
        return f"{self.prompts}x{self.tokens}" + (f", {self.shared} shared" if self.shared else "")

    def build(self) -> HookedModel:
        """The model."""
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=self.width,
            intermediate_size=self.width * 8 // 3 // 32 * 32,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=4096,
            initializer_range=0.05,  # the default leaves attention flat and effects within rounding
            tie_word_embeddings=False,
        )
        return HookedModel(LlamaForCausalLM(config).eval(), words_tokenizer(VOCABULARY), name=self.model)

    def ids(self) -> Tensor:
        """The prompts [prompt token]."""
        ids = torch.randint(1, VOCABULARY, (self.prompts, self.tokens), generator=torch.Generator().manual_seed(1))
        ids[:, : self.shared] = ids[0, : self.shared]
        return ids


WORKS = (
    Work("S", 4, 256, 4, prompts=32, tokens=128),
    Work("M", 8, 512, 8, prompts=8, tokens=128),
    Work("M", 8, 512, 8, prompts=2, tokens=16),
    Work("M", 8, 512, 8, prompts=8, tokens=128, shared=96, bar=7.0),
)


def difference(logits: Float[Tensor, "prompt token vocab"]) -> Float[Tensor, " prompt"]:
    """Of the two answers' logits after the last token."""
    return logits[:, -1, RIGHT] - logits[:, -1, WRONG]


def by_hook(hf: Any, ids: Tensor, **options: Any) -> Ablate:
    """A pass with a plain hook that zeroes the head's input to o_proj."""
    size = hf.config.hidden_size // hf.config.num_attention_heads

    def without(head: Head) -> Tensor:
        def zero(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            z = args[0].clone()
            z[..., head.head * size : (head.head + 1) * size] = 0
            return (z,)

        handle = hf.model.layers[head.layer].self_attn.o_proj.register_forward_pre_hook(zero)
        try:
            return difference(hf(ids, use_cache=False, **options).logits)
        finally:
            handle.remove()

    return without


def by_transformer_lens(hf: Any, ids: Tensor) -> Ablate:
    """A pass of a TransformerBridge with a hook on z."""
    bridge = in_transformer_lens(hf)

    def without(head: Head) -> Tensor:
        def zero(z: Tensor, hook: Any) -> Tensor:
            z = z.clone()
            z[:, :, head.head] = 0
            return z

        return difference(bridge.run_with_hooks(ids, fwd_hooks=[(f"blocks.{head.layer}.attn.hook_z", zero)]))

    return without


def by_nnsight(hf: Any, ids: Tensor) -> Ablate:
    """A trace of the model in nnsight."""
    traced = in_nnsight(hf)
    size = hf.config.hidden_size // hf.config.num_attention_heads

    def without(head: Head) -> Tensor:
        start = head.head * size
        with traced.trace(ids, use_cache=False):
            z = traced.model.layers[head.layer].self_attn.o_proj.input.clone()
            z[..., start : start + size] = 0
            traced.model.layers[head.layer].self_attn.o_proj.input = z
            logits = traced.lm_head.output.save()
        return difference(logits)

    return without


def samples_of(ids: Tensor) -> list[Sample]:
    """The prompts in words, with the two answers."""
    meta = {"foil": f" t{WRONG}"}
    return [Sample(in_words(row.tolist()), target=f" t{RIGHT}", meta=meta) for row in ids]


def some_heads(heads: Sequence[Head], count: int) -> tuple[Head, ...]:
    """Heads at equal distances, the first layer and the last among them."""
    places = torch.linspace(0, len(heads) - 1, min(count, len(heads))).round().int().tolist()
    return tuple(heads[place] for place in places)


@dataclass(frozen=True)
class Result:
    """One work, timed and compared."""

    work: Work
    seconds: Mapping[str, float]
    """Of a whole sweep."""
    timed: int
    """Heads that were timed in ways other than ours."""
    apart: Mapping[str, float]
    """Largest difference of each way's effects from those of the base, over their standard deviation."""

    def speed(self, name: str, base: str = "plain") -> float:
        """Speed-up of a way over the base."""
        return self.seconds[base] / self.seconds[name]

    def rows(self) -> list[Row]:
        """The row of the table."""
        apart = ", ".join(f"{name} {value:.0e}" for name, value in self.apart.items())
        last, heads = self.speed("plain, last logits"), self.work.layers * self.work.heads
        return [
            Row(
                f"exact ablation of all heads, {self.work.model}: speed-up",
                self.work.size,
                self.speed("ours"),
                1.0,
                self.speed("transformer_lens"),
                self.speed("nnsight"),
                bar=self.work.bar,
                better="more",
                note=f"{self.work.name}: {self.timed} of {heads} heads timed and scaled but in ours; plain passes with "
                f"the last logits only {last:.2f}; largest differences of effects from plain's, over their standard "
                f"deviation: {apart}",
            )
        ]


def measured(work: Work, *, rounds: int = 3, heads: int = 4) -> Result:
    """One interleaved run of all ways."""
    model, ids = work.build(), work.ids()
    samples, everything = samples_of(ids), model.heads()
    timed = some_heads(everything, heads)
    ways: dict[str, Ablate] = {
        "plain": by_hook(model.hf, ids),
        "plain, last logits": by_hook(model.hf, ids, logits_to_keep=1),
        "transformer_lens": by_transformer_lens(model.hf, ids),
        "nnsight": by_nnsight(model.hf, ids),
    }
    found: dict[str, Tensor] = {}

    def ours() -> None:
        scores = run_sweep(
            model, samples, units(everything), metric="logit_difference", batch_tokens=ids.numel()
        ).scores()
        found["ours"] = torch.stack([scores.samples[:, head.layer, head.head] for head in timed])

    def peer(name: str) -> Callable[[], None]:
        def run() -> None:
            found[name] = torch.stack([ways[name](head) for head in timed])

        return run

    with torch.no_grad():
        clean = difference(model.hf(ids, use_cache=False, logits_to_keep=1).logits)
        seconds = least_seconds({"ours": ours} | {name: peer(name) for name in ways}, rounds)
    effects = {name: values if name == "ours" else values - clean for name, values in found.items()}
    spread = effects["plain"].std()
    apart = {name: float((values - effects["plain"]).abs().max() / spread) for name, values in effects.items()}
    apart["ours in float64"] = in_double(model, ids, timed)
    del apart["plain"]
    scale = (len(everything) + 1) / len(timed)  # effects need a pass of the whole model too; ours times its own
    whole = {name: value if name == "ours" else value * scale for name, value in seconds.items()}
    return Result(work, whole, len(timed), apart)


@torch.no_grad()
def in_double(model: HookedModel, ids: Tensor, heads: Sequence[Head]) -> float:
    """Largest difference between ours and plain hooks in double precision, over the spread of effects."""
    double = HookedModel(copy.deepcopy(model.hf).double(), model.processor, name=model.name)
    plain = by_hook(double.hf, ids, logits_to_keep=1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    runs = dict(Ablator(double, Ablation()).logits(inputs, units(heads), wanted=1))
    clean = difference(runs.pop(None))
    pairs = [(difference(logits), plain(unit.heads[0])) for unit, logits in runs.items() if unit is not None]
    effects = torch.stack([theirs - clean for _, theirs in pairs])
    return float(torch.stack([(mine - theirs).abs().max() for mine, theirs in pairs]).max() / effects.std())


def rows(works: Sequence[Work] = WORKS, *, rounds: int = 3, heads: int = 4) -> list[Row]:
    """A row a work."""
    return [row for work in works for row in measured(work, rounds=rounds, heads=heads).rows()]


def main(argv: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--heads", type=int, default=4, help="heads that are timed in the other ways")
    parser.add_argument("--only", nargs="+", choices=[work.name for work in WORKS], help="these works only")
    args = parser.parse_args(argv)
    works = [work for work in WORKS if not args.only or work.name in args.only]
    print(table(rows(works, rounds=args.rounds, heads=args.heads)))


if __name__ == "__main__":
    main()
