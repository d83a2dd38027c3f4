"""Names from an address stay names of folders inside the folder of runs."""

import pytest

from dashboards.confined import folder_in, folders_with
from dashboards.models import model_names, needs_consent
from dashboards.plain import plain, shortened
from dashboards.settings import Settings
from headscope.errors import UsageError
from headscope.zoo import zoo_names


@pytest.fixture
def root(tmp_path):
    for name in ("inside", "outside"):
        (tmp_path / name / "run").mkdir(parents=True)
        (tmp_path / name / "run" / "config.json").write_text("{}")
    (tmp_path / "outside" / "secret.parquet").write_bytes(b"secret")
    return tmp_path / "inside"


def test_a_folder_inside(root):
    assert folder_in(root, "run") == root / "run"
    assert folder_in(root, "not there yet") == root / "not there yet"


@pytest.mark.parametrize("name", ["", ".", "..", "../outside", "run/../..", "/etc", "a\\b", ".hidden", "run\0", "run/"])
def test_names_that_lead_elsewhere(root, name):
    with pytest.raises(UsageError, match="not the name of a folder inside"):
        folder_in(root, name)


def test_links_that_lead_elsewhere(root):
    (root / "away").symlink_to(root.parent / "outside")
    with pytest.raises(UsageError, match="leads out of"):
        folder_in(root, "away")
    (root / "run" / "table.parquet").symlink_to(root.parent / "outside" / "secret.parquet")
    with pytest.raises(UsageError, match="is a link to a file outside"):
        folder_in(root, "run")


@pytest.mark.parametrize("inner", ["cells", "tensors"])
def test_a_link_further_inside(root, inner):
    (root / "run" / inner).mkdir()
    (root / "run" / inner / "one.parquet").symlink_to(root.parent / "outside" / "secret.parquet")
    with pytest.raises(UsageError, match=r"one\.parquet is a link"):
        folder_in(root, "run")


def test_a_link_that_stays_inside(root):
    (root / "run" / "same.json").symlink_to(root / "run" / "config.json")
    assert folder_in(root, "run") == root / "run"


def test_folders_with_a_file(root):
    (root / "deep" / "model").mkdir(parents=True)
    (root / "deep" / "model" / "config.json").write_text("{}")
    (root / "away").symlink_to(root.parent / "outside" / "run")
    assert folders_with(root, "config.json") == ("run",)
    assert folders_with(root, "config.json", depth=2) == ("deep/model", "run")


def test_models_that_may_be_loaded(root, tmp_path):
    outside = str(tmp_path / "outside" / "run")
    named = ["org/model", outside, "/etc", "~root", "../x", "a\0b"]
    assert set(model_names(Settings(root), named)) - set(zoo_names()) == {"org/model"}
    allowed = model_names(Settings(root, models=root), [*named, str(root / "run")])
    assert set(allowed) - set(zoo_names()) == {"org/model", str(root / "run"), "folder: run"}


def test_a_folder_beside_where_the_dashboard_runs_is_a_path(root, monkeypatch):
    monkeypatch.chdir(root)
    assert "run" not in model_names(Settings(root), ["run"])


def test_only_the_zoo_is_loaded_without_asking():
    assert not needs_consent("zoo:needle")
    assert needs_consent("org/model")


@pytest.mark.parametrize("text", ["<b>", "[a](b)", "![a](b)", "$x$", ":red[x]", "**x**", "# x", "`x`", "a\\b"])
def test_plain_escapes_every_sign(text):
    assert plain(text).replace("\\\\", "\0").replace("\\", "").replace("\0", "\\") == text
    assert all(plain(text)[i - 1] == "\\" for i, sign in enumerate(plain(text)) if sign in "<>[]()!$:*#`" and i)


def test_plain_is_one_line():
    assert plain("# a\n\n- b") == "\\# a \\- b"
    assert plain("Überschrift 1") == "Überschrift 1"


def test_shortened():
    assert shortened("a\nb") == "a b"
    assert shortened("x" * 100, 10) == "x" * 9 + "…"
