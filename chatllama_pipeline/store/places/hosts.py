"""Which machines use a store, and by which path and clock: a note of each, beside the versions.

<store>/_hosts/<host>.json
"""

from __future__ import annotations

import dataclasses
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chatllama_pipeline.records import Finding
from chatllama_pipeline.store.manifests import utc_now, write_beside_others
from chatllama_pipeline.store.places.folder import CLOCK_BOUND, clocks_apart

HOSTS = "_hosts"


@dataclass(frozen=True)
class Host:
    """A machine that found the store at `path` good to use, at `at` by its own clock (UTC, ISO).

    `device` is the number of the disk as that machine mounts it; `apart`: how many seconds the
    place's clock was ahead of the machine's.
    """

    name: str
    path: str
    device: int
    apart: float
    at: str


def this_host(root: Path, apart: float) -> Host:
    """What this machine would note of the store `root`."""
    return Host(
        socket.gethostname(), str(root.resolve()), root.stat().st_dev, round(apart, 3), utc_now()
    )


def note_host(root: Path, host: Host) -> None:
    """Write it down, in the place of what the machine noted before."""
    path = root / HOSTS / f"{host.name}.json"
    path.parent.mkdir(exist_ok=True)
    write_beside_others(path, dataclasses.asdict(host))


def noted_hosts(root: Path) -> Iterator[Host]:
    """All notes that can be read."""
    for path in sorted((root / HOSTS).glob("[!.]*.json")):
        try:
            yield Host(**json.loads(path.read_text()))
        except (ValueError, TypeError):
            continue


def host_findings(root: Path, here: Host) -> Iterator[Finding]:
    """How the other machines see the store, beside how this one does."""
    others = [host for host in noted_hosts(root) if host.name != here.name]
    if not others:
        told = "no other machine has noted this place; check it from there too, if one shares it"
        yield Finding("ok", "machines", told)
    for host in others:
        # Each clock against the place's, so that when they looked plays no part.
        apart = here.apart - host.apart
        if abs(apart) > CLOCK_BOUND:
            yield Finding("warning", "machines", clocks_apart(f"the clock of {host.name}", apart))
        if host.path != here.path:
            told = (
                f"{host.name} has it at {host.path}, this one at {here.path}: versions don't mind, "
                "but a stage as a cluster's job needs one path; mount it alike"
            )
            yield Finding("warning", "machines", told)
        if abs(apart) <= CLOCK_BOUND and host.path == here.path:
            yield Finding("ok", "machines", f"{host.name} has it at the same path and time")
