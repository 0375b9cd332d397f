"""Leases on GPUs that die with whoever holds them, in the order in which they were asked for."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from chatllama_pipeline.errors import LeaseError, SettingsError
from chatllama_pipeline.gpus import Gpu
from chatllama_pipeline.launch.shared import (
    lease_folder,
    make_shared,
    standing,
    those_standing,
    try_lock,
    write_holder,
)

RETRY_SECONDS = 1.0
SAY_AGAIN_SECONDS = 300.0
QUEUE = "queue"
GB = 10**9


@dataclass(frozen=True)
class Lease:
    """GPUs held for one child: `ids` for CUDA_VISIBLE_DEVICES, `fds` to keep open in the child.

    The kernel lets go of a GPU when the last process with its descriptor has ended.
    """

    ids: list[str]
    fds: list[int]


@dataclass(frozen=True)
class Rules:
    """Where leases are kept; the share of a GPU's memory that others may not have taken; how many
    seconds may be waited."""

    folder: Path = field(default_factory=lease_folder)
    least_free: float = 0.5
    wait_seconds: float = 86400.0


@contextlib.contextmanager
def lease_gpus(
    inventory: Callable[[], Sequence[Gpu]],
    count: int,
    who: str,
    say: Callable[[str], None],
    rules: Rules,
) -> Iterator[Lease]:
    """Hold `count` of the GPUs there are, all or none, those with the most free memory first.

    Waits until so many are free: neither leased nor taken by others. Who asked earlier for any of
    the same GPUs comes first, so that one who wants several isn't passed by those who want one.
    `who` is what others are told of the holder. Raises SettingsError where there are fewer GPUs,
    LeaseError, which says who holds them, where `rules.wait_seconds` passed.
    """
    there = [gpu.id for gpu in inventory()]
    if count > len(there):
        raise SettingsError(
            f"compute.processes is {count}, but {len(there)} GPUs are there, and each process "
            "needs one of its own: lower it, or set compute.device: cpu, where processes share the "
            "cores"
        )
    make_shared(rules.folder)
    with standing(rules.folder / QUEUE, json.dumps({"gpus": there, "who": who})) as ticket:
        lease = _wait(inventory, count, who, say, rules, ticket)
    try:
        yield lease
    finally:
        _close(lease)


def _wait(
    inventory: Callable[[], Sequence[Gpu]],
    count: int,
    who: str,
    say: Callable[[str], None],
    rules: Rules,
    ticket: Path,
) -> Lease:
    started, told_at = time.monotonic(), -SAY_AGAIN_SECONDS
    while True:
        gpus = inventory()
        why = [f"{other} asked earlier" for other in _ahead(ticket, gpus)]
        if not why:
            lease, why = _try(gpus, count, who, rules)
            if lease:
                return lease
        waited = time.monotonic() - started
        if waited >= rules.wait_seconds:
            raise LeaseError(
                f"waited {waited:.0f} s for {count} of {len(gpus)} GPUs: {'; '.join(why)}. End "
                "what holds them, wait longer (compute.gpu_wait_seconds), or set compute.device: "
                "cpu"
            )
        if waited - told_at >= SAY_AGAIN_SECONDS:
            told_at = waited
            say(f"waiting for {count} of {len(gpus)} GPUs: {'; '.join(why)}")
        time.sleep(RETRY_SECONDS)


def _ahead(ticket: Path, gpus: Sequence[Gpu]) -> list[str]:
    """Who asked for any of these GPUs before `ticket` did, and still waits."""
    mine, found = {gpu.id for gpu in gpus}, []
    for path, text in those_standing(ticket.parent):
        if path.name >= ticket.name:
            break
        with contextlib.suppress(ValueError, KeyError, TypeError):
            other = json.loads(text)
            if mine & set(other["gpus"]):
                found.append(str(other["who"]))
    return found


def _try(gpus: Sequence[Gpu], count: int, who: str, rules: Rules) -> tuple[Lease | None, list[str]]:
    """A lease on `count` of `gpus`, or None and why the others can't be had."""
    lease, why = Lease([], []), []
    for gpu in sorted(gpus, key=lambda gpu: gpu.free_bytes or 0, reverse=True):
        descriptor, holder = try_lock(rules.folder / f"{gpu.id}.lock")
        if descriptor is None:
            why.append(f"{gpu.id} is held by {holder or 'somebody'}")
        elif gpu.free_share < rules.least_free:
            os.close(descriptor)
            why.append(f"of {gpu.id} others have taken {_taken(gpu)}")
        else:
            write_holder(descriptor, _signature(who))
            lease.ids.append(gpu.id)
            lease.fds.append(descriptor)
        if len(lease.ids) == count:
            return lease, []
    _close(lease)
    return None, why


def _taken(gpu: Gpu) -> str:
    total, free = gpu.total_bytes or 0, gpu.free_bytes or 0
    return f"{(total - free) / GB:.1f} of {total / GB:.1f} GB (compute.gpu_least_free)"


def _signature(who: str) -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    since = datetime.now().astimezone().isoformat(timespec="minutes")
    return f"{who} ({user} on {socket.gethostname()}, process {os.getpid()}, since {since})"


def _close(lease: Lease) -> None:
    for descriptor in lease.fds:
        os.close(descriptor)
