"""All that a store holds of one assistant, and whether somebody is at work on it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from chatllama_pipeline.errors import StoreError
from chatllama_pipeline.store.locks.held import HeldError, hold, is_held
from chatllama_pipeline.store.manifests import APPROVALS, RUNS, SHARED
from chatllama_pipeline.store.pool import Pool
from chatllama_pipeline.store.remote.mirror import mirror_of
from chatllama_pipeline.store.trials import TRIALS
from chatllama_pipeline.store.views import VIEWS

# By asset below the store's root, and below these: `<folder>/<asset>/<assistant>`.
_BY_ASSET = (RUNS, "_staging", "_adopting")
# By assistant: `<folder>/<assistant>`.
_BY_ASSISTANT = ("_logs", APPROVALS, TRIALS, VIEWS)


def owners(root: Path) -> list[str]:
    """Every assistant that the store holds anything of."""
    return sorted({folder.name for folder in _folders(root)} - {SHARED})


def owned_folders(root: Path, assistant: str) -> list[Path]:
    """Versions, unfinished states, trackers' files, approvals, trials and runs' views of an
    assistant."""
    return [folder for folder in _folders(root) if folder.name == assistant]


def remove_owned(root: Path, assistant: str) -> list[tuple[Path, int]]:
    """Remove them all; returns each folder with the bytes of its files.

    Raises StoreError, and removes nothing, while an asset of the assistant is being made.
    """
    with all_locked(root, assistant):
        if mirror := mirror_of(root):
            mirror.forget(assistant)
        gone = [(folder, _bytes(folder)) for folder in owned_folders(root, assistant)]
        for folder, _ in gone:
            shutil.rmtree(folder)
        Pool(root).sweep()
    return gone


def busy_assets(root: Path, assistant: str) -> list[str]:
    """The assets of an assistant that are being made now."""
    return [lock.parents[1].name for lock in _locks(root, assistant) if is_held(root, lock)]


@contextlib.contextmanager
def all_locked(root: Path, assistant: str) -> Iterator[None]:
    """Nobody makes an asset of the assistant meanwhile; StoreError where somebody does."""
    with contextlib.ExitStack() as held:
        for lock in _locks(root, assistant):
            try:
                held.enter_context(contextlib.closing(hold(root, lock, wait=False)))
            except HeldError as error:
                raise StoreError(
                    f"{lock.parents[1].name} of {assistant} is being made: wait for the end "
                    f"of that run, or end it ({error})"
                ) from None
        yield


def _locks(root: Path, assistant: str) -> list[Path]:
    return sorted(root.glob(f"[!_]*/{assistant}/.lock"))


def _folders(root: Path) -> list[Path]:
    by_asset = [root, *(root / name for name in _BY_ASSET)]
    found = [
        folder
        for place in by_asset
        for asset in sorted(place.glob("[!_]*/"))
        for folder in sorted(asset.glob("*/"))
    ]
    return found + [f for name in _BY_ASSISTANT for f in sorted((root / name).glob("*/"))]


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
