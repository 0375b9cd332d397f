"""Data files behind a URL of any file system that `fsspec` knows (http, s3, gs, memory, ...)."""

from __future__ import annotations

import hashlib
import json
import posixpath
from pathlib import Path
from typing import Any

from chatllama_pipeline.data.sources.local_files import SUFFIXES
from chatllama_pipeline.errors import DataError

_BLOCK = 1 << 20
# What file systems tell of a file's content, whichever they know.
_MARKS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "created")


def state(url: str, leave_out: tuple[str, ...], offline: bool, variable: str) -> str:
    """A hash of names, sizes and times of the files, as their server tells them."""
    _forbid(url, offline, variable)
    return _state_of(_listed(url, leave_out, variable)[1])


def download(
    url: str, leave_out: tuple[str, ...], scratch: Path, offline: bool, variable: str
) -> Path:
    """Copy the files below `scratch`; the folder that holds them.

    A file counts once all its bytes are there: what a broken run left is kept, and a part of a
    file is fetched again. The state of a partial copy goes with it: other files at the URL now
    mean a fresh copy.
    """
    _forbid(url, offline, variable)
    files, infos = _listed(url, leave_out, variable)
    folder = scratch / "download" / _state_of(infos)
    for name, size in infos_by_name(infos).items():
        target = folder / name
        if target.is_file() and size in (None, target.stat().st_size):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(files, infos[name]["name"], target, size, variable)
    return folder


def infos_by_name(infos: dict[str, Any]) -> dict[str, int | None]:
    """Relative name -> size in bytes, None where the server doesn't tell."""
    return {name: info.get("size") for name, info in infos.items()}


def _listed(url: str, leave_out: tuple[str, ...], variable: str) -> tuple[Any, dict[str, Any]]:
    """The file system, and what it tells of each data file by its relative name."""
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(url)
        if url.lower().endswith(SUFFIXES):
            found = {path: files.info(path)}
            root = posixpath.dirname(path)
        else:
            found = files.find(path, detail=True)
            root = path.rstrip("/")
    # Each file system raises errors of its own libraries.
    except Exception as error:
        raise _unreadable(url, variable, error) from error
    infos = {}
    for name, info in sorted(found.items()):
        relative = name.removeprefix(root).lstrip("/")
        parts = relative.split("/")
        apart = set(parts[:-1]) & set(leave_out)
        if name.lower().endswith(SUFFIXES) and not apart and ".." not in parts:
            infos[relative] = {**info, "name": name}
    return files, infos


def _state_of(infos: dict[str, Any]) -> str:
    told = [
        [name, info.get("size"), *(str(info[mark]) for mark in _MARKS if mark in info)]
        for name, info in infos.items()
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _copy(files: Any, name: str, target: Path, size: int | None, variable: str) -> None:
    part = target.with_name(f".{target.name}.part")
    try:
        with files.open(name, "rb") as remote, part.open("wb") as here:
            while block := remote.read(_BLOCK):
                here.write(block)
    except Exception as error:
        raise _unreadable(name, variable, error) from error
    if size is not None and part.stat().st_size != size:
        raise DataError(
            f"{name} broke off after {part.stat().st_size} of {size} bytes; run again: finished "
            "files are kept"
        )
    part.replace(target)


def _forbid(url: str, offline: bool, variable: str) -> None:
    if offline and not url.startswith("memory://"):
        raise DataError(
            f"{url} may not be asked for: this run is offline. Set `offline: false` and "
            f"HF_HUB_OFFLINE=0, or {variable} to a folder that holds a copy"
        )


def _unreadable(url: str, variable: str, error: Exception) -> DataError:
    return DataError(
        f"{url} could not be read ({type(error).__name__}: {error}). Check the URL and the "
        f"network, or set {variable}, or `source` in the run config, to a folder that holds a copy"
    )
