"""The quick look at a store's place when a run begins: once for a machine, then remembered."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from chatllama_pipeline.errors import StoreError
from chatllama_pipeline.store.locks.held import VARIABLE, asked_for, mark
from chatllama_pipeline.store.places.folder import (
    CLOCK_BOUND,
    QUICK,
    clocks_apart,
    seconds_apart,
    tried,
)
from chatllama_pipeline.store.places.hosts import note_host, noted_hosts, this_host
from chatllama_pipeline.store.places.leased import in_place_of_locks
from chatllama_pipeline.store.places.mounts import mount_finding


def require_sound(root: Path) -> None:
    """Raise StoreError where the store's folder doesn't hold to what versions rest on.

    Nothing is tried again that this machine found good, as long as path and disk are the same.
    """
    if asked_for():
        mark(root, f"{VARIABLE} asks for it")
    here = this_host(root, 0.0)
    for host in noted_hosts(root):
        if (host.name, host.path, host.device) == (here.name, here.path, here.device):
            return
    scratch = Path(tempfile.mkdtemp(prefix=".check", dir=root))
    try:
        for what, probe in QUICK:
            found = in_place_of_locks(root, scratch, tried(what, probe, scratch))
            if found.level == "fault":
                raise StoreError(
                    f"{root}: {found.what}: {found.told}; `chatllama store check` tells all"
                )
        in_place_of_locks(root, scratch, mount_finding(root))
        apart = seconds_apart(scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    note_host(root, this_host(root, apart))


def clock_warning(folder: Path) -> str | None:
    """What to say where files in `folder` are dated by a clock apart from this machine's."""
    apart = seconds_apart(folder)
    if abs(apart) <= CLOCK_BOUND:
        return None
    return f"{folder}: {clocks_apart('the clock of the store', apart)}"
