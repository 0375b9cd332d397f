"""Memory on the GPU, in the container, at all: what is free, what this process takes; bfloat16.

Imports no torch.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

CGROUP = Path("/sys/fs/cgroup")
OWN_STATUS = Path("/proc/self/status")
OWN_LIBRARIES = Path("/proc/self/maps")
# Page cache that the kernel gives back before it kills for memory.
RECLAIMABLE = "inactive_file"
# The compute capability from which NVIDIA's GPUs multiply in bfloat16 (Ampere).
BFLOAT16_CAPABILITY = 8


def free_bytes(device: str) -> int:
    """Bytes that a process here may still take: of the GPU for `cuda`, else of the main memory."""
    if device.startswith("cuda"):
        found = gpu_free_bytes()
        if found is not None:
            return found
    container = container_free_bytes()
    machine = int(psutil.virtual_memory().available)
    return machine if container is None else min(machine, container)


def own_bytes(device: str) -> int:
    """Bytes that this process has in the GPU's memory (by torch), or in the main memory."""
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None:
        return int(torch.cuda.memory_allocated())
    return int(psutil.Process().memory_info().rss)


def peak_bytes(device: str) -> int:
    """The most bytes that this process has had there so far."""
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None:
        return int(torch.cuda.max_memory_allocated())
    with contextlib.suppress(OSError, StopIteration):
        # getrusage counts in what the process was forked from.
        lines = OWN_STATUS.read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def leaves_holes() -> bool:
    """Whether tensors leave holes that none of their size fits into: so it is with glibc's malloc.

    Those that are preloaded in its place have malloc in their names.
    """
    with contextlib.suppress(OSError):
        lines = OWN_LIBRARIES.read_text().splitlines()
        return not any("malloc" in line.rpartition("/")[2] for line in lines)
    return False


def processes_started() -> int:
    """How many processes train together: torchrun's number, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def processes_here() -> int:
    """How many of them train on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def container_free_bytes(root: Path = CGROUP) -> int | None:
    """What the container's limit (cgroup v2) leaves; None where there is no limit."""
    with contextlib.suppress(OSError, ValueError):
        limit = (root / "memory.max").read_text().strip()
        if limit != "max":
            used = int((root / "memory.current").read_text())
            lines = (root / "memory.stat").read_text().splitlines()
            cache = sum(int(line.split()[1]) for line in lines if line.split()[0] == RECLAIMABLE)
            return max(0, int(limit) - used + cache)
    return None


def wants_bfloat16(precision: str, device: str) -> bool:
    """Whether matrix products run in bfloat16: as the setting says, `auto` where a GPU has it."""
    if precision != "auto":
        return precision == "bfloat16"
    return device.startswith("cuda") and (_ask_gpu(_capability) or 0) >= BFLOAT16_CAPABILITY


def gpu_free_bytes() -> int | None:
    """Free bytes of the first GPU that this process may use, by NVML; None without a driver."""
    return _ask_gpu(_free)


def gpu_total_bytes() -> int | None:
    """All bytes of that GPU, free or not; None without a driver."""
    return _ask_gpu(_total)


def _total(handle: Any) -> int:
    import pynvml

    return int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)


def _free(handle: Any) -> int:
    import pynvml

    return int(pynvml.nvmlDeviceGetMemoryInfo(handle).free)


def _capability(handle: Any) -> int:
    import pynvml

    major, _ = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return int(major)


def _ask_gpu(question: Callable[[Any], int]) -> int | None:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"
        return question(
            pynvml.nvmlDeviceGetHandleByIndex(int(first))
            if first.isdigit()
            else pynvml.nvmlDeviceGetHandleByUUID(first)
        )
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
