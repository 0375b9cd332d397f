"""Leases where a place's locks don't keep others out."""

from __future__ import annotations

from pathlib import Path

from chatllama_pipeline.records import Finding
from chatllama_pipeline.store.locks.held import MARK, by_leases, mark
from chatllama_pipeline.store.locks.lease import HeldError, Terms, take
from chatllama_pipeline.store.places.folder import NO_LOCKS, tried

# What is found of locks, by whoever looks.
ABOUT_LOCKS = ("locks", "locks between processes", "file system")
QUICK = Terms(beat=0.02, lasts=30.0, look=0.01)


def leased(folder: Path) -> Finding:
    """Whether a lease keeps a second holder out, and is free once it is given up."""
    what, files = "leases", folder / "lock.leases"
    first = take(files, wait=False, terms=QUICK)
    try:
        take(files, wait=False, terms=QUICK).close()
        return Finding("fault", what, "two hold one lease: no store can stand here")
    except HeldError:
        pass
    finally:
        first.close()
    take(files, wait=False, terms=QUICK).close()
    return Finding("ok", what, "keep a second holder out")


def in_place_of_locks(root: Path, scratch: Path, found: Finding) -> Finding:
    """What was found, or where that is of locks that don't hold: that leases take their place.

    The store `root` is marked then, so that all machines go by leases.
    """
    if found.what not in ABOUT_LOCKS or found.level == "ok":
        return found
    if not by_leases(root):
        if tried("leases", leased, scratch).level != "ok":
            return found
        mark(root, found.told)
    told = found.told.removesuffix(NO_LOCKS).rstrip("; :")
    return Finding("warning", found.what, f"{told}; leases take their place ({root / MARK})")
