"""Files of each project give what stands in them, are told apart by it, and broken ones say what is wrong.

Numbers and names are taken from published files: the first layers of DuoAttention's gates of Mistral-7B-Instruct-v0.2,
and QRHead's heads of Llama-3.1-8B-Instruct (LME) and Gemma-3-4B.
"""

import json
from pathlib import Path

import jaxtyping
import pytest
import torch

from head_analysis.score_files import FORMATS, detect_format, read_head_list, read_score_file
from headscope.errors import UsageError
from headscope.heads import Head
from headscope.score_table import head_table, write_head_table
from headscope.scores import HeadScores

FIXTURES = Path(__file__).parents[1] / "fixtures"
GATES = [
    [-9.584426879882812500e-05, -1.196861267089843750e-04, 0.55859375, 2.021789550781250000e-04, 1, 1, 1, 0.734375],
    [1, 0.78125, 0.96875, 0.427734375, 1, 0.8359375, 1, 1],
]
CONFIG = {
    "model_name": "models/Mistral-7B-Instruct-v0.2",
    "sink_size": 128,
    "recent_size": 256,
    "deploy_sink_size": None,
    "reg_weight": 0.05,
}
QR_HEADS = "13-18,13-21,8-11,14-13,17-29,13-1,13-13,14-29,14-31,13-8,16-1,17-21,13-3,10-31,13-4,14-22"
QR_CONFIG = f"""# Default configuration

attn_head_set: "{QR_HEADS}" # top16
model_base_class: "Llama-3.1-8B-Instruct"
model_name_or_path: "meta-llama/Llama-3.1-8B-Instruct"
"""
REASONING = {"1-0": [0.2879446992], "0-1": [0.9983710690], "0-0": [0.0604512998], "1-1": [0.3551986171]}


def put(path: Path, text: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


def tsv(rows) -> str:
    return "".join("\t".join(f"{value:.18e}" for value in row) + "\n" for row in rows)


# -- DuoAttention ------------------------------------------------------------------------------------------------------


def test_gates_are_of_key_value_heads_and_come_with_their_settings(tmp_path):
    path = put(tmp_path / "lr=0.02" / "full_attention_heads.tsv", tsv(GATES))
    put(path.with_name("config.json"), CONFIG)
    scores = read_score_file(path)
    assert scores.samples.shape == (1, 2, 8)
    assert torch.allclose(scores.values, torch.tensor(GATES).clamp(0, 1))
    assert scores.values.min() == 0
    assert scores.metric == "full-attention gate"
    assert scores.meta == {
        "n": 1,
        "heads": "key-value heads",
        "range": [-0.00012, 1.0],
        "model": "Mistral-7B-Instruct-v0.2",
        "sink_size": 128,
        "recent_size": 256,
        "source": "full_attention_heads.tsv",
        "format": "duo-attention",
    }
    assert torch.equal(read_score_file(path.parent).samples, scores.samples)


def test_gates_are_spread_over_the_query_heads_that_share_keys(tmp_path):
    path = put(tmp_path / "gates.tsv", tsv(GATES))
    spread = read_score_file(path, query_heads=32)
    assert spread.samples.shape == (1, 2, 32)
    assert spread.values[0, 8:12].tolist() == [0.55859375] * 4
    assert spread.values[1, 15] == 0.427734375
    assert spread.values[1, 16] == 1
    assert "query heads, 4 with the gate of each" in spread.meta["heads"]
    assert spread.meta["model"] == "gates"
    for wrong in (12, 4, 0):
        with pytest.raises(UsageError, match=f"8 key-value heads in a layer, which {wrong} query heads cannot share"):
            read_score_file(path, query_heads=wrong)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1\t0\n1\n", "layer 1 has 1 heads but layer 0 has 2"),
        ("1\t0\n\n1\t0\n", r"layer 1 is '', not finite numbers"),
        ("1\tnan\n", r"layer 0 is '1\\tnan', not finite"),
        ("1\tinf\n", "not finite"),
        ("1\tx\n", "not finite numbers between tabs"),
        ("1,0\n", "is in no form that is read"),
        ("1 0\n1 0\n", "not finite numbers between tabs"),
        ("5\t0\n", "reaches from 0 to 5, gates from 0 to 1"),
        ("1\t-0.5\n", "reaches from -0.5 to 1"),
    ],
)
def test_gates_that_are_none(tmp_path, text, said):
    with pytest.raises(UsageError, match=said):
        read_score_file(put(tmp_path / "full_attention_heads.tsv", text))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", r"config.json is not JSON"),
        ([1], "no whole number as sink_size"),
        ({"sink_size": 128}, "no whole number as sink_size or recent_size"),
        ({"sink_size": True, "recent_size": 1}, "no whole number"),
    ],
)
def test_settings_that_are_none(tmp_path, config, said):
    put(tmp_path / "config.json", config)
    with pytest.raises(UsageError, match=said):
        read_score_file(put(tmp_path / "full_attention_heads.tsv", tsv(GATES)))


