"""What hooks cost: a table of ratios to the plain model.

    python -m benchmarks.engine [--tokens 1024] [--rounds 7]

The model is a Llama of 16.9 M parameters (6 layers, 8 heads, 4 key heads) with random weights; time does not depend on
them. The bars are the design's: hooks open with nothing asked 1.05, mass on key groups 1.4, retrieval while generating
1.05.
"""

import argparse
from collections.abc import Mapping
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.rows import Row, table
from benchmarks.timing import Way, least_seconds
from head_analysis.top_keys import top_keys_reader
from headscope import HookedModel, Record, Where
from headscope.recording import MassReader

NEW_TOKENS = 24
PLAIN = "plain"
BARS = {
    "hooks open, nothing asked": 1.05,
    "mass on 4 key groups, all heads": 1.4,
    "retrieval: top key of every head": 1.05,
}


def build() -> HookedModel:
    """The model that is timed."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=384,
        intermediate_size=1152,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=32768,
    )
    hf = LlamaForCausalLM(config).eval()
    hf.generation_config.eos_token_id = None
    return HookedModel(hf, name="bench")


@torch.inference_mode()
def rows(tokens: int = 1024, *, rounds: int = 7, new_tokens: int = NEW_TOKENS) -> list[Row]:
    """A row for each thing asked of a forward pass, and one for what is asked while generating."""
    model = build()
    ids = torch.randint(0, 8192, (1, tokens), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    groups = [[[0], list(range(1, 32)), list(range(32, 64)), list(range(64, 128))]]

    def forward(*hooks: Any) -> None:
        with model.hooks(*hooks):
            model.hf(ids, use_cache=False, logits_to_keep=1)

    def generate(*hooks: Any) -> None:
        with model.hooks(*hooks):
            model.hf.generate(ids, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False, pad_token_id=0)

    def retrieval() -> None:
        reader = top_keys_reader(model, 1)
        generate(reader)
        for layer in model.layers():
            reader.of_sample(layer, 0, new_tokens)

    passes: dict[str, Way] = {
        PLAIN: forward,
        "hooks open, nothing asked": lambda: forward(Record("pattern", Where(positions=(10**9,)))),
        "last row, all heads and layers": lambda: forward(Record("pattern", Where(positions=(-1,)))),
        "z, all heads and layers": lambda: forward(Record("z")),
        "mass on 4 key groups, all heads": lambda: forward(MassReader(Where(), groups)),
    }
    answers: dict[str, Way] = {PLAIN: generate, "retrieval: top key of every head": retrieval}
    return [
        *_rows("forward", passes, str(tokens), rounds),
        *_rows("generation", answers, f"{tokens} + {new_tokens}", rounds),
    ]


def _rows(kind: str, ways: Mapping[str, Way], tokens: str, rounds: int) -> list[Row]:
    for run in ways.values():
        run()  # warm-up
    seconds = least_seconds(ways, rounds)
    plain = seconds.pop(PLAIN)
    note = f"plain {kind} of {tokens} tokens: {plain:.3f} CPU s"
    return [
        Row(f"{kind}, {name}", tokens, s / plain, 1.0, bar=BARS.get(name), note=note) for name, s in seconds.items()
    ]


def main(argv: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args(argv)
    print(table(rows(args.tokens, rounds=args.rounds)))


if __name__ == "__main__":
    main()
