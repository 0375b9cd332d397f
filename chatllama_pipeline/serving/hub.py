"""A release on Hugging Face's hub: what is sent, where to, and what stands there already."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from chatllama_pipeline.errors import DataError, StoreError

T = TypeVar("T")
# What the library's HTTP client raises, which is not the same client in all of its versions.
CLIENT_ERROR = cast(type[Exception], HfHubHTTPError.__bases__[0])
# The hub's own, which every repository begins with.
ATTRIBUTES = ".gitattributes"


class Target(NamedTuple):
    """A repository of the hub; `files` are those in it, None where there is none yet."""

    hub_id: str
    files: list[str] | None
    private: bool

    @property
    def taken(self) -> list[str]:
        """What would be replaced."""
        return [file for file in self.files or [] if file != ATTRIBUTES]


def files_to_send(release: Path, named: Sequence[str], exported: Path | None) -> dict[str, Path]:
    """The release's files that its manifest has `named`, and over them those in `exported`.

    The manifest itself stays here: it says what the release was made from. Raises DataError where
    `exported` holds no GGUF file.
    """
    found = {name: release / name for name in named}
    if exported is not None:
        files = [path for path in sorted(exported.glob("*")) if path.is_file()]
        if not any(path.suffix == ".gguf" for path in files):
            raise DataError(f"{exported}: holds no GGUF file: name what `chatllama export` wrote")
        found |= {path.name: path for path in files}
    return found


class Hub:
    """The hub that HF_ENDPOINT names, for whoever HF_TOKEN or `hf auth login` says one is."""

    def __init__(self) -> None:
        token = get_token()
        if token is None:
            raise StoreError(
                "nobody is signed in to the hub: set HF_TOKEN to a token that may write, or run "
                "`hf auth login`"
            )
        self._api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)

    def look(self, hub_id: str) -> Target:
        """What stands at `hub_id`; raises StoreError where that can't be told."""
        try:
            info = _asked(lambda: self._api.model_info(hub_id), f"look at {hub_id}")
        except RepositoryNotFoundError:
            return Target(hub_id, None, True)
        return Target(hub_id, [one.rfilename for one in info.siblings or []], bool(info.private))

    def send(self, files: dict[str, Path], target: Target, message: str, *, private: bool) -> str:
        """Make `files` all that stands at `target`, in one commit; returns its address.

        A repository that there is stays as private as it was.
        """
        told = f"write {target.hub_id}"
        if target.files is None:
            _asked(lambda: self._api.create_repo(target.hub_id, private=private), told)
        added = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
        gone = [CommitOperationDelete(name) for name in target.taken if name not in files]
        commit = _asked(
            lambda: self._api.create_commit(target.hub_id, [*added, *gone], commit_message=message),
            told,
        )
        return str(commit.commit_url)


def _asked(ask: Callable[[], T], told: str) -> T:
    try:
        return ask()
    except RepositoryNotFoundError:
        raise
    # An upload that broke off is a plain RuntimeError of the library's.
    except (CLIENT_ERROR, HFValidationError, OfflineModeIsEnabled, RuntimeError) as error:
        raise StoreError(f"the hub didn't let us {told}: {error}") from error
