"""HeadScores choose, compare and keep heads as a hand count says."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from headscope.errors import UsageError
from headscope.heads import Head
from headscope.scores import HeadScores

NAN = float("nan")


def of(values, n=4, **meta) -> HeadScores:
    """Scores whose samples are all equal to the values given per layer and head."""
    return HeadScores(torch.tensor(values).expand(n, -1, -1).clone(), "score", meta)


def noisy(n=30, layers=3, heads=4, seed=0) -> HeadScores:
    generator = torch.Generator().manual_seed(seed)
    strength = torch.rand(layers, heads, generator=generator)
    return HeadScores(strength * torch.rand(n, layers, heads, generator=generator), "score", {"model": "toy"})


def test_values_are_means_over_samples():
    scores = HeadScores(torch.tensor([[[0.0, 1.0]], [[1.0, 1.0]], [[2.0, 4.0]]]), "score")
    assert scores.values.tolist() == [[1, 2]]
    assert scores.n == 3
    assert repr(scores) == "HeadScores('score', 1 layers x 2 heads, n = 3)"


def test_half_precision_is_averaged_in_single():
    samples = torch.full((4096, 1, 1), 0.1, dtype=torch.float16)
    assert HeadScores(samples, "score").values.item() == pytest.approx(0.1, abs=1e-4)


def test_top_and_above_are_best_first_with_ties_by_place():
    scores = of([[0.5, 0.1, 0.9], [0.9, 0.5, 0.0]])
    expected = [Head(0, 2), Head(1, 0), Head(0, 0), Head(1, 1), Head(0, 1), Head(1, 2)]
    assert scores.top(6) == tuple(expected)
    assert scores.top(2) == tuple(expected[:2])
    assert scores.top(0) == ()
    assert scores.above(0.5) == tuple(expected[:4])
    assert scores.above(2.0) == ()


def test_top_of_more_heads_than_there_are_names_both():
    scores = of([[0.1, NAN], [0.2, 0.3]])
    assert scores.top(3) == (Head(1, 1), Head(1, 0), Head(0, 0))
    with pytest.raises(UsageError, match="k is 4, but there are 3 heads"):
        scores.top(4)
    with pytest.raises(UsageError, match="k is -1"):
        scores.top(-1)


def test_heads_that_do_not_exist_take_part_in_nothing():
    scores = HeadScores(torch.tensor([[[0.0, NAN, 0.5]], [[1.0, NAN, 0.5]]]), "score", {"model": "hybrid"})
    assert scores.heads == (Head(0, 0), Head(0, 2))
    assert scores.above(-1.0) == (Head(0, 0), Head(0, 2))
    low, high = scores.interval()
    assert low.isnan().tolist() == high.isnan().tolist() == [[False, True, False]]
    assert scores.activation_frequency().nan_to_num(-1).tolist() == [[0.5, -1, 1]]
    assert scores.to_dataframe()["name"].tolist() == ["L0H0", "L0H2"]
    assert scores.random(1, seed=0, match="free", exclude=[(0, 0)]) == (Head(0, 2),)
    assert scores.stability(1) > 0


def test_samples_are_checked_at_the_edge():
    with pytest.raises(UsageError, match="L0H1 is NaN in 1 of 2 samples"):
        HeadScores(torch.tensor([[[0.0, NAN]], [[1.0, 0.0]]]), "score")
    with pytest.raises(UsageError, match=r"not torch.float32 \[0, 2, 2\]"):
        HeadScores(torch.zeros(0, 2, 2), "score")
    # Annotations are checked first in tests; what follows is the check that users have.
    for samples, said in [(torch.zeros(1, 2, 2).long(), r"torch.int64 \[1, 2, 2\]"), (torch.zeros(2, 2), r"\[2, 2\]")]:
        with pytest.raises(UsageError, match=said):
            HeadScores.__post_init__(SimpleNamespace(samples=samples))


def test_random_is_a_control_for_the_top():
    scores = noisy()
    top = scores.top(3)
    drawn = scores.random(3, seed=0, exclude=top)
    assert sorted(head.layer for head in drawn) == sorted(head.layer for head in top)
    assert not set(drawn) & set(top)
    assert drawn == scores.random(3, seed=0, exclude=[str(head) for head in top])
    with pytest.raises(UsageError, match="exclude has 0 heads and k is 3"):
        scores.random(3, seed=0)
    with pytest.raises(UsageError, match="L9H0 is to be excluded, but there is no such head in these 3 layers x 4"):
        scores.random(1, seed=0, exclude=["L9H0"])


def test_interval_holds_the_mean_and_narrows_with_samples():
    few, many = noisy(n=10), noisy(n=1000)
    (low, high), values = few.interval(), few.values
    assert (low < values).all()
    assert (values < high).all()
    ends = many.interval()
    assert (ends[1] - ends[0]).mean() < (high - low).mean() / 5
    assert ((few.interval(level=0.5)[1] - few.interval(level=0.5)[0]) < high - low).all()


def test_activation_frequency_counts_samples_above_zero():
    scores = HeadScores(torch.tensor([[[0.0, 0.2]], [[0.1, 0.3]], [[0.0, 0.1]], [[-1.0, 0.1]]]), "score")
    assert scores.activation_frequency().tolist() == [[0.25, 1]]


def test_correlation_by_hand_over_heads_in_both():
    a = of([[1.0, 2.0, 3.0, NAN]])
    assert a.correlation(of([[2.0, 4.0, 6.0, 99.0]])) == pytest.approx(1)
    assert a.correlation(of([[3.0, 2.0, 1.0, 5.0]])) == pytest.approx(-1)
    assert a.correlation(of([[1.0, 3.0, 2.0, 5.0]])) == pytest.approx(0.5)
    with pytest.raises(UsageError, match="1 layers x 4 heads, the others 2 x 1"):
        a.correlation(of([[1.0], [2.0]]))
    with pytest.raises(UsageError, match="no correlation over 3 shared heads"):
        a.correlation(of([[1.0, 1.0, 1.0, 1.0]]))


def test_overlap_is_shared_over_either():
    a, b = of([[4.0, 3.0, 2.0, 1.0]]), of([[4.0, 1.0, 3.0, 2.0]])
    assert a.overlap(b, 2) == pytest.approx(1 / 3)
    assert a.overlap(a, 2) == 1
    assert a.overlap(b, 4) == 1
    with pytest.raises(UsageError, match="at least 1"):
        a.overlap(b, 0)
    with pytest.raises(UsageError, match="2 x 2"):
        a.overlap(of([[1.0, 2.0], [3.0, 4.0]]), 1)


def test_stability_of_sure_and_of_even_rankings():
    assert of([[0.9, 0.5, 0.1]]).stability(1) == 1
    # Two samples that disagree: the first head leads unless both draws are the second sample (1 in 4; ties go to it).
    even = HeadScores(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]), "score")
    assert even.stability(1, resamples=4000) == pytest.approx(0.75, abs=0.03)
    assert even.stability(2) == 1
    assert even.stability(1, seed=1) == even.stability(1, seed=1)


def test_table_has_the_documented_columns():
    scores = HeadScores(
        noisy().samples, "retrieval score", {"model": "toy", "revision": "abc", "seed": 3, "template": "plain"}
    )
    table = scores.to_dataframe()
    assert list(table) == "model revision layer head name metric value low high n seed template".split()
    row = table.iloc[5]
    assert (row["name"], row["layer"], row["head"], row["n"]) == ("L1H1", 1, 1, 30)
    assert row["value"] == pytest.approx(scores.values[1, 1].item())
    assert row["low"] < row["value"] < row["high"]
    assert (row["model"], row["revision"], row["seed"], row["template"]) == ("toy", "abc", 3, "plain")


def test_xarray_has_named_dimensions():
    array = noisy().to_xarray()
    assert array.dims == ("sample", "layer", "head")
    np.testing.assert_allclose(array.mean("sample"), noisy().values)
    assert array.attrs == {"model": "toy"}
    assert array.name == "score"


def test_missing_xarray_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(UsageError, match=r"headscope\[xarray\]"):
        noisy().to_xarray()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_saved_scores_come_back(tmp_path, dtype):
    scores = HeadScores(noisy().samples.to(dtype).transpose(1, 2), "score, é", {"model": "toy", "lengths": (1, 2)})
    path = tmp_path / "deep" / "scores.safetensors"
    scores.save(path)
    again = HeadScores.load(str(path))
    assert again.samples.dtype == dtype
    assert torch.equal(again.samples, scores.samples)
    assert (again.metric, again.meta) == ("score, é", {"model": "toy", "lengths": [1, 2]})
    with pytest.raises(UsageError, match="never overwritten"):
        noisy(seed=1).save(path)
    assert torch.equal(HeadScores.load(path).samples, scores.samples)
    assert [file.name for file in path.parent.iterdir()] == ["scores.safetensors"]


def test_meta_that_json_cannot_hold_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"scores\['meta'\] cannot be written as JSON \(set is not"):
        HeadScores(noisy().samples, "score", {"layers": {1, 2}}).save(tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_scores_are_told_apart(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(UsageError, match="there is no file"):
        HeadScores.load(path)
    noisy().save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match="cut short or is not a file of head scores"):
        HeadScores.load(path)
    path.write_text("not safetensors at all")
    with pytest.raises(UsageError, match="cut short or is not a file of head scores"):
        HeadScores.load(path)
    save_file({"samples": torch.zeros(1, 1, 1)}, path)
    with pytest.raises(UsageError, match="holds no head scores"):
        HeadScores.load(path)
    save_file({"samples": torch.zeros(1, 1, 1)}, path, {"headscope": '{"schema": 99}'})
    with pytest.raises(UsageError, match="has schema 99"):
        HeadScores.load(path)
    save_file({"other": torch.zeros(1, 1, 1)}, path, {"headscope": '{"schema": 1}'})
    with pytest.raises(UsageError, match="not a file of head scores"):
        HeadScores.load(path)


def test_notebook_view_lists_the_best_and_escapes(tmp_path):
    scores = HeadScores(noisy().samples, "<b>score</b>", {"model": "<script>"})
    html = scores._repr_html_()
    assert "<script" not in html
    assert "<b>" not in html
    assert "top 10 of 12 heads, n = 30" in html
    best = str(scores.top(1)[0])
    assert html.index(best) < html.index(str(scores.top(2)[1]))


def test_gradients_are_dropped():
    samples = noisy().samples.requires_grad_()
    assert not HeadScores(samples, "score").values.requires_grad
