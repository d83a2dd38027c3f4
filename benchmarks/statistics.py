"""What exact attention statistics of all heads cost, beside the usual ways: a table of ratios to the plain model.

    python -m benchmarks.statistics [--tokens 4096] [--rounds 5] [--everything] [--peers]

The lean set is column mass, first-token mass, entropy, mean distance and top key of every row. Peers compute the same
from full patterns: transformers with eager attention and `output_attentions`, and TransformerLens' `run_with_cache`; they
need several GB at 4096 tokens. Times are CPU seconds of this process, the least of several rounds run in turn, so that
other programs disturb them little; memory is the peak over what stood before. The bars: lean at most 1.3 at 4096 tokens
and 1.6 at 16384, with at most twice the memory of the plain model; mass on key groups at most 1.4.
"""

import argparse
import copy
import ctypes
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.engine import build
from headscope import HookedModel, Where
from headscope.recording import MassReader
from headscope.statistics import SampleStatistics, StatisticsReader

Lean = list[dict[str, Tensor]]
Way = Callable[[], Any]


def lean_of(patterns: list[Tensor]) -> Lean:
    """The lean set of each layer from its full pattern [1 head query key]."""
    found = []
    for pattern in patterns:
        rows = pattern[0]
        places = torch.arange(rows.shape[-1], dtype=rows.dtype)
        column = rows.sum(1)
        found.append(
            {
                "column_mass": column,
                "entropy": -torch.special.xlogy(rows, rows).sum(-1),
                "top_key": rows.argmax(-1),
                "mean_distance": places.mean() - (column @ places) / rows.shape[1],
            }
        )
    return found


def transformer_lens_run(model: HookedModel, ids: Tensor, folder: str) -> Way:
    """A run of a copy of the model in TransformerLens that caches every pattern; its tokenizer is kept in the folder."""
    from tokenizers import Tokenizer, models
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    hf = copy.deepcopy(model.hf)
    hf.config.architectures = [type(hf).__name__]
    words = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    special = dict.fromkeys(("unk_token", "pad_token", "bos_token", "eos_token"), "<unk>")
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    bridge = TransformerBridge.boot_transformers("bench", hf_model=hf, tokenizer=tokenizer, device="cpu")

    def run() -> Lean:
        _, cache = bridge.run_with_cache(ids, names_filter=lambda name: name.endswith("hook_pattern"))
        return lean_of([cache[name] for name in cache if name.endswith("hook_pattern")])

    return run


def least_seconds(ways: Mapping[str, Way], rounds: int) -> dict[str, float]:
    """CPU seconds of each way, the least of all rounds."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in tqdm(range(rounds), desc="rounds", leave=False):
        for name, run in ways.items():
            began = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - began)
    return best


def peak_bytes(run: Way) -> int:
    """Memory at its highest while this runs, over what is in use before (Linux)."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the highest mark so far
    before = _memory("VmRSS")
    run()
    return _memory("VmHWM") - before


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def differences(ours: SampleStatistics, theirs: Lean) -> str:
    """Largest difference of each statistic over its mean, and how many top keys differ."""
    parts = []
    for name in ("column_mass", "entropy", "mean_distance"):
        mine, other = getattr(ours, name), torch.stack([one[name] for one in theirs])
        parts.append(f"{name} {float((mine - other).abs().max() / other.abs().mean()):.1e}")
    tops = torch.stack([one["top_key"] for one in theirs])
    differ = torch.ne(tops, torch.as_tensor(ours.top_key)).sum()
    return f"{', '.join(parts)}, top keys that differ {int(differ)} of {tops.numel()}"


@torch.inference_mode()
def main(argv: list[str] | None = None) -> None:
    """Prints the table, and how far the results differ from those of the peers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", action="store_true", help="also eager transformers and TransformerLens")
    parser.add_argument("--everything", action="store_true", help="also distances, repeated tokens and groups")
    args = parser.parse_args(argv)
    model = build()
    ids = torch.randint(0, 8192, (1, args.tokens), generator=torch.Generator().manual_seed(1))
    groups = [[[0], list(range(1, 32)), list(range(32, 64)), list(range(64, 128))]]

    def plain() -> None:
        model.hf(ids, use_cache=False, logits_to_keep=1)

    def read(**options: Any) -> SampleStatistics:
        given: dict[str, Any] = {"tokens": None, "groups": [[]], "distances": False, **options}
        reader = StatisticsReader(Where(), **given)
        with model.hooks(reader):
            plain()
        return reader.of_sample(0)

    def mass() -> None:
        with model.hooks(MassReader(Where(), groups)):
            plain()

    ways: dict[str, Way] = {"plain": plain, "lean statistics": read, "mass on 4 groups": mass}
    if args.everything:
        ways["lean and distances"] = lambda: read(distances=True)
        ways["lean and repeated tokens"] = lambda: read(tokens=ids)
        ways["lean and mass on 4 groups"] = lambda: read(groups=groups)
    if args.peers:
        eager = copy.deepcopy(model.hf)
        eager.set_attn_implementation("eager")
        ways["eager, output_attentions"] = lambda: lean_of(
            list(eager(ids, use_cache=False, logits_to_keep=1, output_attentions=True).attentions)
        )
        with TemporaryDirectory() as folder:
            ways["TransformerLens, run_with_cache"] = transformer_lens_run(model, ids, folder)
    memory = {name: peak_bytes(run) for name, run in ways.items()}  # also warms up
    seconds = least_seconds(ways, args.rounds)
    print(f"{args.tokens} tokens, {torch.get_num_threads()} threads, least of {args.rounds} rounds")
    for name in ways:
        times, bytes_ = seconds[name] / seconds["plain"], memory[name] / memory["plain"]
        print(f"  {name:<34} {seconds[name]:8.2f} s   x{times:.2f}   {memory[name] / 2**20:8.0f} MB   x{bytes_:.1f}")
    if args.peers:
        for name in list(ways)[-2:]:
            print(f"  against {name}: {differences(read(), ways[name]())}")


if __name__ == "__main__":
    main()
