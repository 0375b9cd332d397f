"""What was made elsewhere: its files are had once, verified, and a kill costs one file at most."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from chatllama_pipeline.errors import CorruptVersionError, StoreError
from chatllama_pipeline.progress import MEGABYTE, phase
from chatllama_pipeline.store.manifests import (
    HASHED_AT_ONCE,
    SHARED,
    Manifest,
    PayloadFile,
    hash_file,
    sync_file,
)
from chatllama_pipeline.store.pool import Pool

# Writes a payload file to a path, its hash verified, and may go on from what stands there.
Fetch = Callable[[PayloadFile, Path], None]


def require_inside(manifest: Manifest) -> None:
    """Raise StoreError where what a manifest names would stand outside of its version's folder.

    Whoever wrote it may be a stranger.
    """
    names = (manifest.asset, manifest.assistant or SHARED, manifest.version)
    wrong = [name for name in names if not is_name(name)]
    wrong += [file.path for file in manifest.files if not all(map(is_name, file.path.split("/")))]
    wrong += [f.sha256 for f in manifest.files if not re.fullmatch("[0-9a-f]{64}", f.sha256)]
    if wrong:
        raise StoreError(
            f"a manifest names {wrong[0]!r}, which no version of ours does: left alone"
        )


def is_name(part: str) -> bool:
    """Whether a part of a path names something in the folder before it."""
    return part not in ("", ".", "..") and "/" not in part and "\0" not in part


def fill(folder: Path, files: Iterable[PayloadFile], fetch: Fetch, pool: Pool, maker: str) -> None:
    """Have all payload `files` whole in `folder`: what stands, what the pool has, what is fetched.

    What was fetched before a kill isn't fetched again. No two at work have the same `maker`.
    """
    wanted = list(files)
    for file in pool.mend(folder, (each for each in wanted if not _stands(folder, each)), maker):
        part = folder.with_name(f".{folder.name}.{file.sha256}.part")
        fetch(file, part)
        sync_file(part)
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        part.replace(folder / file.path)
    pool.take(folder, wanted, maker)


def copy_verified(source: Path, file: PayloadFile, target: Path) -> None:
    """Copy a payload file, hashed on the way; CorruptVersionError where it isn't what it was."""
    digest = hashlib.sha256()
    counter = phase(f"copies {file.path}", file.size / MEGABYTE, "MB")
    try:
        with source.open("rb") as reader, target.open("wb") as writer:
            while chunk := reader.read(HASHED_AT_ONCE):
                digest.update(chunk)
                writer.write(chunk)
                counter.advance(len(chunk) / MEGABYTE)
    except FileNotFoundError:
        raise CorruptVersionError(f"{source} is missing") from None
    if digest.hexdigest() != file.sha256:
        target.unlink()
        raise CorruptVersionError(f"{source} no longer has the hash of its manifest")


def _stands(folder: Path, file: PayloadFile) -> bool:
    path = folder / file.path
    # As in a version that was checked: size first, which costs nothing.
    return path.is_file() and path.stat().st_size == file.size and hash_file(path) == file.sha256
