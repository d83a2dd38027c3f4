"""Rows that are written are the rows there are, come back equal, and are never held whole."""

import json
import re
import sys

import pytest
import torch

from headscope import Head, HookedModel, UsageError, Where
from headscope.exports import SparseRows, bertviz_arguments, read_headvis, sparse_rows, write_bertviz, write_headvis
from headscope.scores import HeadScores
from tests.headscope.test_hooks import sentence, words_model

TEXT = sentence(40)


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return words_model()


def full(model: HookedModel, text: str) -> dict[Head, torch.Tensor]:
    rows = model.record([text], "pattern")[0].double()
    return {Head(layer, h): rows[i, h] for i, layer in enumerate(model.layers()) for h in range(rows.shape[1])}


def dense(rows: SparseRows, n: int) -> torch.Tensor:
    found = torch.zeros(n, n, dtype=torch.float64)
    for query, (keys, weights) in enumerate(zip(rows.keys, rows.weights, strict=True)):
        found[query, list(keys)] = torch.tensor(weights, dtype=torch.float64)
    return found


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2"])
def test_large_weights_are_kept_and_the_rest_is_counted(name):
    model = words_model(name)
    found = sparse_rows(model, TEXT, min_weight=0.05)
    whole = full(model, TEXT)
    assert set(found) == set(whole) == set(model.heads())
    for head, rows in found.items():
        expected = whole[head].where(whole[head] >= 0.05, 0)
        assert (dense(rows, len(expected)) - expected).abs().max() <= 6e-6
        left = whole[head].sum(1) - expected.sum(1)
        assert (torch.tensor(rows.dropped).double() - left).abs().max() <= 6e-6
        assert all(list(weights) == sorted(weights, reverse=True) for weights in rows.weights)
        assert max(map(len, rows.keys)) <= 20
    assert any(dropped > 0.01 for rows in found.values() for dropped in rows.dropped)


def test_rows_are_sifted_block_by_block(model, monkeypatch):
    monkeypatch.setattr("headscope.engine.edit.BLOCK_ELEMENTS", 4 * 40 * 7, raising=True)
    seen = []
    original = sys.modules["headscope.exports.sparse"]._sparse
    monkeypatch.setattr(
        "headscope.exports.sparse._sparse", lambda rows, *rest: seen.append(len(rows)) or original(rows, *rest)
    )
    in_blocks = sparse_rows(model, TEXT)
    assert max(seen) < 40 <= sum(seen)
    monkeypatch.undo()
    assert in_blocks == sparse_rows(model, TEXT)


def test_chosen_heads_only(model):
    heads = (Head(1, 2), Head(0, 3))
    assert set(sparse_rows(model, TEXT, heads=["L1H2", (0, 3)])) == set(heads)
    assert sparse_rows(model, TEXT, heads=heads)[heads[0]] == sparse_rows(model, TEXT)[heads[0]]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"min_weight": 0.0}, "min_weight is 0.0"),
        ({"min_weight": float("nan")}, "min_weight is nan"),
        ({"min_weight": 1.5}, "min_weight is 1.5"),
        ({"heads": ()}, "asked for of no heads"),
        ({"heads": ["L9H0"]}, "L9H0 asked for"),
    ],
)
def test_rows_that_cannot_be_asked_for(model, options, said):
    with pytest.raises(UsageError, match=said):
        sparse_rows(model, TEXT, **options)


# -- HeadVis -----------------------------------------------------------------------------------------------------------


def scores_for(model: HookedModel) -> HeadScores:
    shape = (4, model.n_layers, model.n_heads)
    return HeadScores(
        torch.rand(shape, generator=torch.Generator().manual_seed(0)), "copying", {"model": "m", "seed": 5}
    )


@pytest.fixture
def folder(model, tmp_path):
    heads = ("L0H1", "L1H3")
    write_headvis(model, [TEXT, sentence(12, seed=2)], tmp_path / "hv", heads=heads, scores=[scores_for(model)])
    return tmp_path / "hv"


def test_a_folder_is_read_back_as_it_was_written(model, folder):
    read = read_headvis(folder)
    assert set(read) == {Head(0, 1), Head(1, 3)}
    for head, one in read.items():
        texts = (TEXT, sentence(12, seed=2))
        assert one.rows == tuple(sparse_rows(model, text, heads=[head])[head] for text in texts)
        assert [len(tokens) for tokens in one.tokens] == [len(model.tokens(text).ids) for text in texts]
        assert one.metrics == {"copying": pytest.approx(scores_for(model).values[head].item())}
        assert one.head == head
    assert " ".join(read[Head(0, 1)].tokens[0]).endswith(TEXT)


def test_the_folder_has_the_names_of_headvis_and_says_where_it_comes_from(model, folder):
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.json"))
    assert files == ["config.json", "heads/L0H1.json", "heads/L1H3.json", "scatter_data.json"]
    config = json.loads((folder / "config.json").read_text())
    assert config["model"] == model.name
    assert (config["schema"], config["min_weight"], config["samples"], config["heads"]) == (
        1,
        0.01,
        2,
        ["L0H1", "L1H3"],
    )
    assert config["metrics"] == {"copying": {"model": "m", "seed": 5}}
    assert "torch" in config["versions"]
    points = json.loads((folder / "scatter_data.json").read_text())
    assert [point["name"] for point in points] == ["L0H1", "L1H3"]
    assert set(points[0]) == {"name", "layer", "head", "metrics"}


