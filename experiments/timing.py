"""How long a run will take, judged by one timed pass of the user's own model and prompts."""

import time
from collections.abc import Sequence

from headscope.model import HookedModel
from headscope.samples import Sample, batches


def seconds_a_pass(model: HookedModel, samples: Sequence[Sample], batch_tokens: int, *, new_tokens: int = 0) -> float:
    """Seconds of one plain pass of all samples, or one generation of `new_tokens`, by that of a single batch.

    An estimate: the batch is the one with the longest prompts, and the first pass may be slower than those after it.
    """
    lengths = [len(model.tokens(sample).ids) for sample in samples]
    _, chosen = next(batches(range(len(samples)), lambda i: lengths[i], batch_tokens))
    some = [samples[i] for i in chosen]
    started = time.perf_counter()
    if new_tokens:
        model.generate(some, max_new_tokens=new_tokens, batch_tokens=batch_tokens)
    else:
        model.forward(some, last=1).logits[:, -1].sum().item()  # waits for the device
    return (time.perf_counter() - started) * sum(lengths) / sum(lengths[i] for i in chosen)


def duration(seconds: float) -> str:
    """Seconds in a unit that a person would choose."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}" if seconds >= 10 * size else f"{seconds / size:.1f} {unit}"
    return f"{max(seconds, 1):.0f} s"
