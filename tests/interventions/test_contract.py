"""The contract of operators, one table: what every one of them keeps, on every family of models it works on.

Variants of an operator, and operators on text, are tried on three of the families with images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from headscope import Head, Record, UsageError
from headscope.literals import parse_call
from headscope.prompting import Prompt
from interventions import (
    VAR,
    VHR,
    Ablate,
    HeadOutputs,
    ImageBoost,
    ImbalanceFix,
    KnockOut,
    MutualMask,
    Project,
    Scale,
    Steer,
)
from interventions.var import _FindSinks, _Redistribute
from tests.headscope.test_hooks import gap
from tests.interventions.cases import (
    VLMS,
    at_once,
    first,
    forward,
    generated,
    image_of,
    in_steps,
    logits,
    model,
    narrow,
    narrow_model,
    other_end,
    second,
    together,
    words,
)
from tests.tiny import Inputs

HEADS = "L0H1, L1H2"
BOTH = (0, 1)  # the tiny models have no other layers, and some operators would leave these alone
SINKS = {"dims": (0, 1, 2, 3), "tau": 1.5, "layers": BOTH, "min_image": 0.02, "rho_nonsink": 0.2}
REFERENCE = HeadOutputs(
    {layer: torch.randn(20, 4, 8, generator=torch.Generator().manual_seed(layer)) for layer in BOTH}, 1
)
DIRECTION = torch.randn(32, generator=torch.Generator().manual_seed(9))


@dataclass(frozen=True)
class Row:
    """An operator and what it says of itself."""

    operator: Any
    queries: Literal["all", "after_image", "image", "last"] = "all"
    """Which queries of a single pass it touches."""
    heads: tuple[int, ...] | Literal["all", "some"] = "all"
    """Which heads of the first layer it touches."""
    layer: int = 0
    """The first layer it touches."""
    causal: bool | None = True
    """Whether later tokens leave earlier logits alone; None: they may change what is chosen."""
    by_prompt: bool = False
    """Whether it goes by what stands in the prompt, so that an answer read as part of the prompt changes it."""


TEXT = {
    "zero": Row(Ablate(HEADS), heads=(1,)),
    "mean": Row(Ablate(HEADS, "mean", reference=REFERENCE), heads=(1,)),
    "resample": Row(Ablate(HEADS, "resample", reference=REFERENCE), heads=(1,)),
    "uniform": Row(Ablate(HEADS, "uniform"), heads=(1,)),
    "scale": Row(Scale(HEADS, 0.25), heads=(1,)),
    "steer heads": Row(Steer({"L0H1": DIRECTION[:8], "L1H2": DIRECTION[8:16]}, 2), heads=(1,)),
    "steer layer": Row(Steer({0: DIRECTION}, site="resid_pre")),
    "project heads": Row(Project({"L0H1": DIRECTION[:8], "L1H2": DIRECTION[8:16]}), heads=(1,)),
    "project layer": Row(Project({0: DIRECTION}, site="resid_pre")),
    "knock-out places": Row(KnockOut((-4, -3, -2), (-1,), heads=HEADS), queries="last", heads=(1,), by_prompt=True),
}
IMAGES = {
    "VAR": Row(VAR(**SINKS), queries="after_image", by_prompt=True),
    "VAR released": Row(VAR("released", **SINKS), queries="after_image", by_prompt=True),
    # as many donors among the text as the prompt has sinks there, so that its end decides on earlier rows
    "VAR random": Row(VAR(donors="random", **SINKS), queries="after_image", by_prompt=True, causal=None),
    "VHR": Row(VHR(), heads="some", layer=1, by_prompt=True, causal=None),
    "VHR plain": Row(VHR(text_branch="plain"), heads="some", layer=1, by_prompt=True, causal=None),
    "VHR positions": Row(VHR(removal="keep_positions"), heads="some", layer=1, by_prompt=True, causal=None),
    "VHR blank": Row(VHR(removal="blank_image"), heads="some", layer=1, by_prompt=True, causal=None),
    "VHR all outliers": Row(VHR(outliers="kept", layers=BOTH), heads="some", by_prompt=True, causal=None),
    "VHR heads": Row(VHR(heads=HEADS), heads=(1,)),
    "boost": Row(ImageBoost(0.5, layers=BOTH), queries="last"),
    "boost heads": Row(ImageBoost(0.5, heads=HEADS, layers=BOTH), queries="last", heads=(1,)),
    "imbalance": Row(ImbalanceFix(layers=BOTH), queries="last"),
    "imbalance paper": Row(ImbalanceFix("paper", layers=BOTH), queries="last", by_prompt=True),
    "knock-out image": Row(KnockOut(), queries="after_image"),
    "mutual": Row(MutualMask(), queries="image", causal=False, by_prompt=True),
}
ROWS = TEXT | IMAGES
DECODERS = ("llama", "gpt2", "gemma2", "gpt_oss")
SOME_VLMS = ("llava", "qwen2_5_vl", "idefics3")  # a token a patch; merged in windows; tiles
EVERYWHERE = ("VAR", "VHR", "boost", "imbalance", "imbalance paper", "knock-out image", "mutual")
EXTRA_MASS = {"gpt_oss"}  # part of each row goes to no key
BOTH_WAYS = {"paligemma"}  # reads a prompt in both directions, so that its own cache differs from one pass
LENGTH = 2

cases = pytest.mark.parametrize(
    ("name", "row"),
    [(name, row) for name in DECODERS for row in TEXT]
    + [(name, row) for name in VLMS for row in (ROWS if name in SOME_VLMS else EVERYWHERE)],
)


@dataclass(frozen=True)
class Run:
    """One prompt of a model under an operator."""

    logits: Tensor
    z: dict[int, list[Tensor]]
    rows: dict[int, list[Tensor]]


def run(name: str, inputs: Inputs, *operators: Any) -> Run:
    z, rows = Record("z"), Record("pattern")
    return Run(logits(model(name), inputs, *operators, z, rows), z.seen, rows.seen)


@cache
def plain(name: str) -> Run:
    return run(name, first(name))


@cache
def edited(name: str, row: str) -> Run:
    return run(name, first(name), ROWS[row].operator)


@cache
def alone(name: str, row: str) -> Tensor:
    return logits(model(name), second(name), ROWS[row].operator)


@cache
def plain_steps(name: str) -> Tensor:
    return in_steps(model(name), first(name), words(LENGTH, seed=3))


@cases
def test_it_has_an_effect_and_keeps_shape_and_dtype(name: str, row: str):
    ours, before = edited(name, row).logits, plain(name).logits
    assert ours.shape == before.shape
    assert ours.dtype == before.dtype
    assert gap(ours, before) > 1e-3


@cases
def test_other_queries_and_heads_stay_as_they_were_to_the_bit(name: str, row: str):
    said, image = ROWS[row], image_of(first(name))
    moved = (edited(name, row).z[said.layer][0] != plain(name).z[said.layer][0])[0].any(-1)  # [query head]
    places = torch.arange(len(image))
    end = int(places[image].max()) + 1 if image.any() else 0
    touched = {"all": places >= 0, "after_image": places >= end, "image": image, "last": places == len(image) - 1}
    assert moved.any()
    assert not moved[~touched[said.queries]].any()
    if said.heads == "some":
        assert not moved.any(0).all()
    elif said.heads != "all":
        assert not moved[:, [head for head in range(4) if head not in said.heads]].any()


@cases
def test_rows_still_sum_to_one(name: str, row: str):
    if name in EXTRA_MASS:
        pytest.skip("its rows sum to less than one without any operator")
    for blocks in edited(name, row).rows.values():
        assert gap(blocks[0].sum(-1), torch.ones(blocks[0].shape[:-1])) < 1e-5


@cases
def test_later_tokens_leave_earlier_logits_alone(name: str, row: str):
    if ROWS[row].causal is None:
        pytest.skip("what it chooses depends on the end of the prompt")
    if name in BOTH_WAYS:
        pytest.skip("the model itself reads its prompt both ways")
    changed = logits(model(name), other_end(first(name)), ROWS[row].operator)
    moved = gap(changed[:, :-2], edited(name, row).logits[:, :-2])
    assert moved < 1e-5 if ROWS[row].causal else moved > 1e-2
    assert gap(changed[:, -2:], edited(name, row).logits[:, -2:]) > 1e-2


@cases
def test_a_padded_batch_equals_its_samples_alone(name: str, row: str):
    batch = logits(model(name), together(first(name), second(name)), ROWS[row].operator)
    for i, single in enumerate((edited(name, row).logits, alone(name, row))):
        assert gap(batch[i, -single.shape[1] :], single[0]) < 1e-4


@cases
def test_decoding_on_the_cache_equals_reading_at_once(name: str, row: str):
    if name in BOTH_WAYS:
        pytest.skip("its cached decoding differs from one pass by itself")
    said, inputs, more = ROWS[row], first(name), words(LENGTH, seed=3)
    steps = in_steps(model(name), inputs, more, said.operator)
    if said.by_prompt:
        whole = in_steps(model(name), inputs, more, said.operator, size=LENGTH)
    else:
        whole = at_once(model(name), inputs, more, said.operator)
    assert gap(steps, whole) < 1e-4
    assert gap(steps[:, -1], plain_steps(name)[:, -1]) > 1e-4  # still at work at the last step


@cases
def test_generation_runs_the_same_passes(name: str, row: str):
    """What `generate` prepares for itself, images it encodes in advance among it, changes nothing for an operator."""
    hooked, inputs, operator = model(name), first(name), ROWS[row].operator
    more, chosen_from = generated(hooked, inputs, LENGTH, operator)
    assert gap(in_steps(hooked, inputs, more[:, :-1], operator), chosen_from) < 1e-4


@pytest.mark.parametrize("name", sorted(BOTH_WAYS))
def test_models_that_are_let_off_are_not_causal_themselves(name: str):
    assert gap(logits(model(name), other_end(first(name)))[:, :-2], plain(name).logits[:, :-2]) > 1e-2
    assert gap(plain_steps(name), at_once(model(name), first(name), words(LENGTH, seed=3))) > 1e-2


@cases
def test_half_precision_stays_finite_and_half(name: str, row: str):
    hooked, inputs = narrow_model(name), narrow(first(name))
    ours = logits(hooked, inputs, ROWS[row].operator)
    assert ours.dtype == torch.bfloat16
    assert ours.isfinite().all()
    assert gap(ours, logits(hooked, inputs)) > 1e-3


@cases
def test_nothing_is_carried_from_one_sample_to_the_next(name: str, row: str):
    assert torch.equal(behind_the_first(name, ROWS[row].operator), alone(name, row))
    assert torch.equal(logits(model(name), first(name)), plain(name).logits)


def behind_the_first(name: str, operator: Any) -> Tensor:
    """Logits of the second prompt, read after the first under one operator."""
    with model(name).hooks(operator):
        forward(model(name), first(name))
        return forward(model(name), second(name))


@dataclass(frozen=True)
class Leaky(VAR):
    """Keeps the first prompt's sinks for all that follow, as the code released with the paper does."""

    sinks: dict[int, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def begin(self, prompt: Prompt) -> Sequence[Any]:
        find = [] if self.sinks else [_FindSinks(self, self.sinks)]
        return [*find, _Redistribute(self, self.sinks)]


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_an_operator_that_keeps_its_state_is_found_out(name: str):
    behind = behind_the_first(name, Leaky(**SINKS))
    assert torch.equal(logits(model(name), second(name), Leaky(**SINKS)), alone(name, "VAR"))
    assert gap(behind, alone(name, "VAR")) > 1e-3


KNOWN = {
    kind.__name__: kind for kind in (Ablate, Scale, VAR, VHR, ImageBoost, ImbalanceFix, KnockOut, MutualMask, Head)
}


@pytest.mark.parametrize("row", ROWS)
def test_what_it_prints_reads_back_as_the_same(row: str):
    operator = ROWS[row].operator
    if getattr(operator, "reference", None) is not None or hasattr(operator, "directions"):
        pytest.skip("the numbers it puts in are too many to print")
    assert parse_call(repr(operator), KNOWN) == operator
    ready = operator.prepared(model("llava")) if hasattr(operator, "prepared") else operator
    assert parse_call(repr(ready), KNOWN) == ready


@pytest.mark.parametrize("row", IMAGES)
def test_a_model_without_images_is_refused(row: str):
    with pytest.raises(UsageError, match=r"needs a model with image tokens in its prompt, and llama .* has none"):
        logits(model("llama"), first("llama"), IMAGES[row].operator)


@pytest.mark.parametrize("row", [row for row in IMAGES if row != "VHR heads"])
def test_a_prompt_without_an_image_is_left_alone(row: str):
    inputs = {"input_ids": words(9, seed=2)}
    assert torch.equal(logits(model("llava"), inputs, IMAGES[row].operator), logits(model("llava"), inputs))


@pytest.mark.parametrize("row", [row for row in IMAGES if row != "VHR heads"])
def test_a_call_without_token_ids_is_refused(row: str):
    embeds = model("llava").hf.get_input_embeddings()(words(9, seed=2)).detach()
    with model("llava").hooks(IMAGES[row].operator), pytest.raises(UsageError, match="input_ids"):
        model("llava").hf(inputs_embeds=embeds)
