"""A person's word that a model which the gate held back may be released.

    <store>/_approvals/<assistant>/<evaluation version>.json

An approval is for one evaluation: a model that is made again is judged again.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

APPROVALS = "_approvals"


def approve(store_root: Path, assistant: str, evaluation_version: str, by: str) -> Path:
    """Record that `by` approves what `evaluation_version` evaluated; returns the record's path."""
    path = _path(store_root, assistant, evaluation_version)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"by": by, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    beside = path.with_name(f".{path.name}.new")
    with beside.open("w", encoding="utf-8") as handle:
        json.dump(record, handle, indent=1)
        handle.flush()
        os.fsync(handle.fileno())
    beside.replace(path)
    return path


def is_approved(store_root: Path, assistant: str, evaluation_version: str) -> bool:
    """Whether a person has approved what that evaluation evaluated."""
    return _path(store_root, assistant, evaluation_version).is_file()


def _path(store_root: Path, assistant: str, evaluation_version: str) -> Path:
    return store_root / APPROVALS / assistant / f"{evaluation_version}.json"
