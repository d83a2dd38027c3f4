"""What VHD costs beside plain generation, and how the cost is made up.

    python -m benchmarks.vision [--rounds 7]

The model is a LLaVA with random weights: a language model of 8 layers, width 512, 8 heads; 576 image tokens and 64 of
text, 32 tokens written. The bar is the design's: 1.05.
"""

import argparse
from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from benchmarks.rows import Row, table
from benchmarks.timing import least_seconds
from head_analysis.vhd import DecodeZ, z_without_image
from headscope import HookedModel

IMAGE, NEW_TOKENS = 1, 32


def build() -> tuple[HookedModel, dict[str, torch.Tensor]]:
    """The model that is timed, and its prompt."""
    torch.manual_seed(0)
    text = LlamaConfig(
        vocab_size=4096,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=2048,
    )
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=336,
        patch_size=14,
    )
    hf = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)
    ).eval()
    hf.generation_config.eos_token_id = None
    ids = torch.cat([torch.full((1, 576), IMAGE), torch.randint(2, 4096, (1, 64))], 1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.randn(1, 3, 336, 336)}
    return HookedModel(hf, example=inputs, name="bench"), inputs


@torch.inference_mode()
def rows(*, rounds: int = 7, new_tokens: int = NEW_TOKENS) -> list[Row]:
    """A row for VHD, and one for the part of it that is done while generating."""
    model, inputs = build()

    def generate(*hooks: Any) -> torch.Tensor:
        with model.hooks(*hooks):
            return model.hf.generate(**inputs, max_new_tokens=new_tokens, do_sample=False, pad_token_id=0)

    answer = tuple(generate()[0, inputs["input_ids"].shape[1] :].tolist())

    def vhd() -> None:
        generate(DecodeZ())
        z_without_image(model, inputs, [answer])

    seconds = least_seconds({"plain": generate, "z": lambda: generate(DecodeZ()), "vhd": vhd}, rounds)
    tokens, plain = f"{inputs['input_ids'].shape[1]} + {new_tokens}", seconds["plain"]
    return [
        Row("z kept while generating", tokens, seconds["z"] / plain, 1.0),
        Row("VHD of an answer (z kept, and a pass without the image)", tokens, seconds["vhd"] / plain, 1.0, bar=1.05),
    ]


def main(argv: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args(argv)
    print(table(rows(rounds=args.rounds)))


if __name__ == "__main__":
    main()
