"""What the shipped models know and where, read by probes."""

import pytest

from headscope import HookedModel
from probes import features, probe_features, probe_heads, probe_layers
from tasks import Needle, scene_colours


@pytest.fixture(scope="module")
def scenes() -> HookedModel:
    return HookedModel.load("zoo:scenes")


def test_the_colour_asked_for_arrives_at_the_last_token_in_the_middle_layers(scenes):
    samples = scene_colours(24).samples(scenes.processor)
    colours, images = [sample.target for sample in samples], [sample.meta["image_id"] for sample in samples]
    late = probe_layers(scenes, samples, colours, layers=(4,), groups=images, draws=19, folds=3).table.loc[0]
    early = probe_features(features(scenes, samples, layers=(0,)), colours, groups=images, draws=1, folds=3).table.loc[
        0
    ]
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
    read = features(model, samples, layers=(3,))
    shuffled = probe_features(read, early_letter, draws=19, folds=3).table.loc[0]
    by_word = probe_features(read, early_letter, control="types", types=first, draws=5, folds=3).table.loc[0]
    assert shuffled["found"]
    assert shuffled["selectivity"] > 0.1
    assert by_word["accuracy"] == shuffled["accuracy"]
    assert abs(by_word["selectivity"]) < 0.12  # any label of words could be read off as well


def test_heads_of_a_vision_language_model_are_probed(scenes):
    samples = scene_colours(28).samples(scenes.processor)
    warm = [sample.target in ("red", "yellow", "orange") for sample in samples]
    result = probe_heads(scenes, samples, warm, layers=(0, 3), folds=3, draws=1, baselines=())
    scores = result.scores()
    assert scores.samples.shape == (len(samples), 6, 8)
    assert scores.top(1)[0].layer == 3
    assert scores.values[3].max() > result.table["majority"].max() + 0.1
    assert (
        scores.values[0].max() < scores.values[3].max() - 0.1
    )  # no head of the first layer brings it to the last token
