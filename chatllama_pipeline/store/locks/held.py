"""A lock of a store: the kernel's, and a lease on top where a mark in the store asks for one."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.store.locks.lease import HeldError, Lease, holder, take

__all__ = ["Held", "HeldError", "asked_for", "by_leases", "hold", "is_held", "mark"]

# Beside the versions, so that all machines which share them keep to the same.
MARK = "_leases"
VARIABLE = "CHATLLAMA_STORE_LOCKS"
KINDS = ("kernel", "leases")


class Held:
    """A lock that is held until it is closed; the kernel opens its own with the process, too."""

    def __init__(self, file: IO[str], lease: Lease | None) -> None:
        self._file, self._lease = file, lease

    def require(self) -> None:
        """Raises StoreError where another may hold it by now."""
        if self._lease is not None:
            self._lease.require()

    def close(self) -> None:
        if self._lease is not None:
            self._lease.close()
        self._file.close()


def hold(root: Path, lock: Path, *, wait: bool = True) -> Held:
    """Hold the lock file `lock` of store `root`; raises HeldError where another does, without
    `wait`."""
    leased = by_leases(root)
    file = lock.open("a")
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise HeldError("another process of this machine") from None
        except OSError:
            if not leased:  # else the place knows no locks
                raise
        return Held(file, take(leases_of(lock), wait=wait) if leased else None)
    except BaseException:
        file.close()
        raise


def is_held(root: Path, lock: Path) -> bool:
    """Whether somebody holds it at this moment."""
    if by_leases(root) and holder(leases_of(lock)) is not None:
        return True
    with lock.open("a") as file, contextlib.suppress(OSError):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def by_leases(root: Path) -> bool:
    """Whether the store's locks are leases as well."""
    return (root / MARK).exists()


def mark(root: Path, why: str) -> None:
    """From here on the store's locks are leases as well, on all machines."""
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(root / MARK, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"locks are leases here: {why}\n")


def asked_for() -> bool:
    """Whether the environment asks for leases; raises SettingsError for what it can't ask for."""
    kind = os.environ.get(VARIABLE) or KINDS[0]
    if kind not in KINDS:
        raise SettingsError(f"{VARIABLE} is {kind!r}: use one of {', '.join(KINDS)}")
    return kind == "leases"


def leases_of(lock: Path) -> Path:
    """Where the leases of a lock stand."""
    return lock.with_name(f"{lock.name}.leases")