def test_folders_are_never_overwritten(model, folder):
    before = (folder / "config.json").read_bytes()
    with pytest.raises(UsageError, match="is not an empty folder"):
        write_headvis(model, [TEXT], folder)
    assert (folder / "config.json").read_bytes() == before


def test_what_cannot_be_written(model, tmp_path):
    with pytest.raises(UsageError, match="of no samples"):
        write_headvis(model, [], tmp_path / "hv")
    small = HeadScores(torch.rand(2, 1, 1), "copying")
    with pytest.raises(UsageError, match=r"L0H1 has no copying, whose scores are of 1 layers x 1 heads"):
        write_headvis(model, [TEXT], tmp_path / "hv", scores=[small])
    assert not (tmp_path / "hv").exists()


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("config.json", None, r"there is no file .*config\.json"),
        ("heads/L1H3.json", None, r"there is no file .*L1H3\.json"),
        ("heads/L1H3.json", lambda text: text[:100], r"L1H3\.json is not JSON"),
        ("config.json", lambda text: "[]", "has no schema"),
        ("config.json", lambda text: text.replace('"schema": 1', '"schema": 2'), "has schema 2, .* update headscope"),
        ("config.json", lambda text: text.replace('"L0H1"', '"LXH1"'), "'LXH1' is not a head"),
        ("config.json", lambda text: text.replace('"heads"', '"tails"'), r"is not a folder .*KeyError\('heads'\)"),
        ("heads/L1H3.json", lambda text: text.replace('"layer": 1', '"layer": 0'), "the file of L1H3 is of L0H3"),
        (
            "heads/L1H3.json",
            lambda text: text.replace('"dropped": [', '"dropped": [0, '),
            "L1H3 has 41 rows for 41 tokens",
        ),
    ],
)
def test_folders_that_are_broken(folder, name, change, said):
    path = folder / name
    text = path.read_text()
    path.unlink()
    if change is not None:
        path.write_text(change(text))
    with pytest.raises(UsageError, match=said):
        read_headvis(folder)


# -- BertViz -----------------------------------------------------------------------------------------------------------


def test_bertviz_is_given_every_layer_as_it_wants_them(model):
    given = bertviz_arguments(model, TEXT)
    n = len(model.tokens(TEXT).ids)
    assert [tuple(one.shape) for one in given["attention"]] == [(1, model.n_heads, n, n)] * model.n_layers
    assert given["include_layers"] == list(range(model.n_layers))
    assert len(given["tokens"]) == n
    whole = full(model, TEXT)
    assert torch.allclose(given["attention"][1][0, 2].double(), whole[Head(1, 2)])


def test_chosen_layers_keep_their_numbers(model):
    given = bertviz_arguments(model, TEXT, layers=[1, 1])
    assert given["include_layers"] == [1]
    assert [one.shape[-1] for one in given["attention"]] == [0, len(given["tokens"])]
    rows = model.record([TEXT], "pattern", where=Where(layers=(1,)))[0]
    assert torch.equal(given["attention"][1], rows)


def test_a_model_whose_main_stack_reads_other_tokens_is_refused(tmp_path):
    two = words_model("t5")
    with pytest.raises(UsageError, match="t5 is an encoder-decoder, whose decoder reads what it writes"):
        bertviz_arguments(two, TEXT)
    with pytest.raises(UsageError, match="is an encoder-decoder"):
        write_headvis(two, [TEXT], tmp_path / "hv")
    assert not (tmp_path / "hv").exists()


def test_what_bertviz_is_not_given(model):
    with pytest.raises(UsageError, match=r"has 41 tokens, and BertViz holds 41 x 41 weights a head; shorten it to 40"):
        bertviz_arguments(model, TEXT, most_tokens=40)
    with pytest.raises(UsageError, match=r"to show no layers; name some of \[0, 1\]"):
        bertviz_arguments(model, TEXT, layers=())
    with pytest.raises(UsageError, match=r"layers .* asked for"):
        bertviz_arguments(model, TEXT, layers=(7,))


def test_without_the_package_the_extra_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bertviz", None)
    with pytest.raises(UsageError, match=r"pip install 'headscope\[bertviz\]'"):
        write_bertviz(model, TEXT, tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # bertviz leaves its own script open
@pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("view", ["head", "model"])
def test_a_page_holds_the_weights_and_no_text_ends_its_script(tmp_path, view, monkeypatch):
    pytest.importorskip("bertviz")
    model = words_model()
    monkeypatch.setattr(
        "headscope.exports.bertviz.token_texts", lambda model, sample: ["a", "</script><b>", *["Ġc"] * 10]
    )
    write_bertviz(model, sentence(11), tmp_path / "page.html", view=view, layers=[1])
    page = (tmp_path / "page.html").read_text()
    assert "</script><b>" not in page
    params = json.loads(re.search(r"const params = (\{.*?\});", page)[1])
    (shown,) = params["attention"]
    assert shown["left_text"] == ["a", "</script><b>", *[" c"] * 10]
    assert params["include_layers"] == [1]
    rows = model.record([sentence(11)], "pattern", where=Where(layers=(1,)))[0]
    assert torch.allclose(torch.tensor(shown["attn"]), rows)
    with pytest.raises(UsageError, match="never overwritten"):
        write_bertviz(model, sentence(11), tmp_path / "page.html")
