"""A commit is noted for a file of the checkout and for no other."""

import subprocess

import pytest

from headscope.provenance import commit, origin


@pytest.fixture
def checkout(tmp_path):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    git("init", "--quiet")
    (tmp_path / "code.py").write_text("1\n")
    return tmp_path, git


def test_commit_and_dirty_mark(checkout):
    folder, git = checkout
    source = folder / "code.py"
    assert commit(source) is None  # not tracked yet
    git("add", "code.py")
    assert commit(source) is None  # nothing is committed yet
    git("commit", "--quiet", "-m", "first")
    head = git("rev-parse", "HEAD")
    assert commit(source) == head
    (folder / "result.txt").write_text("untracked files do not count")
    assert commit(source) == head
    source.write_text("2\n")
    assert commit(source) == f"{head}+dirty"
    installed = folder / "site" / "code.py"
    installed.parent.mkdir()
    installed.write_text("1\n")
    assert commit(installed) is None


def test_git_variables_do_not_lead_elsewhere(checkout, monkeypatch, tmp_path_factory):
    folder, git = checkout
    git("add", "code.py")
    git("commit", "--quiet", "-m", "first")
    head = git("rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path_factory.mktemp("other")))
    assert commit(folder / "code.py") == head


def test_no_checkout_and_no_git_are_none(tmp_path, monkeypatch):
    (tmp_path / "code.py").write_text("1\n")
    assert commit(tmp_path / "code.py") is None
    monkeypatch.setenv("PATH", "")
    assert commit(tmp_path / "code.py") is None


def test_versions_are_noted():
    versions = origin()["versions"]
    assert set(versions) == {"python", "headscope", "torch", "transformers", "numpy"}
    assert versions["numpy"].count(".") == 2
