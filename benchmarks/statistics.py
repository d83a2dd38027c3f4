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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.engine import build
from benchmarks.peers import in_transformer_lens
from benchmarks.rows import Row
from benchmarks.timing import Way, least_seconds
from headscope import HookedModel, Where
from headscope.recording import MassReader
from headscope.statistics import SampleStatistics, StatisticsReader

Lean = list[dict[str, Tensor]]

PLAIN, LEAN, MASS = "plain", "lean statistics", "mass on 4 groups"
EAGER, LENS = "eager, output_attentions", "TransformerLens, run_with_cache"


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


def transformer_lens_run(model: HookedModel, ids: Tensor) -> Way:
    """A run of a copy of the model in TransformerLens that caches every pattern."""
    bridge = in_transformer_lens(model.hf)

    def run() -> Lean:
        _, cache = bridge.run_with_cache(ids, names_filter=lambda name: name.endswith("hook_pattern"))
        return lean_of([cache[name] for name in cache if name.endswith("hook_pattern")])

    return run


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


@dataclass(frozen=True)
class Measured:
    """Every way's CPU seconds and peak memory, and how far the results of peers are from ours."""

    tokens: int
    seconds: Mapping[str, float]
    memory: Mapping[str, float]
    differences: Mapping[str, str]

    def times(self, name: str) -> float | None:
        """Multiple of the plain pass's time; None for what was not run."""
        return self.seconds[name] / self.seconds[PLAIN] if name in self.seconds else None

    def bytes_(self, name: str) -> float | None:
        """Multiple of the plain pass's memory; None for what was not run."""
        return self.memory[name] / self.memory[PLAIN] if name in self.memory else None


@torch.inference_mode()
def measured(tokens: int = 4096, *, rounds: int = 5, peers: bool = True, everything: bool = False) -> Measured:
    """One interleaved run of all ways."""
    model = build()
    ids = torch.randint(0, 8192, (1, tokens), generator=torch.Generator().manual_seed(1))
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

    ways: dict[str, Way] = {PLAIN: plain, LEAN: read, MASS: mass}
    if everything:
        ways["lean and distances"] = lambda: read(distances=True)
        ways["lean and repeated tokens"] = lambda: read(tokens=ids)
        ways["lean and mass on 4 groups"] = lambda: read(groups=groups)
    if peers:
        eager = copy.deepcopy(model.hf)
        eager.set_attn_implementation("eager")
        ways[EAGER] = lambda: lean_of(
            list(eager(ids, use_cache=False, logits_to_keep=1, output_attentions=True).attentions)
        )
        ways[LENS] = transformer_lens_run(model, ids)
    memory = {name: peak_bytes(run) for name, run in ways.items()}  # also warms up
    seconds = least_seconds(ways, rounds)
    apart = {name: differences(read(), ways[name]()) for name in (EAGER, LENS) if name in ways}
    return Measured(tokens, seconds, memory, apart)


def rows(tokens: int = 4096, *, rounds: int = 5, peers: bool = True) -> list[Row]:
    """Time and memory of the lean set, and the time of mass on key groups."""
    found = measured(tokens, rounds=rounds, peers=peers)
    apart = "; ".join(f"against {name}: {text}" for name, text in found.differences.items())
    note = f"peers compute the same from full patterns, which nnsight does not have under sdpa; {apart}"
    lean, size = "exact statistics of all heads (column mass, entropy, top key, distance)", str(tokens)
    limit = 1.3 if tokens <= 4096 else 1.6
    time, space, mass = found.times, found.bytes_, found.times(MASS) or 0.0
    return [
        Row(f"{lean}: time", size, time(LEAN) or 0.0, time(EAGER), time(LENS), bar=limit, note=note),
        Row(f"{lean}: memory", size, space(LEAN) or 0.0, space(EAGER), space(LENS), bar=2.0, note=note),
        Row("mass on 4 key groups, all heads", size, mass, bar=1.4),
    ]


def main(argv: list[str] | None = None) -> None:
    """Prints every way, and how far the results differ from those of the peers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", action="store_true", help="also eager transformers and TransformerLens")
    parser.add_argument("--everything", action="store_true", help="also distances, repeated tokens and groups")
    args = parser.parse_args(argv)
    found = measured(args.tokens, rounds=args.rounds, peers=args.peers, everything=args.everything)
    print(f"{args.tokens} tokens, {torch.get_num_threads()} threads, least of {args.rounds} rounds")
    for name, seconds in found.seconds.items():
        size = found.memory[name] / 2**20
        print(f"  {name:<34} {seconds:8.2f} s   x{found.times(name):.2f}   {size:8.0f} MB   x{found.bytes_(name):.1f}")
    for name, text in found.differences.items():
        print(f"  against {name}: {text}")


if __name__ == "__main__":
    main()
