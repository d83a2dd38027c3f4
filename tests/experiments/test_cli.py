"""The command line as a user meets it: exit codes, one sentence for every bad input, files for every good one."""

import gzip
import json
import shutil
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import headscope
from experiments.cli import run
from headscope import HookedModel, UsageError
from headscope.runs import Run
from headscope.scores import HeadScores
from headscope.zoo import zoo_names
from tasks import Needle
from tests.headscope.test_hooks import word_tokenizer
from tests.tiny import build
from training.documents import build_tokenizer

FIXTURES = Path(__file__).parents[1] / "fixtures"
LLAMA2, MISTRAL, MIXTRAL = (
    str(FIXTURES / f"retrieval_head_{name}.json.gz")
    for name in ("llama-2-7b-80k", "mistral-7b-v0.2", "mixtral-8x7b-v0.1")
)
SMALL = ("--lengths", "64", "--depths", "2", "--repeats", "2")  # four short prompts
needs_zoo = pytest.mark.skipif("zoo:needle" not in zoo_names(), reason="zoo:needle is not trained")


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> str:
    """Folder of a small random model that knows the project's words, with a context of 128 tokens."""
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf = LlamaForCausalLM(config)
    folder = tmp_path_factory.mktemp("models") / "llama"
    hf.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def scored(llama, tmp_path_factory) -> str:
    """Folder of a run with scores of all heads of that model."""
    out = str(tmp_path_factory.mktemp("runs") / "scored")
    assert run(["heads", "retrieval", "--model", llama, "--out", out, *SMALL, "--json"]) == 0
    return out


