"""Places of the strongest keys: by hand, and rows worked out late against rows worked out step by step."""

import pytest
import torch
from torch import Tensor

import head_analysis.top_keys as top_keys
from head_analysis.top_keys import LateTopKeys, TopKeys, best_keys, top_keys_reader
from headscope import HookedModel
from interventions import Ablate
from tests.tiny import TINY, left_padded, prompt

TEXT = sorted(name for name, row in TINY.items() if row.generates)
STEPS = 12


def test_best_keys_by_hand() -> None:
    rows = torch.tensor([[0.1, 0.6, 0.0, 0.3], [0.0, 0.0, 1.0, 0.0]])
    assert best_keys(rows, 2).tolist() == [[1, 3], [2, -1]]
    assert best_keys(rows, 5)[:, 4].tolist() == [-1, -1]


def both(model: HookedModel, inputs: dict[str, Tensor], **options: object) -> tuple[TopKeys, LateTopKeys]:
    """Both readers on one generation."""
    at_once, late = TopKeys(2), LateTopKeys(2)
    with torch.no_grad(), model.hooks(at_once, late), model.emitting(inputs["input_ids"].shape[1] - 1):
        model.hf.generate(**inputs, max_new_tokens=STEPS, do_sample=False, pad_token_id=0, **options)
    return at_once, late


def assert_same(model: HookedModel, at_once: TopKeys, late: LateTopKeys, samples: int) -> None:
    for layer in model.layers():
        for index in range(samples):
            expected, found = (reader.of_sample(layer, index, STEPS) for reader in (at_once, late))
            assert found.shape == (STEPS, model.n_heads, 2)
            assert torch.equal(found, expected)
            assert (found[..., 0] >= 0).all()


@pytest.mark.parametrize("name", TEXT)
def test_late_rows_are_those_of_every_step(name: str) -> None:
    model = HookedModel(TINY[name].build(), example=TINY[name].inputs())
    model.hf.generation_config.eos_token_id = None
    if model.hf.config.is_encoder_decoder:
        pytest.skip("the columns of an encoder-decoder are counted otherwise; measured through retrieval scores")
    inputs = dict(TINY[name].inputs())
    assert_same(model, *both(model, inputs), samples=1)


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt2"])
@pytest.mark.parametrize("cache", [None, "static"])
def test_padded_batches_and_static_caches(name: str, cache: str | None) -> None:
    if name == "gpt2" and cache:
        pytest.skip("its static cache asks for positions that a padded batch does not give")
    model = HookedModel(TINY[name].build(), example=TINY[name].inputs())
    model.hf.generation_config.eos_token_id = None
    inputs = left_padded(prompt(16), prompt(9, seed=1))
    options = {"cache_implementation": cache} if cache else {}
    assert_same(model, *both(model, inputs, **options), samples=2)


def test_rows_in_blocks_and_rows_no_head_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model = HookedModel(TINY["llama"].build(), example=TINY["llama"].inputs())
    model.hf.generation_config.eos_token_id = None
    monkeypatch.setattr(top_keys, "BLOCK_ELEMENTS", 1)
    at_once, late = both(model, dict(prompt(16)))
    assert_same(model, at_once, late, samples=1)
    assert sum(len(rows[0, 0]) for rows in late.seen[0]) == STEPS  # decode rows only, none of the prompt's others


def test_late_rows_miss_what_others_edit_so_the_reader_is_chosen() -> None:
    model = HookedModel(TINY["llama"].build(), example=TINY["llama"].inputs())
    model.hf.generation_config.eos_token_id = None
    assert isinstance(top_keys_reader(model, 1), LateTopKeys)
    edit = Ablate(["L0H0"], mode="uniform")
    with model.hooks(edit):
        assert isinstance(top_keys_reader(model, 1), TopKeys)
        at_once, late = both(model, dict(prompt(16)))
    differ = [not torch.equal(*(reader.of_sample(layer, 0, STEPS) for reader in (at_once, late))) for layer in (0, 1)]
    assert differ == [True, False]
