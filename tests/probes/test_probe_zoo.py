"""What the shipped models know and where, read by probes."""

import pytest

from headscope import HookedModel
from probes import probe_heads, probe_layers
from tasks import Needle, scene_colours


@pytest.fixture(scope="module")
def scenes() -> HookedModel:
    return HookedModel.load("zoo:scenes")


def test_the_colour_asked_for_arrives_at_the_last_token_in_the_middle_layers(scenes):
    samples = scene_colours(40).samples(scenes.processor)
    colours, images = [sample.target for sample in samples], [sample.meta["image_id"] for sample in samples]
    result = probe_layers(scenes, samples, colours, layers=(0, 4), groups=images, draws=10, folds=3)
    early, late = (result.table.loc[row] for row in (0, 1))
    assert late["accuracy"] > 0.65
    assert late["found"]
    assert early["accuracy"] < 0.45
    for chance in ("control", "random", "untrained", "majority"):  # the last token is the same in every prompt
        assert late[chance] < 0.4
    assert late["selectivity"] > 0.35


def test_the_next_word_is_read_but_its_first_letter_is_not_what_the_model_knows():
    model = HookedModel.load("zoo:needle")
    samples = Needle(lengths=(96,), depths=3, repeats=50).samples(model.tokenizer)
    first = [sample.target.split()[0] for sample in samples]
    early_letter = [word < "m" for word in first]
    options = {"layers": (3,), "folds": 3, "baselines": ()}
    shuffled = probe_layers(model, samples, early_letter, draws=20, **options).table.loc[0]
    by_word = probe_layers(model, samples, early_letter, control="types", types=first, draws=5, **options).table.loc[0]
    assert shuffled["found"]
    assert shuffled["selectivity"] > 0.1
    assert by_word["accuracy"] == shuffled["accuracy"]
    assert abs(by_word["selectivity"]) < 0.12  # any label of words could be read off as well


def test_heads_of_a_vision_language_model_are_probed(scenes):
    samples = scene_colours(40).samples(scenes.processor)
    warm = [sample.target in ("red", "yellow", "orange") for sample in samples]
    result = probe_heads(scenes, samples, warm, layers=(0, 3), folds=3, draws=1, baselines=())
    scores = result.scores()
    assert scores.samples.shape == (len(samples), 6, 8)
    assert scores.top(1)[0].layer == 3
    assert scores.values[3].max() > result.table["majority"].max() + 0.1
    assert (
        scores.values[0].max() < scores.values[3].max() - 0.1
    )  # no head of the first layer brings it to the last token