def printed(capsys: Any) -> Any:
    """What was printed as JSON, strictly: no NaN, nothing around it."""

    def strict(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(capsys.readouterr().out, parse_constant=strict)


def words_of(capsys: Any) -> str:
    """What was printed, in one line however narrow the terminal is."""
    return " ".join(capsys.readouterr().out.split())


def retrieval(model: str, out: str, *more: str) -> list[str]:
    return ["heads", "retrieval", "--model", model, "--out", out, *SMALL, "--json", *more]


def ablate(model: str, out: str, *more: str) -> list[str]:
    return ["ablate", "--model", model, "--out", out, *SMALL, "--draws", "2", "--json", *more]


class Loads(HTMLParser):
    """Everything a page would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        wanted = {"script": ("src",), "link": ("href",), "img": ("src", "srcset"), "iframe": ("src",)}
        self.found += [value for name, value in attrs if value and name in wanted.get(tag, ())]


def self_contained(path: Path) -> str:
    """The page at a path, once it is known to fetch nothing."""
    page = path.read_text("utf-8")
    assert [load for load in Loads(page).found if not load.startswith("data:")] == []
    assert "<script" in page
    return page


# -- requests that cannot be met -------------------------------------------------------------------------------------


def test_a_missing_model_folder(refused, out):
    refused(retrieval("./nowhere", out), 2, "there is no model folder ./nowhere", "zoo:needle")
    refused(["doctor", "./nowhere"], 2, "./nowhere")
    refused(["generate", "hello", "--model", "zoo:nothing"], 2, "zoo:nothing")
    assert not Path(out).exists()


def test_a_folder_without_a_model(refused, tmp_path):
    refused(["doctor", str(tmp_path)], 2, str(tmp_path), "config.json")


def test_an_unsupported_model(refused, tmp_path):
    build("gptj").save_pretrained(tmp_path / "gptj")
    refused(["doctor", str(tmp_path / "gptj")], 1, "GPTJForCausalLM", "attention interface")


def test_a_model_without_a_tokenizer(refused, tmp_path, out):
    build("llama").save_pretrained(tmp_path / "llama")
    folder = str(tmp_path / "llama")
    refused(retrieval(folder, out), 2, folder, "without a tokenizer")
    refused(ablate(folder, out, "--heads", "L0H1"), 2, "without a tokenizer")
    assert not Path(out).exists()


def test_a_tokenizer_that_does_not_know_the_words(refused, tmp_path, out):
    build("llama").save_pretrained(tmp_path / "llama")
    word_tokenizer().save_pretrained(tmp_path / "llama")
    refused(retrieval(str(tmp_path / "llama"), out), 2, "does not know 'The'")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--lengths", "12"), ("length 12 is too short", "ask for at least")),
        (("--lengths", "120"), ("a prompt of 1", "128 tokens", "shorter lengths")),
        (("--lengths", "300"), ("a prompt of 29", "128 tokens")),
        (("--lengths", "64,x"), ("--lengths '64,x'", "128,256")),
        (("--lengths", "0"), ("--lengths '0'",)),
        (("--lengths", "64,64"), ("twice",)),
        (("--haystack", "nowhere.txt"), ("'nowhere.txt' does not exist",)),
        (("--shard", "3/2"), ("--shard '3/2'", "1/4")),
        (("--shard", "half"), ("--shard 'half'",)),
        (("--shard", "9/9"), ("4 samples",)),
        (("--needles", "99"), ("99",)),
        (("--depths", "0"), ("--depths", "1")),
        (("--limit", "0"), ("--limit", "1")),
        (("--top-k", "0"), ("--top-k", "1")),
        (("--variant", "papers"), ("papers",)),
        (("--dtype", "float33"), ("'float33'", "bfloat16")),
        (("--device", "abacus"), ("'abacus'", "use cpu")),
        (("--nothing",), ("--nothing",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value[0], str) and value[0].startswith("--") else "",
)
def test_bad_options_of_heads_retrieval(refused, llama, out, options, says):
    refused(retrieval(llama, out, *options), 2, *says)
    assert not Path(out).exists(), "a refused request leaves no folder"


def test_a_haystack_that_is_too_short(refused, llama, tmp_path, out):
    (tmp_path / "short.txt").write_text("The miller sold the lamp. The sailor found the key.")
    refused(retrieval(llama, out, "--haystack", str(tmp_path / "short.txt")), 2, "short.txt", "length 64 needs")
    (tmp_path / "empty.txt").write_text("\n")
    refused(retrieval(llama, out, "--haystack", str(tmp_path / "empty.txt")), 2, "empty.txt", "holds no text")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--heads", "L9H2"), ("L9H2 asked for", "layers 0-1 with 4 heads")),
        (("--heads", "L1H7,L0H0"), ("L1H7 asked for",)),
        (("--heads", "second"), ("'second' is not a head", "L5H3")),
        (("--heads", ","), ("','", "L2H5")),
        (("--heads", "L1H0,L1H1,L1H2"), ("layer 1 has 4 heads", "use fewer heads")),
        ((), ("--heads", "--top")),
        (("--top", "2"), ("--from",)),
        (("--heads", "L0H1", "--top", "2"), ("either",)),
        (("--top", "0"), ("--top", "1")),
        (("--heads", "L0H1", "--mode", "half"), ("half",)),
        (("--heads", "L0H1", "--phase", "answer"), ("answer",)),
        (("--heads", "L0H1", "--dtype", "int8"), ("'int8'",)),
        (("--heads", "L0H1", "--device", "cuda:99"), ("cuda:99",)),
    ],
    ids=lambda value: " ".join(value) if not value or value[0].startswith("--") else "",
)
def test_bad_options_of_ablate(refused, llama, out, options, says):
    refused(ablate(llama, out, *options), 2, *says)
    assert not Path(out).exists()


def test_more_heads_than_there_are(refused, llama, scored, out):
    refused(ablate(llama, out, "--top", "40", "--from", scored), 2, "k is 40", "8 heads")
    refused(ablate(llama, out, "--top", "6", "--from", scored), 2, "layer", "heads of which", "use fewer heads")
    refused(ablate(llama, out, "--top", "1", "--from", str(Path(scored).parent)), 2, "is not a run")


def test_scores_of_a_run_without_any(refused, llama, tmp_path, out):
    Run.create(tmp_path / "empty", command="test", config={})
    refused(ablate(llama, out, "--top", "1", "--from", str(tmp_path / "empty")), 2, "empty holds no head scores")
    refused(["claims", "sparse", str(tmp_path / "empty")], 2, "empty holds no head scores")


def test_a_folder_that_exists_is_never_written_to(refused, llama, scored, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in Path(scored).rglob("*")}
    refused(retrieval(llama, scored), 2, "exists", "--resume")
    refused(ablate(llama, scored, "--heads", "L0H1"), 2, "exists")
    refused(["heads", "import", MISTRAL, "--out", scored], 2, "exists")
    refused(["claims", "sparse", MISTRAL, "--out", str(Path(scored) / "report.html")], 2, "never overwritten")
    assert before == {path: path.stat().st_mtime_ns for path in Path(scored).rglob("*")}


def test_resuming_with_other_settings(refused, llama, scored):
    refused(retrieval(llama, scored, "--resume", "--top-k", "2"), 2, "'top_k' was 1 and is 2 now")


def corrupt(kind: str, tmp_path: Path) -> Path:
    """A score file that is not one."""
    whole = Path(MISTRAL).read_bytes()
    path = tmp_path / ("bad.json" if kind in ("text", "empty", "shape") else "bad.json.gz")
    path.write_bytes(
        {
            "truncated": whole[: len(whole) // 2],
            "text": b"no scores here",
            "empty": b"",
            "shape": b'{"0-0": [1, 0], "0-1": [1]}',
            "gzipped text": gzip.compress(b"no scores here"),
        }[kind]
    )
    return path


@pytest.mark.parametrize("kind", ["truncated", "text", "empty", "shape", "gzipped text"])
def test_score_files_that_are_none(refused, tmp_path, out, kind):
    path = str(corrupt(kind, tmp_path))
    refused(["heads", "import", path, "--out", out], 2, path)
    refused(["claims", "sparse", path], 2, path)
    refused(["claims", "intrinsic", MISTRAL, path], 2, path)
    assert not Path(out).exists()


def test_score_files_of_headscope_that_are_none(refused, scored, tmp_path):
    whole = (Path(scored) / "retrieval.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(["claims", "sparse", str(tmp_path / "cut.safetensors")], 2, "cut.safetensors is cut short")
    refused(["claims", "sparse", str(tmp_path / "gone.safetensors")], 2, "there is no file", "gone.safetensors")
    refused(["heads", "import", str(tmp_path / "gone.json")], 2, "there is no file", "gone.json")


def test_claims_about_too_few_or_unlike_models(refused, scored):
    refused(["claims", "universal", MISTRAL], 2, MISTRAL, "at least two")
    refused(["claims", "intrinsic", MISTRAL], 2, "1 sources given")
    refused(["claims", "intrinsic", MISTRAL, scored], 2, "32 layers x 32 heads", "2 x 4")


def test_runs_in_no_folder(refused, tmp_path):
    refused(["runs", str(tmp_path / "nowhere")], 2, "nowhere", "headscope demo")


def test_commands_and_options_that_do_not_exist(refused):
    refused(["dance"], 2, "dance")
    refused(["heads", "count"], 2, "count")
    refused(["heads", "retrieval"], 2, "--out")
    refused(["doctor", "zoo:needle", "--nothing"], 2, "--nothing")
    refused(["heads", "import"], 2, "file")


@pytest.mark.parametrize("argv", [[], ["heads"], ["claims"]])
def test_no_command_prints_the_commands(capsys, argv):
    assert run(argv) == 2
    shown = capsys.readouterr()
    assert f"Usage: {' '.join(['headscope', *argv])} [OPTIONS]" in shown.out
    assert shown.err == ""


@pytest.mark.parametrize(
    "argv", [["--help"], ["heads", "--help"], ["ablate", "--help"], ["claims", "causal", "--help"]]
)
def test_help(capsys, argv):
    assert run(argv) == 0
    assert "Usage" in capsys.readouterr().out


# -- what goes wrong on the way --------------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException, *, at: int) -> list[int]:
    """From now on the batch of this number (from 1) raises; the list grows by the size of every batch."""
    sizes: list[int] = []
    plain = HookedModel.generate_batch

    def generate_batch(self: HookedModel, batch, **options):
        sizes.append(len(batch.samples))
        if len(sizes) == at:
            raise error
        return plain(self, batch, **options)

    monkeypatch.setattr(HookedModel, "generate_batch", generate_batch)
    return sizes


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), 1, "memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), 1, "memory ran out"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
    ids=["cuda", "cpu", "ctrl-c"],
)
def test_finished_parts_are_kept_and_resume_finishes(refused, llama, scored, out, monkeypatch, error, code, says):
    sizes = failing(monkeypatch, error, at=2)
    refused(retrieval(llama, out, "--batch-tokens", "128"), code, says, "--resume", "finished parts are kept")
    run_after = Run.open(out)
    assert run_after.facts["status"] == "failed"
    assert len(run_after.cell_keys()) == 1
    # The advice is a smaller --batch-tokens, so the run goes on with it.
    assert run(retrieval(llama, out, "--batch-tokens", "64", "--resume")) == 0
    assert sizes == [2, 2, 1, 1]
    resumed = Run.open(out)
    assert resumed.facts["status"] == "finished"
    assert len(resumed.facts["resumed"]) == 1
    assert torch.equal(resumed.scores("retrieval").samples, Run.open(scored).scores("retrieval").samples)
    pd.testing.assert_frame_equal(resumed.table("answers"), Run.open(scored).table("answers"))


def test_an_ablation_resumes(refused, llama, tmp_path, monkeypatch):
    whole, killed = str(tmp_path / "whole"), str(tmp_path / "killed")
    assert run(ablate(llama, whole, "--heads", "L0H1")) == 0
    sizes = failing(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"), at=4)
    refused(ablate(llama, killed, "--heads", "L0H1"), 1, "memory ran out")
    assert len(Run.open(killed).cell_keys()) == 3
    assert run(ablate(llama, killed, "--heads", "L0H1", "--resume")) == 0
    assert len(sizes) == 7  # six conditions, one of them twice
    for name in ("answers", "conditions", "families"):
        pd.testing.assert_frame_equal(Run.open(killed).table(name), Run.open(whole).table(name))


def test_with_debug_errors_are_raised(llama, out, monkeypatch):
    with pytest.raises(UsageError, match="there is no model folder"):
        run(["--debug", "doctor", "./nowhere"])
    failing(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"), at=1)
    with pytest.raises(torch.OutOfMemoryError):
        run(["--debug", *retrieval(llama, out)])


def test_an_error_nobody_foresaw_is_named_and_has_exit_code_1(llama, out, monkeypatch, capsys):
    failing(monkeypatch, ZeroDivisionError("division by [zero]"), at=1)
    assert run(retrieval(llama, out)) == 1
    shown = capsys.readouterr().err
    assert "unexpected ZeroDivisionError: division by [zero]; run again with --debug" in shown
    assert "Traceback" not in shown
    assert Run.open(out).facts["error"] == "ZeroDivisionError: division by [zero]"


def test_a_model_that_answers_nothing_cannot_be_scored_as_released(refused, llama, out):
    refused(retrieval(llama, out, "--variant", "released"), 2, "none of 4 answers", "variant='paper'")
    assert Run.open(out).cell_keys()


# -- requests that are met -------------------------------------------------------------------------------------------


def test_doctor(llama, capsys):
    assert run(["doctor", llama]) == 0
    shown = capsys.readouterr().out
    assert "self-check of" in shown
    assert "ok" in shown
    assert "FAILED" not in shown


def test_doctor_as_json(llama, capsys):
    assert run(["doctor", llama, "--json"]) == 0
    found = printed(capsys)
    assert found["passed"] is True
    assert found["stacks"] == [{"stack": "text", "layers": 2, "heads": 4, "key heads": 2, "d_head": 8, "z exact": True}]
    assert {"fact", "value", "bar", "passed", "note"} == set(found["checks"][0])


def test_doctor_fails_where_a_check_fails(llama, capsys, monkeypatch):
    monkeypatch.setattr("headscope.check.SelfCheck.passed", property(lambda self: False))
    assert run(["doctor", llama, "--json"]) == 1
    assert printed(capsys)["passed"] is False


def test_heads_retrieval(llama, scored, capsys):
    run_folder = Run.open(scored)
    facts = run_folder.facts
    assert facts["command"] == "heads retrieval"
    assert facts["status"] == "finished"
    assert facts["model"]["name"] == llama
    assert facts["config"]["variant"] == "paper"
    assert facts["seeds"] == [0]
    assert {"python", "headscope", "torch", "transformers", "numpy"} <= set(facts["versions"])
    assert facts["versions"]["torch"] == torch.__version__
    assert {"commit", "created", "wall_s"} <= set(facts)
    assert facts["self_check"]
    assert all(row["passed"] is not False for row in facts["self_check"])
    assert run_folder.table_names() == ("answers", "head_scores")
    assert len(run_folder.table("head_scores")) == 8
    assert run_folder.table("answers")["tokens"].le(64).all()
    assert run_folder.scores("retrieval").samples.shape == (4, 2, 4)
    assert "Which heads retrieve" in self_contained(Path(scored) / "report.html")


def test_heads_retrieval_prints_a_table_or_json(llama, tmp_path, capsys):
    assert run(retrieval(llama, str(tmp_path / "a"))) == 0
    found = printed(capsys)
    assert found["n"] == 4
    table = Run.open(tmp_path / "a").table("head_scores")
    assert {row["name"]: row["value"] for row in found["heads"]} == dict(
        zip(table["name"], table["value"], strict=True)
    )
    assert found["heads"][0]["value"] == table["value"].max()
    assert run([*retrieval(llama, str(tmp_path / "b"))[:-1], "--threshold", "0"]) == 0
    shown = words_of(capsys)
    assert "4 prompts of up to 64 tokens" in shown
    assert "8 of 8 heads at or above 0" in shown


def test_shards_together_are_the_whole(llama, scored, tmp_path):
    parts = []
    for shard in ("1/2", "2/2"):
        folder = tmp_path / shard.replace("/", "-")
        assert run(retrieval(llama, str(folder), "--shard", shard)) == 0
        parts.append(Run.open(folder).scores("retrieval").samples)
    whole = Run.open(scored).scores("retrieval").samples
    assert torch.equal(torch.stack(parts, 1).flatten(0, 1), whole)


def test_limit_takes_the_first_samples(llama, scored, out):
    assert run(retrieval(llama, out, "--limit", "3")) == 0
    first, whole = (Run.open(folder).table("answers")["target"].tolist() for folder in (out, scored))
    assert first == whole[:3]


def test_a_haystack_of_ones_own(llama, tmp_path, out):
    text = " ".join(f"The {role} found the lamp near the mill." for role in ("baker", "sailor", "farmer") * 10)
    (tmp_path / "book.txt").write_text(text)
    assert run(retrieval(llama, out, "--haystack", str(tmp_path / "book.txt"))) == 0
    assert "book.txt" in Run.open(out).facts["config"]["task"]


def test_heads_import(out, capsys):
    assert run(["heads", "import", LLAMA2, "--out", out, "--json"]) == 0
    found = printed(capsys)
    assert found["n"] == 586
    assert [row["name"] for row in found["heads"][:3]] == ["L16H19", "L11H15", "L8H26"]
    assert len(found["heads"]) == 1024
    kept = Run.open(out)
    assert kept.facts["status"] == "finished"
    assert kept.scores("retrieval").samples.shape == (586, 32, 32)
    assert kept.table("head_scores")["value"].max() == pytest.approx(found["heads"][0]["value"])
    assert run(["heads", "import", LLAMA2]) == 0
    assert "33 of 1024 heads at or above 0.1" in words_of(capsys)


def test_claims_sparse(tmp_path, capsys):
    page = tmp_path / "sparse.html"
    assert run(["claims", "sparse", LLAMA2, MISTRAL, "--out", str(page), "--json"]) == 0
    llama2, mistral = printed(capsys)
    assert (llama2["score >= 0.1"], llama2["heads"], llama2["share"], llama2["n"]) == (33, 1024, "3.2%", 586)
    assert llama2["best"] == "L16H19 0.94, L11H15 0.92, L8H26 0.80"
    assert mistral["n"] == 362
    assert "sparse: few heads retrieve" in self_contained(page)


def test_claims_universal(capsys):
    assert run(["claims", "universal", LLAMA2, MISTRAL, MIXTRAL, "--json"]) == 0
    rows = printed(capsys)
    assert [row["source"] for row in rows] == [Path(source).name for source in (LLAMA2, MISTRAL, MIXTRAL)]
    assert all(1 < float(row["share"].rstrip("%")) < 8 for row in rows)


def test_claims_dynamic(tmp_path, capsys):
    page = tmp_path / "dynamic.html"
    assert run(["claims", "dynamic", LLAMA2, "--out", str(page), "--json"]) == 0
    rows = printed(capsys)
    assert sum(row["active in"] == 1 for row in rows) == 12
    for row in rows:
        assert row["context sensitivity"] == pytest.approx(row["active in"] - row["mean score"], abs=2e-3)
    assert "dynamic" in self_contained(page)


def test_claims_intrinsic(tmp_path, capsys):
    page = tmp_path / "intrinsic.html"
    assert run(["claims", "intrinsic", MISTRAL, MIXTRAL, "--out", str(page), "--json"]) == 0
    (row,) = printed(capsys)
    assert round(row["r"], 2) == 0.96
    assert row["heads"] == 1024
    low, high = map(float, row["95 % interval"].split(" to "))
    assert low < row["r"] < high
    assert "intrinsic" in self_contained(page)
    assert run(["claims", "intrinsic", LLAMA2, MISTRAL, "--json"]) == 0
    assert abs(printed(capsys)[0]["r"]) < 0.1


def test_claims_take_runs_and_saved_scores(scored, llama, capsys):
    file = Path(scored) / "retrieval.safetensors"
    assert run(["claims", "sparse", scored, str(file), "--threshold", "0.01", "--json"]) == 0
    from_run, from_file = printed(capsys)
    assert {**from_run, "source": ""} == {**from_file, "source": ""}
    assert run(["claims", "sparse", scored]) == 0
    assert "sparse: few heads retrieve" in words_of(capsys)


def test_claims_causal(llama, tmp_path, capsys):
    page = tmp_path / "causal.html"
    options = ["--model", llama, "--length", "64", "--ks", "1,2", "--draws", "2", "--mode", "uniform"]
    assert run(["claims", "causal", *options, "--phase", "decode", "--out", str(page), "--json"]) == 0
    names = [row["condition"] for row in printed(capsys)["conditions"]]
    assert names[0] == "none"
    assert names[2:4] == ["1 random, same layers (2 draws)", "1 random, any layer (2 draws)"]
    assert names[5:] == ["2 random, same layers (2 draws)", "2 random, any layer (2 draws)"]
    assert "causal: uniform ablation" in self_contained(page)


def test_ablate(llama, out, capsys):
    assert run(ablate(llama, out, "--heads", "L0H1,L1H2", "--mode", "uniform", "--phase", "decode")) == 0
    conditions = printed(capsys)["conditions"]
    assert [row["condition"] for row in conditions] == [
        "none",
        "without L0H1, L1H2",
        "random, same layers (2 draws)",
        "random, any layer (2 draws)",
    ]
    assert conditions[0]["p"] is None
    kept = Run.open(out)
    assert kept.facts["config"]["heads"] == ["L0H1", "L1H2"]
    assert (kept.facts["config"]["mode"], kept.facts["config"]["phase"]) == ("uniform", "decode")
    assert kept.table_names() == ("answers", "conditions", "families")
    assert len(kept.table("conditions")) == 6
    assert len(kept.table("answers")) == 6 * 4
    page = self_contained(Path(out) / "report.html")
    assert "uniform ablation, decode" in page


def test_ablate_takes_the_best_heads_of_a_run(llama, scored, out, capsys):
    options = ["--model", llama, "--out", out, *SMALL, "--draws", "1"]
    assert run(["ablate", *options, "--top", "2", "--from", scored]) == 0
    best = [str(head) for head in Run.open(scored).scores("retrieval").top(2)]
    assert Run.open(out).facts["config"]["heads"] == best
    shown = words_of(capsys)
    assert f"zero ablation of {', '.join(best)}" in shown
    assert "4 conditions x 4 prompts of up to 64 tokens" in shown


def test_generate(llama, capsys):
    argv = ["generate", "The miller sold the lamp.", "--model", llama, "--max-new-tokens", "6"]
    assert run([*argv, "--without", "L0H0,L0H1,L1H2", "--json"]) == 0
    answers = printed(capsys)["answers"]
    assert list(answers) == ["none", "without L0H0, L0H1, L1H2"]
    assert answers["none"] != answers["without L0H0, L0H1, L1H2"]
    assert run(argv) == 0
    assert capsys.readouterr().out == f"none: {answers['none']}\n"


def test_generate_refuses_heads_outside_the_model(refused, llama):
    refused(["generate", "The", "--model", llama, "--without", "L9H2"], 2, "L9H2 asked for")


@dataclass(frozen=True)
class Answer:
    """What a model wrote."""

    text: str


def test_what_is_printed_is_never_read_as_markup(llama, capsys, monkeypatch):
    answer = Answer("[red]a [/b] long " + "line " * 40)
    monkeypatch.setattr(HookedModel, "generate", lambda self, prompt, **options: answer)
    assert run(["generate", "The", "--model", llama]) == 0
    assert capsys.readouterr().out == f"none: {answer.text}\n"


def test_runs(scored, tmp_path, capsys):
    shutil.copytree(scored, tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_text("{")
    (tmp_path / "no run").mkdir()
    assert run(["runs", str(tmp_path), "--json"]) == 0
    bad, good = printed(capsys)
    assert (good["run"], good["command"], good["status"]) == ("good", "heads retrieval", "finished")
    assert bad["run"] == "bad"
    assert "is not JSON" in bad["status"]
    assert run(["runs", str(tmp_path)]) == 0
    assert "runs in" in words_of(capsys)
    (tmp_path / "none").mkdir()
    assert run(["runs", str(tmp_path / "none")]) == 0
    assert "none" in capsys.readouterr().out


# -- the zoo ---------------------------------------------------------------------------------------------------------


@needs_zoo
def test_the_zoo_model_is_sound(capsys):
    assert run(["doctor", "zoo:needle", "--json"]) == 0
    assert printed(capsys)["passed"] is True


@needs_zoo
def test_the_zoo_model_retrieves(out, capsys):
    assert run(["heads", "retrieval", "--out", out, "--lengths", "128", "--depths", "9", "--json"]) == 0
    found = printed(capsys)
    assert found["n"] == 9
    assert found["heads"][0]["value"] > 0.3
    answers = Run.open(out).table("answers")
    assert answers["score"].mean() > 0.7


@needs_zoo
def test_the_zoo_model_writes_down_a_secret(capsys):
    right = 0
    for sample in Needle((128,), 4).samples(build_tokenizer()):
        assert run(["generate", sample.prompt, "--max-new-tokens", "10", "--json"]) == 0
        right += printed(capsys)["answers"]["none"].startswith(sample.target)
    assert right >= 3


@needs_zoo
def test_demo(out, capsys):
    assert run(["demo", "--out", out, "--draws", "3", "--json"]) == 0
    found = printed(capsys)
    facts = Run.open(out).facts
    assert facts["status"] == "finished"
    assert facts["findings"] == {key: value for key, value in found.items() if key != "out"}
    assert facts["seeds"] == [0, 1]
    assert facts["self_check"]
    assert "torch" in facts["versions"]
    means = {row["condition"]: row["mean"] for row in found["conditions"]}
    without = means.pop(next(name for name in means if name.startswith("without ")))
    assert found["removed"]
    assert set(means) == {"none", "random, same layers (3 draws)", "random, any layer (3 draws)"}
    assert without < means["random, any layer (3 draws)"] <= means["none"]
    assert means["none"] > 0.7
    kept = Run.open(out)
    assert set(kept.table_names()) == {"answers", "conditions", "families", "head_scores", "retrieval_answers"}
    assert kept.table("families")["loss"].notna().all()
    assert isinstance(kept.scores("retrieval"), HeadScores)
    page = self_contained(Path(out) / "report.html")
    for heading in ("Which heads retrieve", "What happens without them", "Proof that the hooks do what they claim"):
        assert heading in page


def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"headscope {headscope.__version__}\n"
