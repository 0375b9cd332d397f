"""All that is tried of a folder before a store is trusted to it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from chatllama_pipeline.errors import StoreError
from chatllama_pipeline.records import Finding
from chatllama_pipeline.store.places.folder import ALONE, findings, seconds_apart
from chatllama_pipeline.store.places.hosts import host_findings, note_host, this_host
from chatllama_pipeline.store.places.leased import in_place_of_locks
from chatllama_pipeline.store.places.mounts import mount_finding
from chatllama_pipeline.store.places.together import TOGETHER


def folder_findings(root: Path) -> Iterator[Finding]:
    """What holds of the folder `root`, and what follows where it doesn't.

    What is tried goes again; a note of this machine stays there, for checks by other machines.
    Raises StoreError where there is no such folder.
    """
    if not root.is_dir():
        raise StoreError(f"{root} is no folder: make it, or mount what should stand there")
    try:
        scratch = Path(tempfile.mkdtemp(prefix=".check", dir=root))
    except OSError as error:
        yield Finding("fault", "writing", f"{error.strerror}: free space, or mend its rights")
        return
    try:
        yield in_place_of_locks(root, scratch, mount_finding(root))
        sound = True
        for found in _with_leases(root, scratch, findings(scratch, ALONE)):
            sound = sound and found.level != "fault"
            yield found
        # Where one process alone can't rely on it, several would only fail later.
        if sound:
            for found in _with_leases(root, scratch, findings(scratch, TOGETHER)):
                sound = sound and found.level != "fault"
                yield found
        if sound:
            here = this_host(root, seconds_apart(scratch))
            yield from host_findings(root, here)
            note_host(root, here)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _with_leases(root: Path, scratch: Path, found: Iterator[Finding]) -> Iterator[Finding]:
    for one in found:
        yield in_place_of_locks(root, scratch, one)
