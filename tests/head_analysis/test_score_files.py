"""Published score files give the figures that were published with them, and broken ones say what is wrong."""

import gzip
import json
from pathlib import Path

import pytest
import torch

from head_analysis.score_files import read_score_file, write_score_file
from headscope.errors import UsageError
from headscope.figures import score_histogram
from headscope.heads import Head
from headscope.scores import HeadScores

FIXTURES = Path(__file__).parents[1] / "fixtures"


def published(name):
    return read_score_file(FIXTURES / f"retrieval_head_{name}.json.gz")


@pytest.fixture(scope="module")
def llama():
    return published("llama-2-7b-80k")


@pytest.fixture(scope="module")
def mistral():
    return published("mistral-7b-v0.2")


def test_llama_has_the_published_heads(llama):
    assert llama.samples.shape == (586, 32, 32)
    assert len(llama.above(0.1)) == 33
    expected = {"L16H19": 0.94, "L11H15": 0.92, "L8H26": 0.80, "L6H9": 0.62, "L7H12": 0.61}
    assert [str(head) for head in llama.top(5)] == list(expected)
    for name, value in expected.items():
        assert llama.values[Head.parse(name)].item() == pytest.approx(value, abs=0.005)
    assert (llama.activation_frequency() == 1).sum() == 12
    assert score_histogram(llama).data[0].text == ("70.2 %", "26.6 %", "2.6 %", "0.6 %")


def test_the_strongest_heads_stay_the_strongest(llama):
    assert llama.stability(2) == 1
    assert llama.stability(20) > 0.8
    low, high = llama.interval()
    assert low[16, 19] < llama.values[16, 19] < high[16, 19]
    assert high[16, 19] - low[16, 19] < 0.02


def test_a_derived_model_has_the_heads_of_its_base_and_another_family_has_not(llama, mistral):
    assert len(mistral.above(0.1)) == 43
    mixtral = published("mixtral-8x7b-v0.1")
    assert mistral.correlation(mixtral) == pytest.approx(0.96, abs=0.005)
    assert abs(mistral.correlation(llama)) < 0.1
    assert mistral.overlap(mixtral, 20) > 0.5 > llama.overlap(mistral, 20)


def write(path, table):
    path.write_text(table if isinstance(table, str) else json.dumps(table))
    return path


def test_small_file_by_hand_in_any_order(tmp_path):
    path = write(tmp_path / "toy.json", {"1-0": [1, 0.5], "0-1": [0, 0.25], "0-0": [0, 0], "1-1": [0.5, 0.5]})
    scores = read_score_file(str(path))
    assert torch.equal(scores.samples, torch.tensor([[[0, 0], [1, 0.5]], [[0, 0.25], [0.5, 0.5]]]))
    assert scores.meta == {
        "model": "toy",
        "task": "needle",
        "source": "toy.json",
        "format": "retrieval-head",
        "n": 2,
    }
    assert read_score_file(path, model="Toy 7B").meta["model"] == "Toy 7B"


def test_gzip_is_known_by_its_content(tmp_path):
    path = tmp_path / "toy.json"
    path.write_bytes(gzip.compress(b'{"0-0": [0.5]}'))
    assert read_score_file(path).values.tolist() == [[0.5]]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("{", "is not JSON"),
        ("", "is empty"),
        (" \n", "is empty"),
        ("[1]", "has the entry 1"),
        ('{"0-0": [1], "0-0": [0]}', "says '0-0' twice"),
        ({}, "holds no heads"),
        ({"5_3": [1]}, "has the key '5_3', which is not layer-head"),
        ({"L5H3": [1]}, "has the key 'L5H3'"),
        ({"0-0": [1], "00-1": [1]}, "has the key '00-1'"),
        ({"0--1": [1]}, "has the key '0--1'"),
        ({"9" * 5000 + "-0": [1]}, "has the key '9999999"),
        ("[" * 100_000, "is not JSON"),
        ({"0-0": [1, 2], "0-1": [1]}, "L0H1 has 1 samples but L0H0 has 2"),
        ({"0-0": [1], "1-1": [1], "0-1": [1]}, r"L1H0 is missing from the 2 layers x 2 heads .*\(1 missing in all\)"),
        ({"999999999-0": [1]}, "L0H0 is missing from the 1000000000 layers"),
        ({"0-0": []}, r"L0H0 has \[\] instead"),
        ({"0-0": 1}, "L0H0 has 1 instead"),
        ({"0-0": [1], "0-1": ["a"]}, r"L0H1 has \['a'\] instead"),
        ({"0-0": [True]}, "L0H0 has"),
        ({"0-0": "0.5"}, "L0H0 has '0.5' instead"),
        ('{"0-0": [NaN]}', "L0H0 has"),
        ('{"0-0": [1e999]}', "L0H0 has"),
    ],
)
def test_broken_files_say_what_is_wrong(tmp_path, table, said):
    with pytest.raises(UsageError, match=said):
        read_score_file(write(tmp_path / "bad.json", table))


def test_missing_and_cut_files_say_what_is_wrong(tmp_path):
    with pytest.raises(UsageError, match="there is no file"):
        read_score_file(tmp_path / "none.json")
    with pytest.raises(UsageError, match="there is no file"):
        read_score_file(tmp_path)
    whole = (FIXTURES / "retrieval_head_llama-2-7b-80k.json.gz").read_bytes()
    path = tmp_path / "cut.json.gz"
    for data in (whole[:5000], whole[:5], whole[:-4], whole[:3000] + b"xxxx" + whole[3004:]):
        path.write_bytes(data)
        with pytest.raises(UsageError, match="is not a whole gzip file"):
            read_score_file(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not text"):
        read_score_file(path)
    with pytest.raises(UsageError, match=r"'xxx.* cannot be read .*too long"):
        read_score_file("x" * 5000)


def test_a_file_that_is_written_is_read_back_the_same_and_in_the_order_loaders_take(tmp_path, mistral):
    path = tmp_path / "again.json"
    write_score_file(mistral, path)
    again = read_score_file(path)
    assert torch.equal(again.samples, mistral.samples)
    (line,) = path.read_text().splitlines()  # the project's loaders read one line, and HeadKV's goes by order
    assert list(json.loads(line)) == [f"{layer}-{head}" for layer in range(32) for head in range(32)]
    with pytest.raises(UsageError, match="exists and results are never overwritten"):
        write_score_file(mistral, path)
    gap = mistral.samples.clone()
    gap[:, 3, 5] = torch.nan
    with pytest.raises(UsageError, match=r"L3H5 does not exist in these scores"):
        write_score_file(HeadScores(gap, "retrieval score"), tmp_path / "gap.json")


def test_a_gzip_file_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("head_analysis.score_files.content._LARGEST", 1000)
    path = tmp_path / "bomb.json.gz"
    path.write_bytes(gzip.compress(b" " * 10_000))
    with pytest.raises(UsageError, match="unpacks to more than"):
        read_score_file(path)
    path.write_bytes(b" " * 2000)
    with pytest.raises(UsageError, match="no score file is that large"):
        read_score_file(path)
