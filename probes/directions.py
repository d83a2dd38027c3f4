"""From a probe to a direction that `interventions.Steer` and `Project` take."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headscope.errors import UsageError


def spreads(X: Float[np.ndarray, "sample d"], weights: Float[np.ndarray, "row d"]) -> Float[np.ndarray, " row"]:
    """Standard deviation of the samples along each row of weights, whose length does not count."""
    return (X @ _units(weights).T).std(0)


def directions(weights: Float[np.ndarray, "row d"], lengths: Float[np.ndarray, " row"]) -> Float[Tensor, "row d"]:
    """The rows of weights made as long as is asked; a row of zeros stays one."""
    return torch.from_numpy((_units(weights) * lengths[:, None]).astype(np.float32))


def row_of(label: object, classes: np.ndarray) -> tuple[int, int]:
    """Row of weights, and its sign, that points to a class; None is the second of two. UsageError if it is not known."""
    if label is None and len(classes) > 2:
        raise UsageError(f"the probe has {len(classes)} classes; name the one to point to, such as {classes[0]!r}")
    found = [len(classes) - 1] if label is None else np.flatnonzero(classes == label).tolist()
    if not found:
        raise UsageError(f"{label!r} is no class of this probe; its classes are {', '.join(map(str, classes))}")
    if len(classes) > 2:
        return found[0], 1
    return 0, 1 if found[0] == 1 else -1


def _units(weights: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(weights, axis=1, keepdims=True)
    return weights / np.where(norms == 0, 1, norms)
