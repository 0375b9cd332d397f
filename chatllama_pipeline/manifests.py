"""Manifests: what a version is, what it was made from, and the hashes that prove both."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from chatllama_pipeline.errors import CorruptVersionError
from chatllama_pipeline.records import Check, Curve

LIBRARIES = ("dagster", "torch", "transformers", "tokenizers", "datasets", "pyarrow", "numpy")


@dataclass(frozen=True)
class Recipe:
    """All that a version of `asset` is made from; `assistant` is None for shared sources.

    `upstream` maps assets to versions; `inputs` holds whatever else counts (hashes of a user's
    files, the location of a source).
    """

    asset: str
    assistant: str | None
    code_version: str
    upstream: Mapping[str, str]
    settings: Mapping[str, Any]
    inputs: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        made_from = {
            "asset": self.asset,
            "code_version": self.code_version,
            "upstream": dict(self.upstream),
            "settings": dict(self.settings),
            "inputs": dict(self.inputs),
        }
        return _short(hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()))


@dataclass(frozen=True)
class PayloadFile:
    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What is known of a version; `created` and `seconds` are its only times."""

    asset: str
    assistant: str | None
    version: str
    fingerprint: str
    code_version: str
    upstream: dict[str, str]
    settings: dict[str, Any]
    inputs: dict[str, Any]
    overrides: dict[str, Any]
    libraries: dict[str, str]
    files: list[PayloadFile]
    rows: int | None
    metrics: dict[str, Any]
    checks: list[Check]
    curves: list[Curve]
    warnings: list[str]
    created: str
    seconds: float

    @classmethod
    def read(cls, path: Path) -> Self:
        raw = json.loads(path.read_text())
        raw["files"] = [PayloadFile(**file) for file in raw["files"]]
        raw["checks"] = [Check(**check) for check in raw["checks"]]
        raw["curves"] = [Curve(c["name"], [(x, y) for x, y in c["points"]]) for c in raw["curves"]]
        return cls(**raw)


@dataclass(frozen=True)
class Version:
    """A published version: its payload stands in `path`."""

    path: Path
    manifest: Manifest

    @property
    def id(self) -> str:
        return self.manifest.version

    def verify(self) -> None:
        """Hash every payload file; raise CorruptVersionError for the first that differs."""
        for file in self.manifest.files:
            path = self.path / file.path
            if not path.is_file():
                found = "is missing"
            elif hash_file(path) != file.sha256:
                found = "no longer has the hash of its manifest"
            else:
                continue
            where = f" --partition {self.manifest.assistant}" if self.manifest.assistant else ""
            raise CorruptVersionError(
                f"{path} {found}; version {self.id} of {self.manifest.asset} is not used. Make it "
                f"again: dagster asset materialize -m chatllama_pipeline.definitions "
                f"--select {self.manifest.asset}{where}"
            )


def payload_version(files: list[PayloadFile]) -> str:
    """The hash over sorted paths and contents, as 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.path):
        digest.update(f"{file.path}\0{file.sha256}\n".encode())
    return _short(digest)


def library_versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def list_payload(folder: Path) -> list[PayloadFile]:
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as handle:
            os.fsync(handle.fileno())
        name = path.relative_to(folder).as_posix()
        files.append(PayloadFile(name, path.stat().st_size, hash_file(path)))
    return files


def hash_file(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _short(digest: Any) -> str:
    return str(digest.hexdigest())[:16]


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
