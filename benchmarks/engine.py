"""What hooks cost: a table of ratios to the plain model.

    python -m benchmarks.engine [--tokens 1024] [--rounds 7]

The model is a Llama of 16.9 M parameters (6 layers, 8 heads, 4 key heads) with random weights; time does not depend on
them. The bars are the design's: hooks open with nothing asked 1.05, mass on key groups 1.4, retrieval while generating
1.05.
"""

import argparse

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.ratios import measure
from head_analysis.top_keys import LateTopKeys
from headscope import HookedModel, Record, Where
from headscope.recording import MassReader

NEW_TOKENS = 24


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
def main(argv: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args(argv)
    model = build()
    ids = torch.randint(0, 8192, (1, args.tokens), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    groups = [[[0], list(range(1, 32)), list(range(32, 64)), list(range(64, 128))]]

    def forward(*hooks: object) -> None:
        with model.hooks(*hooks):
            model.hf(ids, use_cache=False, logits_to_keep=1)

    def generate(*hooks: object) -> None:
        with model.hooks(*hooks):
            model.hf.generate(ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0)

    def retrieve() -> None:
        top = LateTopKeys(1)
        generate(top)
        for layer in model.layers():
            top.of_sample(layer, 0, NEW_TOKENS)

    def show(title: str, ways: dict) -> None:
        print(title)
        for name, (seconds, ratio) in measure(ways, rounds=args.rounds).items():
            print(f"  {name:<44} {seconds * 1e3:9.1f} ms   x{ratio:.2f}")

    print(f"{sum(p.numel() for p in model.hf.parameters()) / 1e6:.1f} M parameters, {torch.get_num_threads()} threads")
    show(
        f"forward of {args.tokens} tokens",
        {
            "plain": forward,
            "hooks open, nothing asked": lambda: forward(Record("pattern", Where(positions=(10**9,)))),
            "last row, all heads and layers": lambda: forward(Record("pattern", Where(positions=(-1,)))),
            "z, all heads and layers": lambda: forward(Record("z")),
            "mass on 4 groups, all heads, rows, layers": lambda: forward(MassReader(Where(), groups)),
        },
    )
    show(
        f"generation of {NEW_TOKENS} tokens after {args.tokens}",
        {"plain": generate, "retrieval: top key of every head": retrieve},
    )


if __name__ == "__main__":
    main()