# -- QRHead ------------------------------------------------------------------------------------------------------------


def test_a_list_of_heads_stays_one(tmp_path):
    path = put(tmp_path / "Llama_qr_head_LME.yaml", QR_CONFIG)
    found = read_head_list(path)
    assert found.heads[:3] == (Head(13, 18), Head(13, 21), Head(8, 11))
    assert len(found.heads) == 16
    assert found.meta["model"] == "meta-llama/Llama-3.1-8B-Instruct"
    assert found.to_dataframe()["place"].tolist() == list(range(16))
    assert found.to_dataframe()["name"][15] == "L14H22"
    with pytest.raises(UsageError, match="names heads but scores none"):
        read_score_file(path)
    assert read_head_list(put(tmp_path / "g.yaml", 'attn_head_set: "10_3,10_24"')).heads == (Head(10, 3), Head(10, 24))
    assert read_head_list(tmp_path / "g.yaml").meta["model"] == "g"


def test_detected_scores_of_qrhead(tmp_path):
    path = put(tmp_path / "qr.json", [["1-1", 0.5], ["0-0", 0.25], ["1-0", 0.0], ["0-1", -0.125]])
    scores = read_score_file(path)
    assert scores.values.tolist() == [[0.25, -0.125], [0, 0.5]]
    assert (scores.metric, scores.n, scores.meta["format"]) == ("QRScore", 1, "qrhead-scores")
    with pytest.raises(UsageError, match=r"qrhead-scores.* has scores; read them"):
        read_head_list(path)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ([], r"holds \[\]"),
        ([["0-0", 0.5, 1]], r"has the entry"),
        ([["0-0", 0.5], ["0-0", 0.1]], "has L0H0 twice"),
        ([["0-0", "0.5"]], r"L0H0 has \['0.5'\]"),
        ([[0, 0.5]], "has the key 0, which is not layer-head"),
        ([["1-0", 0.5]], "L0H0 is missing"),
        ("[[0-0, NaN]]", "is not JSON"),
        ('[["0-0", NaN]]', r"L0H0 has \[nan\]"),
    ],
)
def test_qrhead_scores_that_are_none(tmp_path, table, said):
    with pytest.raises(UsageError, match=said):
        read_score_file(put(tmp_path / "bad.json", table))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('attn_head_set: "full_heads"', "names all heads"),
        ('attn_head_set: ""', "has '' as attn_head_set"),
        ("attn_head_set: 5", "has 5 as attn_head_set"),
        ("attn_head_set: [1, 2]", r"has \[1, 2\] as attn_head_set"),
        ('attn_head_set: "1-2,1-2"', "has L1H2 twice"),
        ('attn_head_set: "1-2,-3-4"', "has the key '-3-4'"),
        ('attn_head_set: "1-2;3-4"', "has the key '1-2;3-4'"),
        ('attn_head_set: "1-2\nmodel: "x', "is not YAML"),
        ('attn_head_set: !!python/object/apply:os.system ["true"]', "is not YAML"),
        ("attn_head_set: '1-2'\n" + "# long\n" * 20_000, "KiB; a QRHead config"),
    ],
)
def test_configs_that_are_none(tmp_path, text, said):
    with pytest.raises(UsageError, match=said) as refused:
        read_head_list(put(tmp_path / "bad.yaml", text))
    assert "\n" not in str(refused.value)


