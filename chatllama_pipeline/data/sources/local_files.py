"""The data files of a folder in the hub's own layout: which there are, and what they hold."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from chatllama_pipeline.errors import DataError

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".json", ".json.gz")
# The hub's own descriptions of a dataset, no rows.
_NO_ROWS = {"dataset_infos.json", "dataset_dict.json", "state.json", "dataset_info.json"}
_LICENCE = re.compile(r"^license:\s*(\S.*)$", re.MULTILINE)
_BLOCK = 1 << 20


def data_files(path: Path, leave_out: tuple[str, ...] = ()) -> list[Path]:
    """The data files at `path`, itself or below it, sorted; links are followed, loops are not.

    Folders named in `leave_out` and hidden ones are passed over. Raises DataError for what may not
    be read.
    """
    if not path.is_dir():
        return [path]
    return sorted(_walk(path, leave_out, set()))


def _walk(folder: Path, leave_out: tuple[str, ...], above: set[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}; correct its rights") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if entry.name not in leave_out:
                yield from _walk(entry, leave_out, above | {real})
        elif entry.name.lower().endswith(SUFFIXES) and entry.name not in _NO_ROWS:
            yield entry


def content(path: Path, leave_out: tuple[str, ...] = ()) -> str:
    """A hash of the names and bytes of the data files: changes in place are noticed."""
    digest = hashlib.sha256()
    root = path if path.is_dir() else path.parent
    for file in data_files(path, leave_out):
        digest.update(f"{file.relative_to(root).as_posix()}\0".encode())
        digest.update(_hash(file))
    return digest.hexdigest()[:16]


def _hash(file: Path) -> bytes:
    digest = hashlib.sha256()
    try:
        with file.open("rb") as handle:
            while block := handle.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}; correct or remove it") from error
    return digest.digest()


def licence(root: Path) -> str:
    """The licence that a dataset's README.md names in its first lines, or ""."""
    readme = root / "README.md"
    if not readme.is_file():
        return ""
    told = _LICENCE.search(readme.read_text(encoding="utf-8", errors="replace")[:4000])
    return told[1].strip() if told else ""
