"""Where a public source's files are: on the hub, in a folder, behind a URL; and which they are.

`identify` tells what the files are without fetching them: a hub revision's commit, a folder's
content, what a URL's server says of its files. `fetch` brings them to this machine, whole.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatllama_pipeline.data.sources import hub, local_files, urls
from chatllama_pipeline.data.unchanged import changed_file
from chatllama_pipeline.errors import DataError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
_TRUE = {"1", "on", "yes", "true"}


@dataclass(frozen=True)
class Asked:
    """What a run asks of a public source.

    `source` is where its files are ("" = the environment variable, else the hub); `refresh` looks
    for a newer revision; `offline` forbids the network (as HF_HUB_OFFLINE=1 does).
    """

    source: str = ""
    refresh: bool = False
    offline: bool = False


@dataclass(frozen=True)
class Files:
    """A public source's files on this machine, and what is known of them.

    `root` is what subset folders are relative to; `revision` is a commit, "" where there is none.
    """

    root: Path
    paths: list[Path]
    location: str
    revision: str
    licence: str

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.paths)


@dataclass(frozen=True)
class Home:
    """Where a source lives unless it is moved: its hub id and the variable that moves it.

    `leave_out` are folders of the hub's layout that hold something else; `licence` is told where
    the files don't tell theirs.
    """

    hub_id: str
    variable: str
    licence: str
    leave_out: tuple[str, ...] = ()

    def location(self, asked: Asked) -> str:
        return asked.source or os.environ.get(self.variable) or self.hub_id


def is_offline(asked: Asked) -> bool:
    """Whether the network is forbidden, by the run or by HF_HUB_OFFLINE."""
    return asked.offline or os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE


def identify(
    home: Home, asked: Asked, known: Mapping[str, Any] | None, look: bool = True
) -> dict[str, Any]:
    """What the files at a place are, as inputs of a recipe: the same files, the same inputs.

    `known` are the inputs of the version in use: a hub revision that was resolved stays at its
    commit until a refresh is asked for. Without `look` the network is left alone, and what isn't
    known is "not looked up".
    """
    location = home.location(asked)
    path = _local_path(location)
    if path is not None:
        return {"content": local_files.content(path, home.leave_out)}
    offline = is_offline(asked)
    same = known if known and known.get("location") == location else None
    if "://" in location:
        if same and (offline or not look):
            return dict(same)
        told = urls.state(location, home.leave_out, offline, home.variable) if look else None
        return {"location": location, "files": told or "not looked up"}
    _check_hub_id(location, home)
    if same and not asked.refresh:
        return dict(same)
    commit = hub.resolve(location, offline, home.variable) if look else "not looked up"
    return {"location": location, "revision": commit}


def fetch(home: Home, asked: Asked, inputs: Mapping[str, Any], scratch: Path) -> Files:
    """The files on this machine; `scratch` outlives a kill, so that a download goes on there."""
    location = home.location(asked)
    path = _local_path(location)
    revision = ""
    if path is None and "://" in location:
        path = urls.download(location, home.leave_out, scratch, is_offline(asked), home.variable)
    elif path is None:
        revision = str(inputs["revision"])
        path = hub.download(location, revision, home.leave_out, is_offline(asked), home.variable)
    paths = local_files.data_files(path, home.leave_out)
    if not paths:
        raise DataError(
            f"{location} holds no file that ends in {', '.join(local_files.SUFFIXES)}; set "
            f"{home.variable}, or `source` in the run config, to a place that does"
        )
    root = path if path.is_dir() else path.parent
    return Files(root, paths, location, revision, local_files.licence(root) or home.licence)


def require_as_identified(home: Home, asked: Asked, inputs: Mapping[str, Any]) -> None:
    """Raise ChangedFileError where files on this machine aren't those that `identify` saw: its
    word is what their rows go by."""
    if "content" not in inputs or (path := _local_path(home.location(asked))) is None:
        return
    if local_files.content(path, home.leave_out) == inputs["content"]:
        return
    files = local_files.data_files(path, home.leave_out)
    last = max(files, key=lambda file: file.stat().st_mtime_ns, default=path)
    raise changed_file(path, f"it isn't what the run found at its start; last written is {last}")


def _local_path(location: str) -> Path | None:
    """The path that a location is, or None for a hub id or a URL; a missing path is a DataError."""
    if location.startswith("file://"):
        location = location.removeprefix("file://")
    elif "://" in location:
        return None
    path = Path(location).expanduser()
    try:
        if path.exists():
            return path.absolute()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; correct its rights") from error
    if path.is_absolute() or location.startswith((".", "~")):
        raise DataError(f"there is no file or folder {path}; correct the source's place")
    return None


def _check_hub_id(location: str, home: Home) -> None:
    if not _HUB_ID.fullmatch(location):
        raise DataError(
            f"{location!r} is neither a hub id (owner/name or owner/name@revision), nor a file or "
            f"folder that exists, nor a URL; correct {home.variable}, or `source` in the run config"
        )
