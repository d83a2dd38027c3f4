"""VHD by token in the folder of a run: kept as it was, read caption by caption, refused where it is absurd."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from experiments.cli import run as command
from experiments.vhd_by_token import MOST_BYTES, holds_by_token, keep_by_token, read_by_token, refuse_large
from head_analysis import measure_vhd
from head_analysis.vhd import token_vhd
from headscope import HookedModel, UsageError
from headscope.runs import Run
from tasks.scenes import scene_captions


@pytest.fixture
def run(tmp_path) -> Run:
    return Run.create(tmp_path / "run", command="test", config={})


@pytest.fixture
def file(run) -> Path:
    return run.path / "tensors" / "vhd_by_token.safetensors"


def test_what_is_kept_is_read_back(run):
    steps = [torch.rand(5, 2, 3), torch.rand(0, 2, 3), torch.rand(2, 2, 3).half()]
    steps[0][:, 1, 2] = torch.nan
    assert not holds_by_token(run)
    keep_by_token(run, steps)
    assert holds_by_token(run)
    for i, one in enumerate(steps):
        found = read_by_token(run, i)
        assert found.dtype == torch.float32
        assert found.shape == one.shape
        assert torch.equal(found.nan_to_num(-1.0), one.float().nan_to_num(-1.0))
    assert run.score_names() == run.table_names() == ()
    keep_by_token(run, [torch.zeros(1, 1, 1)])
    assert read_by_token(run, 0).shape == (5, 2, 3), "results are not overwritten"


def test_what_is_not_there_is_told(run, file):
    with pytest.raises(UsageError, match="keeps no VHD by token"):
        read_by_token(run, 0)
    keep_by_token(run, [torch.rand(1, 2, 3)])
    with pytest.raises(UsageError, match="caption 1 is not among the 1"):
        read_by_token(run, 1)
    with pytest.raises(UsageError, match="caption -1 is not among"):
        read_by_token(run, -1)
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(UsageError, match="cannot be read"):
        read_by_token(run, 0)
    save_file({"0": torch.zeros(3)}, file)
    with pytest.raises(UsageError, match=r"damaged: caption 0 has shape \[3\]"):
        read_by_token(run, 0)


def test_sizes_by_hand(run, monkeypatch):
    refuse_large(100, 512, 32 * 32)  # a model of 7 billion parameters, 210 MB at most
    assert MOST_BYTES == 1024 * 2048 * 128 * 4
    refuse_large(1024, 2048, 128)
    with pytest.raises(UsageError, match=r"may take 8\.0 GB, and at most 1 GB is kept; keep that of 1024 captions"):
        refuse_large(8192, 2048, 128)
    monkeypatch.setattr("experiments.vhd_by_token.MOST_BYTES", 2 * 3 * 4 * 10)
    keep_by_token(run, [torch.rand(4, 2, 3), torch.rand(6, 2, 3)])
    with pytest.raises(UsageError, match="may take"):
        keep_by_token(Run.create(run.path / "more", command="test", config={}), [torch.rand(11, 2, 3)])


def test_the_command_keeps_it_and_all_its_options(tmp_path, capsys):
    out = tmp_path / "seen"
    argv = ["heads", "vision", "--limit", "3", "--prior", "usual", "--max-new-tokens", "9", "--by-token", "2"]
    assert command([*argv, "--seed", "4", "--batch-tokens", "999", "--out", str(out), "--json"]) == 0
    capsys.readouterr()
    kept = Run.open(out)
    config = kept.facts["config"]
    assert config.pop("task").startswith("CHAIR(")
    assert config == {
        "model": "zoo:scenes",
        "annotations": None,
        "images": None,
        "synonyms": None,
        "prompt": "Please describe this image in detail.",
        "prior": "usual",
        "limit": 3,
        "max_new_tokens": 9,
        "by_token": 2,
        "batch_tokens": 999,
        "dtype": "auto",
        "trust_remote_code": False,
        "allow_pickle": False,
    }
    assert kept.facts["seeds"] == [4]
    rows = kept.table("caption_tokens")
    means = kept.scores("vhd").samples
    for caption in (0, 1):
        found = read_by_token(kept, caption)
        assert found.shape[1:] == (6, 8)
        assert torch.allclose(found.mean(0), means[caption], atol=1e-5)
        summed = torch.tensor(rows.loc[rows["sample"] == caption, "token_vhd"].to_numpy()).float()
        assert torch.allclose(token_vhd(found), summed, atol=1e-5)
    with pytest.raises(UsageError, match="caption 2 is not among the 2"):
        read_by_token(kept, 2)
    model = HookedModel.load("zoo:scenes")
    sample = scene_captions(3, seed=4, violating=False).samples(model.processor)[1]
    assert torch.allclose(read_by_token(kept, 1), measure_vhd(model, [sample], max_new_tokens=9).steps[0], atol=1e-4)


def test_none_is_kept_where_none_is_asked_for(tmp_path, capsys):
    out = tmp_path / "seen"
    argv = ["heads", "vision", "--limit", "2", "--max-new-tokens", "4", "--by-token", "0", "--out", str(out), "--json"]
    assert command(argv) == 0
    assert "vhd" in json.loads(capsys.readouterr().out)
    assert not holds_by_token(Run.open(out))


def test_absurd_sizes_are_refused_before_anything_runs(tmp_path, capsys):
    out = tmp_path / "seen"
    argv = ["heads", "vision", "--limit", "90", "--by-token", "90", "--max-new-tokens", "1000000", "--out", str(out)]
    assert command(argv) == 2
    said = capsys.readouterr().err.replace("\n", " ")
    assert "keep that of 5 captions" in said
    assert not out.exists()
