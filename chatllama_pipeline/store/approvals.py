"""A person's word on a model: that it may be released though the gate held it back, or may not.

    <store>/_approvals/<assistant>/<evaluation version>.json
    <store>/_approvals/<assistant>/<model version>.rejected.json

An approval is for one evaluation: a model that is made again is judged again. A rejection is for
the model itself, however it is evaluated.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from chatllama_pipeline.store.manifests import APPROVALS
from chatllama_pipeline.store.remote.mirror import mirror_of


@dataclass(frozen=True)
class Rejection:
    """Who went back from a release, when (UTC, ISO), and to which."""

    by: str
    at: str
    back_to: str


def approve(store_root: Path, assistant: str, evaluation_version: str, by: str) -> Path:
    """Record that `by` approves what `evaluation_version` evaluated; returns the record's path."""
    path = _path(store_root, assistant, evaluation_version)
    _write(store_root, path, {"by": by, "at": _now()})
    return path


def is_approved(store_root: Path, assistant: str, evaluation_version: str) -> bool:
    """Whether a person has approved what that evaluation evaluated."""
    return _path(store_root, assistant, evaluation_version).is_file()


def reject(store_root: Path, assistant: str, model_version: str, by: str, back_to: str) -> None:
    """Record that `by` went back from the release of a model to another release."""
    path = _rejected(store_root, assistant, model_version)
    _write(store_root, path, dataclasses.asdict(Rejection(by, _now(), back_to)))


def accept(store_root: Path, assistant: str, model_version: str) -> None:
    """Take back a model's rejection, if there is one."""
    path = _rejected(store_root, assistant, model_version)
    if mirror := mirror_of(store_root):
        mirror.drop_approval(f"{path.parent.name}/{path.name}")
    path.unlink(missing_ok=True)


def rejection(store_root: Path, assistant: str, model_version: str) -> Rejection | None:
    """The rejection of a model, if there is one."""
    path = _rejected(store_root, assistant, model_version)
    return Rejection(**json.loads(path.read_text("utf-8"))) if path.is_file() else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(store_root: Path, path: Path, record: dict[str, str]) -> None:
    if mirror := mirror_of(store_root):
        mirror.keep_approval(f"{path.parent.name}/{path.name}", json.dumps(record).encode())
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    with beside.open("w", encoding="utf-8") as handle:
        json.dump(record, handle, indent=1)
        handle.flush()
        os.fsync(handle.fileno())
    beside.replace(path)


def _path(store_root: Path, assistant: str, evaluation_version: str) -> Path:
    return store_root / APPROVALS / assistant / f"{evaluation_version}.json"


def _rejected(store_root: Path, assistant: str, model_version: str) -> Path:
    return store_root / APPROVALS / assistant / f"{model_version}.rejected.json"
