"""Manifests: what a version is, what it was made from, and the hashes that prove both."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from chatllama_pipeline.progress import MEGABYTE, Phase, phase
from chatllama_pipeline.records import Check, Curve

# What things are called in a store: the owner of what no assistant owns, a version's manifest, the
# pointer to the current one, the folder of a person's words, that of what is under way
# (`_runs/<asset>/<owner>/<fingerprint>`), and in it that of a training's states.
SHARED, MANIFEST, CURRENT, APPROVALS = "_shared", "manifest.json", "current.json", "_approvals"
RUNS, STATE = "_runs", "state"
HASHED_AT_ONCE = 2**22
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
    """What is known of a version; `created` and `seconds` are its only times.

    Manifests outlive the code that wrote them: a field that older ones lack has a default.
    """

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
        return cls.parsed(path.read_text())

    @classmethod
    def parsed(cls, text: str | bytes) -> Self:
        raw = json.loads(text)
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

    @property
    def name(self) -> str:
        """Version, asset and assistant, in words."""
        of = f" of assistant {self.manifest.assistant}" if self.manifest.assistant else ""
        return f"{self.id} of {self.manifest.asset}{of}"

    def damaged(self) -> Iterator[PayloadFile]:
        """The payload files that are missing or differ from their hash; every file is hashed."""
        files = self.manifest.files
        counter = phase(
            f"verifies {self.manifest.asset}", sum(file.size for file in files) / MEGABYTE, "MB"
        )
        for file in files:
            path = self.path / file.path
            if not path.is_file() or hash_file(path, counter) != file.sha256:
                yield file

    def fault(self, file: PayloadFile) -> str:
        """What a `damaged` file's error says."""
        path, manifest = self.path / file.path, self.manifest
        found = "no longer has the hash of its manifest" if path.is_file() else "is missing"
        where = f" --partition {manifest.assistant}" if manifest.assistant else ""
        return (
            f"{path} {found}; version {self.id} of {manifest.asset} is not used. Make it again: "
            f"dagster asset materialize -m chatllama_pipeline.definitions "
            f"--select {manifest.asset}{where}"
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
    """Every file under `folder`, synced to the disk, with its hash."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths:
        sync_file(path)
    return [
        PayloadFile(path.relative_to(folder).as_posix(), path.stat().st_size, found)
        for path, found in zip(paths, hash_files("hashes what was made", paths), strict=True)
    ]


def sync_file(path: Path) -> None:
    """Have the disk hold what `path` holds."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def write_atomically(path: Path, record: dict[str, Any]) -> None:
    """Write JSON that is whole or not there, whenever the machine stops."""
    beside = path.with_name(f".{path.name}.new")
    with beside.open("w") as handle:
        json.dump(record, handle, indent=1, sort_keys=True)
        handle.flush()
        os.fsync(handle.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_beside_others(path: Path, record: dict[str, Any]) -> None:
    """`write_atomically` where nothing keeps others from writing it too: the last one stands."""
    own = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    write_atomically(own, record)
    own.replace(path)


def remove_version(folder: Path) -> None:
    """Remove a version's folder: without its manifest it is none, whatever happens next."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def hash_files(what: str, paths: Sequence[Path]) -> list[str]:
    """The files' sha256, as a phase of that name."""
    counter = phase(what, sum(path.stat().st_size for path in paths) / MEGABYTE, "MB")
    return [hash_file(path, counter) for path in paths]


def hash_file(path: Path, counter: Phase | None = None) -> str:
    """The file's sha256; `counter` counts the megabytes read."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(HASHED_AT_ONCE))
    with path.open("rb", buffering=0) as handle:
        while count := handle.readinto(buffer):
            digest.update(buffer[:count])
            if counter is not None:
                counter.advance(count / MEGABYTE)
    return digest.hexdigest()


def _short(digest: Any) -> str:
    return str(digest.hexdigest())[:16]


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
