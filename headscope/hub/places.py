"""Where shared files lie: a folder, or a dataset repository of the hub. Both list, fetch and take files, and no more."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import copyfile
from typing import Protocol, runtime_checkable

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from headscope.errors import UsageError
from headscope.files import write_new, write_over

_CARD = "README.md"
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


@runtime_checkable
class Place(Protocol):
    """Files by their path in a repository."""

    @property
    def address(self) -> str:
        """What to give as `repo_id` to read from here."""

    def made(self) -> None:
        """Makes the place if there is none."""

    def files(self) -> frozenset[str]:
        """Paths of all files."""

    def fetch(self, path: str) -> Path | None:
        """A local copy of one file; None if there is no such file."""

    def put(self, files: Mapping[str, Path], message: str) -> str:
        """Takes new files, all or none where the place can do that, and says where they are."""


@dataclass(frozen=True)
class Folder:
    """A folder laid out like a repository."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def address(self) -> str:
        """The folder, written so that it is not taken for a repository of the hub."""
        return self.path.absolute().as_posix()

    def made(self) -> None:
        """Nothing: a folder is made when its first file is."""

    def files(self) -> frozenset[str]:
        """Paths below the folder."""
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file; give a folder, or the id of a repository (owner/name)")
        return frozenset(f.relative_to(self.path).as_posix() for f in self.path.rglob("*") if f.is_file())

    def fetch(self, path: str) -> Path | None:
        """The file itself."""
        return self.path / path if (self.path / path).is_file() else None

    def put(self, files: Mapping[str, Path], message: str) -> str:
        """Copies the files; the card, which is the only one to replace another, last."""
        for name in sorted(files, key=lambda name: name == _CARD):
            write = write_over if name == _CARD else write_new
            write(self.path / name, partial(_copy, files[name]))
        return self.address


@dataclass(frozen=True)
class HubRepository:
    """A dataset repository; huggingface_hub finds the address of the hub and the token."""

    repo_id: str
    revision: str | None = None
    private: bool | None = None

    def __str__(self) -> str:
        return f"the dataset repository {self.repo_id}"

    @property
    def address(self) -> str:
        """The id of the repository."""
        return self.repo_id

    def made(self) -> None:
        """A repository of this name, as private as asked; one that is there stays as it is."""
        with _explained(self):
            HfApi().create_repo(self.repo_id, repo_type="dataset", private=self.private, exist_ok=True)

    def files(self) -> frozenset[str]:
        """Paths in the repository."""
        with _explained(self):
            return frozenset(HfApi().list_repo_files(self.repo_id, repo_type="dataset", revision=self.revision))

    def fetch(self, path: str) -> Path | None:
        """A file in the cache of huggingface_hub, fetched unless it is there and the newest, or there and offline."""
        with _explained(self):
            try:
                return Path(HfApi().hf_hub_download(self.repo_id, path, repo_type="dataset", revision=self.revision))
            except RemoteEntryNotFoundError:
                return None

    def put(self, files: Mapping[str, Path], message: str) -> str:
        """One commit with all files."""
        with _explained(self):
            api = HfApi()
            added = [CommitOperationAdd(name, str(file)) for name, file in files.items()]
            done = api.create_commit(self.repo_id, added, commit_message=message, repo_type="dataset")
            return str(done.commit_url)


@contextmanager
def _explained(place: HubRepository) -> Iterator[None]:
    """Turns what the hub or the way there refuses into a UsageError with the next step."""
    try:
        yield
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HTTPError, ConnectionError) as error:
        answer = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
        if isinstance(answer, HfHubHTTPError):
            raise UsageError(_refusal(place, answer)) from error
        raise UsageError(
            f"the hub could not be reached for {place} ({_line(error)}); check the network, HF_ENDPOINT and "
            "HF_HUB_OFFLINE, or use a folder"
        ) from error
    except HFValidationError as error:
        raise UsageError(f"{place.repo_id!r} is no id of a repository ({_line(error)}); write owner/name") from error
    except LocalTokenNotFoundError as error:
        raise UsageError(f"{place} needs a token and there is none; {_LOG_IN}") from error


def _refusal(place: HubRepository, error: HfHubHTTPError) -> str:
    code = error.response.status_code
    if isinstance(error, GatedRepoError):
        return f"{place} is gated; ask for access on its page, and {_LOG_IN}"
    if isinstance(error, RepositoryNotFoundError):
        return f"there is no dataset repository {place.repo_id}, or it is private; check the name, and {_LOG_IN}"
    if isinstance(error, RevisionNotFoundError):
        return f"{place} has no revision {place.revision!r}; give a branch, tag or commit of it"
    if code in (401, 403):
        return (
            f"the hub does not let this token do that in {place} ({code}); {_LOG_IN}, with a token that may write there"
        )
    return f"the hub answered {code} for {place} ({_line(error)}); try again later, or use a folder"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _copy(source: Path, target: Path) -> None:
    copyfile(source, target)
