"""Scores come back from a folder and from a hub as they were pushed, and what goes wrong on the way is one sentence."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import huggingface_hub.constants
import pandas as pd
import pytest
import torch
import yaml

from headscope.errors import UsageError
from headscope.hub import from_hub, names_on_hub, push_to_hub
from headscope.score_table import read_head_table
from headscope.scores import HeadScores

META = {"model": "org/model|x", "revision": "abc", "task": "needle", "seed": 3, "note": "two\nlines"}
COMMIT = "0" * 40


def made(seed: int = 0) -> HeadScores:
    return HeadScores(torch.rand(12, 2, 3, generator=torch.Generator().manual_seed(seed)), "copying", META)


def same(a: HeadScores, b: HeadScores) -> bool:
    return torch.equal(a.samples, b.samples) and a.metric == b.metric and a.meta == b.meta


@dataclass
class Shelf:
    """A dataset repository as the hub serves it: what was committed, and the refusal it answers with, if any."""

    files: dict[str, bytes] = field(default_factory=dict)
    made: list[dict] = field(default_factory=list)
    refusal: tuple[int, str] | None = None
    tokens: set[str | None] = field(default_factory=set)


def handler(shelf: Shelf) -> type[BaseHTTPRequestHandler]:
    class Hub(BaseHTTPRequestHandler):
        @property
        def at(self) -> str:
            return f"http://127.0.0.1:{self.server.server_port}/datasets/me/heads"

        def answer(self, code: int, body: bytes, **headers: str) -> None:
            self.send_response(code)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def refused(self) -> bool:
            shelf.tokens.add(self.headers.get("Authorization"))
            if shelf.refusal is not None:
                code, reason = shelf.refusal
                self.answer(code, b"{}", X_Error_Code=reason)
            return shelf.refusal is not None

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if self.refused():
                return
            if found := re.fullmatch(r"/datasets/me/heads/resolve/main/(.+)", path):
                if found[1] not in shelf.files:
                    return self.answer(404, b"{}", X_Error_Code="EntryNotFound")
                body = shelf.files[found[1]]
                return self.answer(200, body, X_Repo_Commit=COMMIT, ETag=f'"{hashlib.sha1(body).hexdigest()}"')
            tree = [{"type": "file", "path": p, "size": len(b), "oid": "1"} for p, b in shelf.files.items()]
            answer = (
                tree
                if "/tree/" in path
                else {"id": "me/heads", "sha": COMMIT, "siblings": [{"rfilename": p} for p in shelf.files]}
            )
            self.answer(200, json.dumps(answer).encode(), Content_Type="application/json")

        do_HEAD = do_GET  # noqa: N815

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.refused():
                return
            answer: dict = {}
            if self.path.endswith("/repos/create"):
                shelf.made.append(json.loads(body))
                answer = {"url": self.at}
            elif "/preupload/" in self.path:
                files = json.loads(body)["files"]
                answer = {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            elif "/commit/" in self.path:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        shelf.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                answer = {"success": True, "commitOid": COMMIT, "commitUrl": f"{self.at}/commit/{COMMIT}"}
            else:
                answer = {"errors": [], "warnings": []}
            self.answer(200, json.dumps(answer).encode(), Content_Type="application/json")

        def log_message(self, *_: object) -> None:
            return

    return Hub


@pytest.fixture
def shelf(monkeypatch, tmp_path) -> Iterator[Shelf]:
    """A hub on this machine that huggingface_hub talks to by HTTP."""
    shelf = Shelf()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(shelf))
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    at = f"http://127.0.0.1:{server.server_port}"
    # Both are made of HF_ENDPOINT when huggingface_hub is imported.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", at)
    template = f"{at}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield shelf
    server.shutdown()
    server.server_close()


def test_scores_come_back_from_a_hub_as_they_were(shelf, monkeypatch):
    scores, others = made(0), made(1)
    where = push_to_hub(scores, "me/heads", "needle-512", private=True)
    assert "commit" in where
    assert shelf.made[0] == {"name": "heads", "organization": "me", "type": "dataset", "visibility": "private"}
    push_to_hub(others, "me/heads", "needle-1k")
    assert set(shelf.files) == {
        "README.md",
        *(f"scores/{name}.safetensors" for name in ("needle-512", "needle-1k")),
        *(f"tables/{name}.parquet" for name in ("needle-512", "needle-1k")),
    }
    assert names_on_hub("me/heads") == ("needle-1k", "needle-512")
    assert same(from_hub("me/heads", "needle-512"), scores)
    assert same(from_hub("me/heads", "needle-1k", revision="main"), others)
    assert shelf.tokens == {"Bearer hf_secret"}
    shelf.tokens.clear()
    with monkeypatch.context() as offline:
        offline.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        assert same(from_hub("me/heads", "needle-512"), scores)
        with pytest.raises(UsageError, match="could not be reached"):
            from_hub("me/heads", "gone")
    assert not shelf.tokens
    card = shelf.files["README.md"].decode()
    assert card.count("## needle-") == 2
    assert card.count("tags:") == 1
    with pytest.raises(UsageError, match=r"the dataset repository me/heads has scores named 'needle-1k' already"):
        push_to_hub(scores, "me/heads", "needle-1k")
    with pytest.raises(UsageError, match=r"no scores named 'gone'; it has: needle-1k, needle-512"):
        from_hub("me/heads", "gone")


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ((404, "RepoNotFound"), r"there is no dataset repository me/heads, or it is private.*hf auth login"),
        ((404, "RevisionNotFound"), r"has no revision 'v9'"),
        ((403, "GatedRepo"), r"is gated; ask for access"),
        ((403, ""), r"does not let this token do that in .*\(403\)"),
        ((400, ""), r"the hub answered 400"),
    ],
)
def test_refusals_of_the_hub_say_what_to_do(shelf, refusal, said):
    shelf.refusal = refusal
    with pytest.raises(UsageError, match=said):
        from_hub("me/heads", "needle", revision="v9")


def test_pushing_without_a_token_that_may(shelf):
    shelf.refusal = (401, "")
    with pytest.raises(UsageError, match=r"does not let this token do that in .*\(401\).*HF_TOKEN.*may write there"):
        push_to_hub(made(), "me/heads", "needle")


def test_a_hub_that_does_not_answer_is_one_sentence(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(UsageError, match=r"the hub could not be reached for .*me/heads .*or use a folder"):
        push_to_hub(made(), "me/heads", "needle")


def test_no_id_of_a_repository(shelf):
    with pytest.raises(UsageError, match="is no id of a repository"):
        from_hub("me/heads/more/parts", "needle")
    assert not shelf.tokens


def test_a_folder_does_as_well_as_a_hub(tmp_path):
    scores = made()
    folder = tmp_path / "shared"
    assert push_to_hub(scores, folder, "a.b_c-1") == str(folder)
    assert same(from_hub(str(folder), "a.b_c-1"), scores)
    table = read_head_table(folder / "tables" / "a.b_c-1.parquet")
    pd.testing.assert_series_equal(table["value"], scores.to_dataframe()["value"])
    assert names_on_hub(folder) == ("a.b_c-1",)
    with pytest.raises(UsageError, match="already"):
        push_to_hub(made(1), folder, "a.b_c-1")
    assert same(from_hub(folder, "a.b_c-1"), scores)


def test_the_card_says_where_scores_come_from_and_keeps_what_was_written(tmp_path):
    folder = tmp_path / "shared"
    push_to_hub(made(), folder, "first")
    card = (folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["configs"] == [{"config_name": "head_scores", "data_files": "tables/*.parquet"}]
    assert "| model | org/model\\|x |" in card
    assert "| note | two lines |" in card
    best = made().top(1)[0]
    assert f"| {best} | {made().values[best]:.4g} |" in card
    (folder / "README.md").write_text("# Mine\n\nSome words.\n")
    push_to_hub(made(1), folder, "second")
    card = (folder / "README.md").read_text()
    assert card.startswith("# Mine\n\nSome words.\n\n## second")
    assert "## first" not in card


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", "x" * 101])
def test_names_that_leave_their_folder_are_refused(tmp_path, name):
    with pytest.raises(UsageError, match="cannot name scores"):
        push_to_hub(made(), tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_bad_folders_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file; give a folder"):
        push_to_hub(made(), tmp_path / "file", "a")
    with pytest.raises(UsageError, match="is a folder and has no revision 'v1'"):
        from_hub(tmp_path, "a", revision="v1")
    with pytest.raises(UsageError, match="no scores named 'a'; it has: none"):
        from_hub(tmp_path, "a")
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "a.safetensors").write_bytes(b"cut")
    with pytest.raises(UsageError, match="cut short or is not a file of head scores"):
        from_hub(tmp_path, "a")
