"""Logits without sets of heads, shared as far as possible, equal one hooked pass a set."""

from functools import cache

import pytest
import torch
from torch import Tensor

from experiments.sweeps.ablated import Ablation, Ablator, shared_prefix
from experiments.sweeps.units import Unit, groups, units
from headscope import Head, HookedModel, Record, UsageError
from interventions import Ablate, HeadOutputs
from tests.headscope import test_hooks
from tests.tiny import FIRST_WORD, TINY, VOCAB

hooked = cache(test_hooks.hooked)
MODELS = ["llama", "gpt2", "gemma2", "gpt_neox", "mistral", "gpt_oss", "olmo2", "deepseek_v3"]
MODES = ["zero", "uniform", "mean", "resample"]


def prompts(kind: str) -> dict[str, Tensor]:
    """Three prompts of 12 tokens; padded, beginning alike, or both."""
    ids = torch.randint(FIRST_WORD, VOCAB, (3, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    if "shared" in kind:
        ids[:, :7] = ids[0, :7]
    if "padded" in kind:
        ids[1] = torch.cat([ids.new_zeros(2), ids[1, :10]])
        mask[1, :2] = 0
    return {"input_ids": ids, "attention_mask": mask}


def reference(model: HookedModel) -> HeadOutputs:
    record, ids = Record("z"), torch.randint(FIRST_WORD, VOCAB, (2, 20), generator=torch.Generator().manual_seed(2))
    with model.hooks(record), torch.no_grad():
        model.hf(input_ids=ids)
    return HeadOutputs({layer: seen[0].flatten(0, 1) for layer, seen in record.seen.items()}, 2)


def by_hooks(model: HookedModel, inputs: dict[str, Tensor], ablate: Ablate | None) -> Tensor:
    with torch.no_grad(), model.hooks(*([ablate] if ablate else [])):
        places = model.positions_of(inputs["attention_mask"])
        return model.hf(**inputs, **places).logits[:, -2:]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("mode", MODES)
def test_every_set_equals_its_hooked_pass(name, mode):
    model = hooked(name)
    ablation = Ablation(mode, reference(model))
    last = model.layers()[-1]
    sets = [
        *units(model.heads())[::3],
        Unit("two of a layer", (Head(0, 1), Head(0, 2))),
        Unit("of two layers", (Head(0, 1), Head(last, 2))),
        *units(model.heads(), "layers"),
    ]
    for kind in ("plain", "padded", "shared", "shared, padded"):
        inputs = prompts(kind)
        found = dict(Ablator(model, ablation).logits(inputs, sets, wanted=2))
        assert next(iter(found)) is None
        assert set(found) == {None, *sets}
        for unit, logits in found.items():
            theirs = by_hooks(model, inputs, ablation.of(unit.heads) if unit else None)
            assert (logits - theirs).abs().max() < 1e-4 * theirs.std()


def test_in_double_precision_they_agree_to_twelve_digits():
    model = HookedModel(TINY["llama"].build().double(), example=TINY["llama"].inputs())
    for kind in ("plain", "shared, padded"):
        inputs = prompts(kind)
        for unit, logits in Ablator(model, Ablation()).logits(inputs, units(model.heads()), wanted=2):
            theirs = by_hooks(model, inputs, Ablate(unit.heads) if unit else None)
            assert (logits - theirs).abs().max() < 1e-12 * theirs.abs().max()


def test_what_counts_as_a_shared_beginning():
    assert shared_prefix(prompts("shared"), 1) == 7
    assert shared_prefix(prompts("shared"), 6) == 6  # wanted columns are not shared
    assert shared_prefix(prompts("plain"), 1) == 0
    assert shared_prefix(prompts("shared, padded"), 1, even=True) == 0
    few = prompts("plain")
    few["input_ids"][:, :2] = 11  # two tokens of twelve save too little
    assert shared_prefix(few, 1) == 0


def test_units():
    heads = (Head(0, 1), Head(0, 2), Head(2, 0))
    assert [unit.name for unit in units(heads)] == ["L0H1", "L0H2", "L2H0"]
    assert [unit.name for unit in units(heads, "pairs")] == ["L0H1+L0H2", "L0H1+L2H0", "L0H2+L2H0"]
    assert [unit.heads for unit in units(heads, "layers")] == [heads[:2], heads[2:]]
    assert groups({"mine": "L1H0,L3H2"})[0] == Unit("mine", (Head(1, 0), Head(3, 2)))
    with pytest.raises(UsageError, match="names no head"):
        groups({"mine": ""})
    with pytest.raises(UsageError, match="no heads are given"):
        units(())
