"""The README does what it says: its Python runs, its commands exist, its links lead somewhere."""

import re
from pathlib import Path

import pytest

from experiments.cli import run
from tests.docs.snippets import python_blocks, run_python_blocks

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def test_python_blocks_run_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(python_blocks(README)) >= 3
    names = run_python_blocks(README, "README")
    families = names["table"].families().set_index("kind")["mean"]
    assert families["none"] > 0.9
    assert families["treatment"] < 0.2


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`headscope ([a-z]+(?: [a-z]+)?)[^`]*`", README))))
def test_commands_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = command.split()
    assert run([*words, "--help"]) == 0 or run([words[0], "--help"]) == 0
    assert "Usage" in capsys.readouterr().out


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"^make (\S+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)]+)\)", README))
def test_links_lead_to_files(link: str) -> None:
    assert (ROOT / link).exists()


def test_functions_named_in_the_table_exist() -> None:
    import experiments
    import head_analysis
    import interventions
    from headscope import HookedModel
    from headscope.scores import HeadScores

    for holder, names in {
        head_analysis: ("retrieval_scores", "read_score_file"),
        experiments: ("compare",),
        interventions: ("Ablate",),
        HookedModel: ("check", "attention_rows", "attention_mass", "generate"),
        HeadScores: ("correlation", "overlap", "activation_frequency"),
    }.items():
        for name in names:
            assert name in README
            assert hasattr(holder, name)
