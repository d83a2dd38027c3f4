"""What a reading will cost before it is made, and whether the memory there is will do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from headscope.engine.blocks import BLOCK_ELEMENTS
from headscope.errors import UsageError
from headscope.samples import batches
from headscope.sites import AttentionSite

_FLOAT = 4


@dataclass(frozen=True)
class Cost:
    """Time as a multiple of plain forward passes of the same samples, and memory beyond theirs; both estimates."""

    forwards: float
    bytes: int

    def __str__(self) -> str:
        return f"about {self.forwards:.1f} x the time of plain forward passes and {_size(self.bytes)} of memory more"


def statistics_cost(
    sites: Sequence[AttentionSite],
    lengths: Sequence[int],
    parameters: int,
    *,
    batch_tokens: int = 8192,
    groups: int = 0,
    distances: bool = False,
    tokens: bool = False,
) -> Cost:
    """Cost of attention statistics of samples of these lengths, in a model of so many parameters.

    Time rests on the share of arithmetic that is attention, and on what its statistics took on a CPU in one thread
    (`benchmarks/statistics.py`). Memory counts results, blocks and copies, and the masks that models make for padded
    batches and sliding windows.
    """
    heads = sum(site.n_heads for site in sites)
    width = max(site.n_heads * (site.d_qk + site.d_head) for site in sites)
    plain, read, most = 0.0, 0.0, 0
    for _, chosen in batches(list(lengths), lambda length: length, batch_tokens):
        longest = max(chosen)
        linear = 2.0 * parameters * longest
        attention = sum(1.5 * longest**2 * site.n_heads * (site.d_qk + site.d_head) for site in sites)
        plain += len(chosen) * (linear + attention)
        read += len(chosen) * (linear + attention * (1.5 + 0.4 * distances + 0.5 * tokens))
        most = max(most, len(chosen) * longest * (longest + 4 * width * _FLOAT))
    blocks = 3 * BLOCK_ELEMENTS * torch.get_num_threads() * _FLOAT
    numbers = (4 + distances + groups) * _FLOAT  # a token's column mass, entropy, top key (two), distance, groups
    return Cost(read / plain, int(sum(lengths) * heads * numbers + most + blocks))


def require_memory(cost: Cost, device: torch.device, instead: str) -> None:
    """UsageError, with what to do `instead`, if the device has not that much memory free, where that can be told."""
    free = available_memory(device)
    if free is not None and cost.bytes > free:
        raise UsageError(f"this needs {_size(cost.bytes)} of memory and {device} has {_size(free)} free; {instead}")


def available_memory(device: torch.device) -> int | None:
    """Bytes free on a GPU, or available to new programs on Linux; None elsewhere."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    facts = Path("/proc/meminfo")
    if device.type != "cpu" or not facts.exists():
        return None
    for line in facts.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA and Python have exceptions of their own for it; the CPU allocator only says so in a RuntimeError."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"
