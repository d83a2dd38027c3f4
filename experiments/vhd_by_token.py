"""VHD of every head at every token of captions, in the folder of a run: what Token-VHD and means are made of.

One safetensors file, `tensors/vhd_by_token.safetensors`, with a float32 tensor [token layer head] for each caption under
its number, so that one caption is read without the others.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from headscope.errors import UsageError
from headscope.files import write_new
from headscope.runs import Run

MOST_BYTES = 2**30
"""Largest file that is written."""

_SCHEMA = 1
_BYTES = 4


def refuse_large(captions: int, tokens: int, heads: int) -> None:
    """UsageError where so many captions of up to so many tokens may take more than `MOST_BYTES`."""
    each = tokens * heads * _BYTES
    if captions * each > MOST_BYTES:
        raise UsageError(
            f"VHD of {heads} heads at {tokens} tokens of {captions} captions may take {captions * each / 2**30:.1f} GB, "
            f"and at most {MOST_BYTES / 2**30:g} GB is kept; keep that of {MOST_BYTES // each} captions (--by-token), or "
            "allow fewer --max-new-tokens"
        )


def keep_by_token(run: Run, steps: Sequence[Float[Tensor, "_ layer head"]]) -> None:
    """Keeps VHD of each caption's steps, in their order; what is there already stays."""
    if holds_by_token(run):
        return
    refuse_large(1, sum(map(len, steps)), max((one[0].numel() for one in steps if len(one)), default=0))
    tensors = {str(i): one.float().cpu().contiguous() for i, one in enumerate(steps)}
    about = {"headscope": json.dumps({"schema": _SCHEMA, "metric": "VHD", "captions": len(steps)})}
    write_new(_file(run), partial(save_file, tensors, metadata=about))


def holds_by_token(run: Run) -> bool:
    """Whether the run keeps VHD by token."""
    return _file(run).is_file()


def read_by_token(run: Run, caption: int) -> Float[Tensor, "token layer head"]:
    """VHD at the tokens of one caption, counted from 0, as the rows of `caption_tokens`; reads no other caption.

    NaN for heads that do not exist. UsageError for a run that keeps none, or not that of this caption, and for a file
    that is damaged.
    """
    path = _file(run)
    if not path.is_file():
        raise UsageError(
            f"{run.path} keeps no VHD by token; make it again with `headscope heads vision`, whose --by-token says of "
            "how many captions"
        )
    try:
        with safe_open(path, framework="pt") as kept:
            names = kept.keys()
            found = kept.get_tensor(str(caption)) if str(caption) in names else None
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} cannot be read ({error}); remove it and make the run again") from error
    if found is None:
        raise UsageError(f"caption {caption} is not among the {len(names)} that {path} holds, counted from 0")
    if found.ndim != 3 or found.dtype != torch.float32:
        raise UsageError(f"{path} is damaged: caption {caption} has shape {list(found.shape)}, not [token layer head]")
    return found


def _file(run: Run) -> Path:
    return run.path / "tensors" / "vhd_by_token.safetensors"
