"""The pool: what keeps the same bytes from standing in a store twice.

    <store>/_files/<sha256>    a payload file by its hash

The payload files of versions are hard links to the pool's, so the pool itself takes no room. A file
whose only name is the pool's is nobody's and goes (`sweep`). Where the disk can't link, files stay
the copies that they are.

Whoever links or removes holds the pool's lock for that moment, so that a file found in use is not
removed. Nothing depends on the lock for being whole: a version's file is always one name among
others of its bytes, and a kill leaves at most a file that a later sweep removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from chatllama_pipeline.progress import MEGABYTE, phase
from chatllama_pipeline.store.manifests import (
    HASHED_AT_ONCE,
    MANIFEST,
    Manifest,
    PayloadFile,
    Version,
    hash_file,
)

FOLDER = "_files"
# Smaller files take a block of the disk at most: little is gained by linking them.
SMALLEST = 4096


class Pool:
    """The payload files of one store."""

    def __init__(self, store: Path) -> None:
        self.folder = store / FOLDER

    def path(self, sha256: str) -> Path:
        """Where a file with that hash stands, if it is in the pool."""
        return self.folder / sha256

    def take(self, folder: Path, files: Iterable[PayloadFile], maker: str) -> None:
        """Let the payload `files` of `folder`, whose hashes were just verified, stand once.

        A file that the pool hasn't got joins it, any other gives way to a link to the pool's once
        that was verified; a damaged one is replaced. No two at work have the same `maker`.
        """
        with self._spare(maker) as spare:
            for file in files:
                if file.size >= SMALLEST:
                    # Not every disk links, nor does any without end: then the copy stays.
                    with contextlib.suppress(OSError):
                        self._share(folder / file.path, file, spare)

    def mend(self, folder: Path, damaged: Iterable[PayloadFile], maker: str) -> list[PayloadFile]:
        """Put the pool's copies in the place of `damaged` payload files; returns what it lacks."""
        lacking = []
        with self._spare(maker) as spare:
            for file in damaged:
                lacking.append(file)
                # What can't be linked is made again.
                with contextlib.suppress(OSError):
                    spare.unlink(missing_ok=True)
                    if self._link(file, spare) and _is_whole(spare, file):
                        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
                        spare.replace(folder / file.path)
                        lacking.pop()
        return lacking

    def sweep(self) -> None:
        """Remove the files that no version, and nobody at work, has any more."""
        if not self.folder.is_dir():
            return
        with self._lock():
            for path in self.folder.glob("[!.]*"):
                if path.stat().st_nlink == 1:
                    path.unlink()

    def _share(self, path: Path, file: PayloadFile, spare: Path) -> None:
        while not self._join(path, file):
            spare.unlink(missing_ok=True)
            # As long as it has this name too, it stays while it is read.
            if self._link(file, spare):
                if _is_whole(spare, file):
                    spare.replace(path)
                else:
                    self._replace(spare, path, file)

    def _join(self, path: Path, file: PayloadFile) -> bool:
        """Whether `path` is the pool's file; it becomes that where there is none."""
        pooled = self.path(file.sha256)
        with self._lock():
            with contextlib.suppress(FileExistsError):
                os.link(path, pooled)
            return pooled.samefile(path)

    def _link(self, file: PayloadFile, name: Path) -> bool:
        """Give the pool's file a further name; False where there is none."""
        with self._lock(), contextlib.suppress(FileNotFoundError):
            os.link(self.path(file.sha256), name)
            return True
        return False

    def _replace(self, damaged: Path, path: Path, file: PayloadFile) -> None:
        """Put `path` in the place of the pool's `damaged` file, unless another did so already."""
        pooled = self.path(file.sha256)
        with self._lock():
            if pooled.exists() and pooled.samefile(damaged):
                damaged.unlink()
                os.link(path, damaged)
                damaged.replace(pooled)

    @contextlib.contextmanager
    def _spare(self, maker: str) -> Iterator[Path]:
        """A name for a file under way; what a killed maker left there goes."""
        spare = self.folder / f".{maker}"
        spare.unlink(missing_ok=True)
        try:
            yield spare
        finally:
            spare.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        # The kernel releases it when the holder dies, however it dies.
        with (self.folder / ".lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def _is_whole(path: Path, file: PayloadFile) -> bool:
    counter = phase(f"verifies the store's {file.path}", file.size / MEGABYTE, "MB")
    try:
        return path.stat().st_size == file.size and hash_file(path, counter) == file.sha256
    except OSError:  # the disk can't read it
        return False


def shared_by(root: Path, version: Version, file: PayloadFile) -> str:
    """Which other versions of a store have a damaged file too, for the end of an error, or "".

    They have it by another name of the same file.
    """
    damaged = version.path / file.path
    if not damaged.is_file():
        return ""
    names = []
    for manifest in sorted(root.glob(f"[!_]*/*/versions/*/{MANIFEST}")):
        other = Version(manifest.parent, Manifest.read(manifest))
        paths = [other.path / one.path for one in other.manifest.files]
        if other.path != version.path and any(
            path.is_file() and path.samefile(damaged) for path in paths
        ):
            names.append(other.name)
    if not names:
        return ""
    return (
        f". The same file is damaged in {', '.join(names)}: once it is made again for one, "
        "making the others again takes it from there"
    )


def link_or_copy(source: Path, target: Path) -> None:
    """`target` as a further name of a file that nobody ever changes; a copy where that can't be."""
    try:
        os.link(source, target)
    except OSError:
        counter = phase(f"copies {target.name}", source.stat().st_size / MEGABYTE, "MB")
        with source.open("rb") as reader, target.open("wb") as writer:
            while chunk := reader.read(HASHED_AT_ONCE):
                writer.write(chunk)
                counter.advance(len(chunk) / MEGABYTE)
