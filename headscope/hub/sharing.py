"""Scores pushed to a dataset repository and read back, by name.

A repository holds `scores/NAME.safetensors` (every sample, as `HeadScores.save` writes it), `tables/NAME.parquet` (the
head-score table) and a `README.md` with a section for each name. Nothing is pickled, and a name is never overwritten.
"""

import re
import tempfile
from pathlib import Path

from headscope.errors import UsageError
from headscope.hub.card import with_section
from headscope.hub.places import Folder, HubRepository, Place
from headscope.score_table import head_table, write_head_table
from headscope.scores import HeadScores

_CARD = "README.md"
_SCORES = re.compile(r"scores/([^/]+)\.safetensors")


def push_to_hub(scores: HeadScores, repo_id: str | Path, name: str, *, private: bool | None = None) -> str:
    """Adds scores under a name to a dataset repository, made if there is none, and says where they are.

    `repo_id` is `owner/repository`, or a folder: a Path, or text that begins with `.`, `/` or `~`. A repository that is
    made is `private` or public as asked, by default as the owner's settings say. All of `meta` goes along, paths of local
    models included. huggingface_hub finds the token (`hf auth login`, or HF_TOKEN). UsageError for a name that is taken,
    and where the hub refuses or cannot be reached.
    """
    place, taken = _place(repo_id, private=private), _path(name)
    place.made()
    if taken in place.files():
        raise UsageError(f"{place} has scores named {name!r} already, which are never overwritten; give another name")
    with tempfile.TemporaryDirectory() as folder:
        card, table, saved = (Path(folder) / file for file in (_CARD, "table.parquet", "scores.safetensors"))
        before = place.fetch(_CARD)
        text = None if before is None else before.read_text("utf-8")
        card.write_text(with_section(text, name, scores, place.address), "utf-8")
        scores.save(saved)
        write_head_table(table, head_table([scores]))
        files = {taken: saved, f"tables/{name}.parquet": table, _CARD: card}
        return place.put(files, f"Add head scores {name}")


def from_hub(repo_id: str | Path, name: str, *, revision: str | None = None) -> HeadScores:
    """The scores that were pushed under a name; UsageError lists the names there are.

    `revision` is a branch, tag or commit of the repository; folders have none. What was read before is read again without
    a network.
    """
    place = _place(repo_id, revision=revision)
    found = place.fetch(_path(name))
    if found is None:
        raise UsageError(f"{place} has no scores named {name!r}; it has: {', '.join(_names(place)) or 'none'}")
    return HeadScores.load(found)


def names_on_hub(repo_id: str | Path, *, revision: str | None = None) -> tuple[str, ...]:
    """The names that scores were pushed under."""
    return _names(_place(repo_id, revision=revision))


def _names(place: Place) -> tuple[str, ...]:
    return tuple(sorted(found[1] for file in place.files() if (found := _SCORES.fullmatch(file))))


def _place(repo_id: str | Path, *, revision: str | None = None, private: bool | None = None) -> Place:
    if isinstance(repo_id, str) and not repo_id.startswith((".", "/", "~")):
        return HubRepository(repo_id, revision, private)
    if revision is not None:
        raise UsageError(f"{repo_id} is a folder and has no revision {revision!r}; leave it out")
    return Folder(Path(repo_id).expanduser())


def _path(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise UsageError(
            f"{name[:40]!r} cannot name scores in a repository; use up to 100 letters, digits, '.', '_', '-'"
        )
    return f"scores/{name}.safetensors"
