"""Labels that mean nothing: what a probe makes of them is what it can do without the model's help.

"shuffled" puts the labels in another order. A probe that does no better than on those has read nothing. "types" is the
control task of Hewitt & Liang (2019, arXiv 1909.03368): every type, such as a word, gets one label at random that all
its samples share, so that a probe can learn it by heart but a model cannot know it. Accuracy less the accuracy on a
control is the selectivity.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Int, Shaped

from headscope.errors import UsageError
from probes.questions import Labels, Question, as_array

Control = Literal["shuffled", "types"]


def type_numbers(
    control: Control, types: Labels | None, tokens: Sequence[tuple[int, ...]]
) -> Int[np.ndarray, " sample"] | None:
    """The type of each sample: the one given, or the tokens that it was read at; None for a control without types.

    UsageError for a control that is not known, and where all samples are of one type.
    """
    if control not in get_args(Control):
        raise UsageError(f"control {control!r} is not known; use one of {', '.join(get_args(Control))}")
    if control == "shuffled":
        if types is not None:
            raise UsageError("types are given, but control='shuffled' has none; ask for control='types'")
        return None
    named = [str(ids) for ids in tokens] if types is None else types
    numbers = np.unique(as_array(named, "types"), return_inverse=True)[1]
    if len(numbers) != len(tokens):
        raise UsageError(f"{len(numbers)} types were given for {len(tokens)} samples; give one for each")
    if numbers.max() == 0:
        raise UsageError(
            "all samples are of one type (unless types= are given, the type is the token that is read), and a label for "
            "each type would be one for all; give types=, or use control='shuffled'"
        )
    return numbers


def control_labels(
    question: Question, types: Int[np.ndarray, " sample"] | None, *, draws: int, seed: Sequence[int]
) -> Iterator[Shaped[np.ndarray, " sample"]]:
    """As many draws of labels; shuffled ones stay with whole groups where every group has one label."""
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        if types is not None:
            yield _by_type(question.labels, types, rng)
        elif question.labels_by_group:
            _, first = np.unique(question.groups, return_index=True)
            yield rng.permutation(question.labels[first])[question.groups]
        else:
            yield rng.permutation(question.labels)


def _by_type(labels: np.ndarray, types: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A label for each type, as often as among the samples; drawn again where all types got the same."""
    while True:
        drawn = rng.choice(labels, size=types.max() + 1)
        if len(np.unique(drawn)) > 1:
            return drawn[types]
