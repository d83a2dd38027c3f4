"""Whether two processes have loaded the same model, whatever its folder is called on their machines."""

import hashlib

from headscope.model import HookedModel

_VALUES = 16
"""Looked at in every tensor: a checkpoint of another step differs in all of them."""


def weights_digest(model: HookedModel) -> str:
    """SHA-256 of names, shapes, types and some values of all parameters."""
    digest = hashlib.sha256()
    for name, weight in model.hf.named_parameters():
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        if not weight.is_meta:
            flat = weight.detach().reshape(-1)
            some = flat[:: max(1, len(flat) // _VALUES)][:_VALUES]
            digest.update(repr(some.double().cpu().tolist()).encode())
    return digest.hexdigest()
