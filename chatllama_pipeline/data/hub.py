"""Rows of a public dataset: from the hub, a folder or a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chatllama_pipeline.errors import DataError

_SUFFIXES = {
    ".jsonl": "json",
    ".jsonl.gz": "json",
    ".json": "json",
    ".json.gz": "json",
    ".parquet": "parquet",
}


def location_of(variable: str, hub_id: str) -> str:
    """Where a source's rows are: what the environment variable says, else the hub id."""
    return os.environ.get(variable) or hub_id


def stream_rows(location: str, variable: str) -> Iterator[dict[str, Any]]:
    """Every row of every split at `location`: a hub id, with `@revision` where one is pinned, a
    folder, or a file (.jsonl, .json, .parquet; JSON may be gzipped).

    Raises DataError, which says what to set, where the rows can't be had.
    """
    from datasets import load_dataset

    path = Path(location).expanduser()
    try:
        if path.exists():
            for kind, files in _files(path, variable):
                yield from load_dataset(kind, data_files=files, split="train", streaming=True)
        else:
            repository, _, revision = location.partition("@")
            for split in load_dataset(
                repository, revision=revision or None, streaming=True
            ).values():
                yield from split
    except DataError:
        raise
    # The libraries below raise errors of a dozen unrelated classes for one cause: no such data.
    except Exception as error:
        raise DataError(
            f"the rows of {location!r} could not be read ({type(error).__name__}: {error}); "
            f"check the network and HF_TOKEN, or set {variable} to a hub id (with @revision if you "
            "like), a folder or a file that holds them"
        ) from error


def _files(path: Path, variable: str) -> list[tuple[str, list[str]]]:
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    by_kind: dict[str, list[str]] = {}
    for file in found:
        kind = next((kind for end, kind in _SUFFIXES.items() if file.name.endswith(end)), None)
        if kind and file.is_file():
            by_kind.setdefault(kind, []).append(str(file))
    if not by_kind:
        raise DataError(f"{variable}={path} holds no file that ends in {', '.join(_SUFFIXES)}")
    return sorted(by_kind.items())
