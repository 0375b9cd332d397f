"""What a folder is mounted from, and whether its locks reach other machines."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from chatllama_pipeline.records import Finding

MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = ("nfs", "nfs4", "lustre", "cifs", "smb3", "ceph", "glusterfs", "beegfs", "gpfs", "9p")


@dataclass(frozen=True)
class Mount:
    """`options` are those of the mount and of its file system together."""

    point: str
    kind: str
    source: str
    options: frozenset[str]


def read_mounts(lines: str) -> list[Mount]:
    """The lines of `/proc/self/mountinfo`, as proc(5) has them."""
    found = []
    for line in lines.splitlines():
        before, _, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if len(left) < 6 or len(right) < 3:
            continue
        options = frozenset((*left[5].split(","), *right[2].split(",")))
        # A space in a path is written as its octal number.
        point = left[4].encode().decode("unicode_escape")
        found.append(Mount(point, right[0], right[1], options))
    return found


def mount_of(place: Path, mounts: list[Mount]) -> Mount | None:
    """The mount that `place` stands on: of those above it the longest, and the last of the same."""
    path = os.path.realpath(place)
    above = [one for one in mounts if Path(path).is_relative_to(one.point)]
    return max(reversed(above), key=lambda one: len(one.point), default=None)


def mount_finding(place: Path) -> Finding:
    """What the folder stands on; a warning where the mount's locks stay within one machine."""
    try:
        mount = mount_of(place, read_mounts(MOUNTS.read_text()))
    except OSError:
        mount = None
    if mount is None:
        return Finding("ok", "file system", "unknown: this machine lists no mounts")
    return locks_of(mount)


def locks_of(mount: Mount) -> Finding:
    """Whether what the mount's options say of locks holds for several machines."""
    told = f"{mount.kind} of {mount.source} at {mount.point}"
    kept = {"nolock", "local_lock=all", "local_lock=flock", "localflock"} & mount.options
    if mount.kind == "lustre" and "flock" not in mount.options:
        kept.add("no flock")
    if mount.kind in _NETWORK and kept:
        told += (
            f", mounted with {', '.join(sorted(kept))}: its locks reach this machine alone "
            "(mount it with locks that reach all)"
        )
        return Finding("warning", "file system", told)
    return Finding("ok", "file system", told)