# -- HeadKV ------------------------------------------------------------------------------------------------------------


def test_importance_of_headkv_is_laid_out_by_name_whatever_the_order(tmp_path):
    path = put(tmp_path / "Llama_retrieval_reasoning_heads.json", REASONING)
    scores = read_score_file(path, format="headkv")
    assert torch.allclose(scores.values, torch.tensor([[0.0604513, 0.9983711], [0.2879447, 0.3551986]]))
    assert scores.metric == "retrieval-reasoning score"
    assert scores.meta["file_order"].startswith("other")
    in_order = put(tmp_path / "sorted.json", dict(sorted(REASONING.items())))
    assert read_score_file(in_order, format="headkv").meta["file_order"] == "by layer and head"
    with pytest.raises(UsageError, match="L0H0 has a score below 0"):
        read_score_file(put(tmp_path / "low.json", {"0-0": [-0.25]}), format="headkv")


def test_what_content_cannot_tell_is_asked_and_not_guessed(tmp_path):
    path = put(tmp_path / "heads.json", REASONING)
    with pytest.raises(UsageError, match=r"form of Retrieval_Head and of HeadKV.*--format\): headkv"):
        read_score_file(path)
    assert read_score_file(path, format="retrieval-head").metric == "retrieval score"


# -- told apart --------------------------------------------------------------------------------------------------------


def test_each_form_is_known_by_its_content_under_any_name(tmp_path):
    scores = HeadScores(torch.rand(5, 2, 3), "m", {"model": "x"})
    write_head_table(tmp_path / "a", head_table([scores]))
    put(tmp_path / "b", '{"0-0": [0, 0.05], "0-1": [0.3, 0.15]}')
    put(tmp_path / "c", tsv(GATES))
    put(tmp_path / "d", '  [["0-0", 0.123]]')
    put(tmp_path / "e", QR_CONFIG)
    found = [detect_format(tmp_path / name) for name in "abcde"]
    assert found == ["table", "retrieval-head", "duo-attention", "qrhead-scores", "qrhead-list"]
    assert set(FORMATS) - set(found) == {"headkv"}
    assert all(detect_format(path) == "retrieval-head" for path in FIXTURES.glob("*.gz"))
    with pytest.raises(UsageError, match="is in no form that is read"):
        detect_format(put(tmp_path / "f", "layer,head,score\n0,0,1\n"))


def test_a_table_is_read_as_its_means(tmp_path):
    scores = HeadScores(torch.rand(5, 2, 3), "m", {"model": "x", "seed": 2})
    write_head_table(tmp_path / "t.parquet", head_table([scores]))
    read = read_score_file(tmp_path / "t.parquet")
    assert torch.allclose(read.values, scores.values.double())
    assert read.meta["n"] == 5
    assert read.meta["seed"] == 2
    assert "not computed again" in read.meta["samples"]


def test_a_forced_form_that_does_not_fit_is_refused(tmp_path, monkeypatch):
    path = put(tmp_path / "heads.json", '{"0-0": [0.5]}')
    with pytest.raises(UsageError, match=r"layer 0 is .* not finite numbers"):
        read_score_file(path, format="duo-attention")
    with pytest.raises(UsageError, match=r"holds \{'0-0': \[0.5\]\}; QRHead scores are"):
        read_score_file(path, format="qrhead-scores")
    with pytest.raises(UsageError, match="is not a whole parquet file"):
        read_score_file(path, format="table")
    with pytest.raises(UsageError, match="query heads are given"):
        read_score_file(path, query_heads=4)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UsageError, match="format 'csv' is not known; use one of table, retrieval-head"):
        read_score_file(path, format="csv")
