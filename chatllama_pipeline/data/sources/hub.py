"""A dataset on the Hugging Face hub: its revision's commit, and its files in the hub's cache.

HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE mean what they mean to `huggingface_hub`, which
continues a download where it broke off and never takes a part of a file for the whole.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from chatllama_pipeline.data.sources.local_files import SUFFIXES
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.progress import growing, watching

_COMMIT = re.compile(r"[0-9a-f]{40}")
_PAPERS = ["README.md", "LICENSE*"]


def split_id(location: str) -> tuple[str, str]:
    """Repository and revision of `owner/name@revision`; `main` where none is named."""
    repository, _, revision = location.partition("@")
    return repository, revision or "main"


def resolve(location: str, offline: bool, variable: str) -> str:
    """The commit that a revision stands at now; offline, the newest in the hub's cache.

    Raises DataError, which says what to set, where the hub can't be asked.
    """
    from huggingface_hub import HfApi

    repository, revision = split_id(location)
    if _COMMIT.fullmatch(revision):
        return revision
    if offline:
        return _cached(repository, revision, location, variable)
    try:
        info = HfApi().dataset_info(repository, revision=revision)
    # huggingface_hub raises errors of many classes for one cause: the hub did not answer.
    except Exception as error:
        raise _unreachable(location, variable, error) from error
    return str(info.sha)


def _cached(repository: str, revision: str, location: str, variable: str) -> str:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        repositories = frozenset()
    found = [
        (revision in kept.refs, kept.last_modified, kept.commit_hash)
        for cached in repositories
        if (cached.repo_id, cached.repo_type) == (repository, "dataset")
        for kept in cached.revisions
        if revision in {*kept.refs, "main"}
    ]
    if not found:
        raise DataError(
            f"{location} is not in the hub's cache, and this run is offline. Set `offline: false` "
            f"and HF_HUB_OFFLINE=0, or {variable} to a folder that holds a copy of it"
        )
    return str(max(found)[-1])


def download(
    location: str, commit: str, leave_out: tuple[str, ...], offline: bool, variable: str
) -> Path:
    """The folder of a commit's data files, all of them there."""
    return _snapshot(location, commit, leave_out, offline, variable)


def _snapshot(
    location: str, revision: str, leave_out: tuple[str, ...], offline: bool, variable: str
) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.file_download import repo_folder_name

    hub_id = split_id(location)[0]
    name = repo_folder_name(repo_id=hub_id, repo_type="dataset")
    cached = Path(constants.HF_HUB_CACHE) / name
    options: dict[str, Any] = {
        "repo_type": "dataset",
        "revision": revision,
        "local_files_only": offline,
        "allow_patterns": [f"*{suffix}" for suffix in SUFFIXES] + _PAPERS,
        "ignore_patterns": [f"{folder}/*" for folder in leave_out],
    }
    try:
        # How much will come isn't known; what came by now shows in the cache.
        with watching("downloads", 0, growing(cached / "blobs"), "MB"):
            return Path(snapshot_download(hub_id, **options))
    except Exception as error:
        raise _unreachable(location, variable, error) from error


def _unreachable(location: str, variable: str, error: Exception) -> DataError:
    first = str(error).strip().splitlines()
    return DataError(
        f"{location} could not be had from the hub ({type(error).__name__}: "
        f"{first[0] if first else ''}). Check the name, the network and HF_TOKEN; without a "
        f"network set {variable}, or `source` in the run config, to a folder that holds a copy of "
        "it. What was downloaded is kept: the next run goes on from there"
    )
