"""The states of an unfinished training: whole or absent, private, verified before they are loaded.

    <run folder>/state/00000007/        what a training wrote
    <run folder>/state/00000007.json    its manifest: the hash of each file, what it was made from

The run folder is <store>/_runs/<asset>/<assistant>/<fingerprint>.

The manifest is written last, and atomically: killed at any moment, a state without one is none.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.records import StageSpec
from chatllama_pipeline.store.manifests import STATE, hash_files, sync_file

DAMAGED = "state.damaged"
MEBIBYTE = 2**20
# Beyond the size of a state, what a training may still write of curves, logs and its payload.
SPARE_BYTES = 64 * MEBIBYTE


def made_from(spec: StageSpec) -> dict[str, Any]:
    """What a training's state depends on: code version, upstream versions, settings."""
    inputs = {f"input {name}": Path(folder).name for name, folder in sorted(spec.inputs.items())}
    return {**spec.made_from, **inputs}


@dataclass(frozen=True)
class States:
    """The newest `keep` states of a training under `run_folder`, made from `origin` alone."""

    run_folder: Path
    origin: dict[str, Any]
    keep: int = 1

    @property
    def folder(self) -> Path:
        return self.run_folder / STATE

    def begin(self) -> Path:
        """A new empty folder (mode 0700: it may hold pickles of the training libraries)."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        # Leftovers of a killed save have numbers too: a new one is higher than all of them.
        numbers = [int(path.name) for path in self.folder.iterdir() if path.is_dir()]
        folder = self.folder / f"{1 + max(numbers, default=0):08d}"
        folder.mkdir(mode=0o700)
        return folder

    def commit(self, folder: Path) -> None:
        """Make the folder of `begin` the newest state; those beyond the last `keep` go."""
        names = _files(folder)
        paths = [folder / name for name in names]
        for path in paths:
            sync_file(path)
        hashes = hash_files("hashes the training's state", paths)
        files = dict(zip(names, hashes, strict=True))
        fresh = self.folder / f".{folder.name}.json.new"
        with fresh.open("w") as file:
            json.dump({"made_from": self.origin, "files": files}, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(_manifest(folder))
        whole = self.newest_first()
        for path in self.folder.iterdir():
            if path.is_dir() and path not in whole[: self.keep]:
                self._remove(path)

    def newest(self, warn: Callable[[str], None]) -> Path | None:
        """The newest whole state, every file's hash checked; None where there is none.

        A damaged one is moved to `state.damaged`, `warn` is told which file differs, and the one
        before it is taken. Raises SettingsError where it was made from something else.
        """
        for folder in self.newest_first():
            fault = _fault(folder)
            if fault is None:
                self._require_same_origin(folder)
                return folder
            aside = self.run_folder / DAMAGED
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(mode=0o700)
            _manifest(folder).replace(aside / _manifest(folder).name)
            folder.rename(aside / folder.name)
            warn(
                f"resume state {folder} is damaged ({fault}): set aside in {aside}; the one "
                "before it is taken, or else training starts over"
            )
        return None

    def room_for(self, needed: int) -> str | None:
        """Make room for a state by dropping old ones; says what is missing, None if nothing."""
        self.run_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in [None, *reversed(self.newest_first()[1:])]:
            if old is not None:
                self._remove(old)
            free = shutil.disk_usage(self.run_folder).free
            if free >= needed + SPARE_BYTES:
                return None
        return (
            f"{self.run_folder}: a resume state needs about {needed / MEBIBYTE:.0f} MiB, "
            f"{free / MEBIBYTE:.0f} MiB are free there: free space, lower n_checkpoints_to_keep, "
            "or set CHATLLAMA_STORE to a larger disk"
        )

    def _require_same_origin(self, folder: Path) -> None:
        found = json.loads(_manifest(folder).read_text())["made_from"]
        ours = json.loads(json.dumps(self.origin))
        differing = [
            f"{key} {json.dumps(found.get(key))} there, {json.dumps(ours.get(key))} now"
            for key in sorted(found | ours)
            if found.get(key) != ours.get(key)
        ]
        if differing:
            raise SettingsError(
                f"{folder} is the state of another training ({'; '.join(differing)}), and states "
                f"are never mixed: take another run_folder, or remove {self.folder}"
            )

    def newest_first(self) -> list[Path]:
        """The folders of all states that were committed, whole or not."""
        if not self.folder.is_dir():
            return []
        found = [path.with_suffix("") for path in self.folder.glob("[0-9]*.json")]
        return sorted(found, reverse=True)

    def _remove(self, folder: Path) -> None:
        # Without its manifest it is no state any more, whatever happens next.
        _manifest(folder).unlink(missing_ok=True)
        shutil.rmtree(folder)


def _manifest(folder: Path) -> Path:
    return folder.with_suffix(".json")


def _fault(folder: Path) -> str | None:
    """What is wrong with a state, or None."""
    try:
        files = json.loads(_manifest(folder).read_text())["files"]
    except (ValueError, TypeError, KeyError) as error:
        return f"its manifest is unreadable: {error}"
    if _files(folder) != sorted(files):
        return "files are missing or were added"
    found = hash_files("verifies the training's state", [folder / name for name in files])
    for (name, expected), actual in zip(files.items(), found, strict=True):
        if actual != expected:
            return f"{name} differs from its recorded hash"
    return None


def _files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
