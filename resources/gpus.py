"""Which GPUs there are, and leases on them that die with whoever holds them."""

import contextlib
import fcntl
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from chatllama_pipeline.errors import SettingsError

# One folder per user: another user's lock files could not be opened.
LEASE_FOLDER = Path(tempfile.gettempdir()) / f"chatllama_gpu_leases_{os.getuid()}"
RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class Lease:
    """GPUs held for one child: `ids` for CUDA_VISIBLE_DEVICES, `fds` to keep open in the child.

    The kernel lets go of a GPU when the last process with its descriptor has ended.
    """

    ids: list[str]
    fds: list[int]


def visible_gpus() -> list[str]:
    """The ids of the GPUs that torch would see, found without importing it; empty if none.

    A torch built for the CPU sees none, nor does a machine without an NVIDIA driver.
    """
    if metadata.version("torch").endswith("+cpu"):
        return []
    ids = [str(number) for number in range(_driver_count())]
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None or not ids:
        return ids
    # CUDA reads the list up to the first entry that is no device.
    return list(itertools.takewhile(lambda id: id not in ("", "-1"), named.split(",")))


def _driver_count() -> int:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return 0
    try:
        return int(pynvml.nvmlDeviceGetCount())
    finally:
        pynvml.nvmlShutdown()


@contextlib.contextmanager
def lease_gpus(
    ids: Sequence[str], count: int, say: Callable[[str], None], folder: Path = LEASE_FOLDER
) -> Iterator[Lease]:
    """Hold `count` of the GPUs `ids`, all or none; waits until that many are free."""
    if count > len(ids):
        raise SettingsError(
            f"compute.processes is {count}, but {len(ids)} GPUs are there, and each process needs "
            "one of its own: lower it, or set compute.device: cpu, where processes share the cores"
        )
    folder.mkdir(parents=True, exist_ok=True)
    lease = _try(ids, count, folder)
    if lease is None:
        say(f"waiting until {count} of the GPUs {', '.join(ids)} are free")
    while lease is None:
        time.sleep(RETRY_SECONDS)
        lease = _try(ids, count, folder)
    try:
        yield lease
    finally:
        _close(lease)


def _try(ids: Sequence[str], count: int, folder: Path) -> Lease | None:
    lease = Lease([], [])
    for gpu in ids:
        fd = os.open(folder / f"{gpu}.lock", os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        lease.ids.append(gpu)
        lease.fds.append(fd)
        if len(lease.ids) == count:
            return lease
    _close(lease)
    return None


def _close(lease: Lease) -> None:
    for fd in lease.fds:
        os.close(fd)
