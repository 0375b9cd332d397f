"""The state of an unfinished training: whole or absent, private, verified before it is loaded.

`<run folder>/state/manifest.json` names one subfolder and the SHA-256 of each file in it. A save
writes a new subfolder beside the old one and then replaces the manifest, which is atomic: killed
at any moment, the manifest names a state that was written to the end.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from chatllama_pipeline.manifests import hash_file

STATE, MANIFEST, DAMAGED = "state", "manifest.json", "state.damaged"

logger = logging.getLogger(__name__)


def save_state(run_folder: Path, write: Callable[[Path], None]) -> None:
    """Make what `write(folder)` puts into an empty folder the newest state; older ones go.

    The folder has mode 0700: it may hold pickles of the training libraries.
    """
    state = run_folder / STATE
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    state.chmod(0o700)
    old = [path for path in state.iterdir() if path.is_dir()]
    # Leftovers of a killed save have numbers too: a new one is higher than all of them.
    folder = state / f"{1 + max((int(path.name) for path in old), default=0):08d}"
    folder.mkdir(mode=0o700)
    write(folder)
    files = {name: _hash_and_sync(folder / name) for name in _files(folder)}
    fresh = state / f"{MANIFEST}.new"
    with fresh.open("w") as file:
        json.dump({"folder": folder.name, "files": files}, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(state / MANIFEST)
    for path in old:
        shutil.rmtree(path)


def load_state(run_folder: Path, warn: Callable[[str], None] = logger.warning) -> Path | None:
    """The folder of the newest whole state, every file's hash checked; None where there is none.

    A damaged state is moved to `state.damaged` beside it, `warn` is told which file differs, and
    the training starts over.
    """
    state = run_folder / STATE
    if not (state / MANIFEST).is_file():
        return None
    fault = _fault(state)
    if fault is None:
        return state / str(json.loads((state / MANIFEST).read_text())["folder"])
    aside = run_folder / DAMAGED
    shutil.rmtree(aside, ignore_errors=True)
    state.rename(aside)
    warn(f"resume state {state} is damaged ({fault}): set aside as {aside}, training starts over")
    return None


def _fault(state: Path) -> str | None:
    """What is wrong with the state that the manifest names, or None."""
    try:
        manifest = json.loads((state / MANIFEST).read_text())
        folder, files = state / manifest["folder"], manifest["files"]
    except (ValueError, TypeError, KeyError) as error:
        return f"{MANIFEST} is unreadable: {error}"
    if _files(folder) != sorted(files):
        return "files are missing or were added"
    for name, expected in files.items():
        if hash_file(folder / name) != expected:
            return f"{name} differs from its recorded hash"
    return None


def _files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def _hash_and_sync(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return hash_file(path)
