"""What this machine has: free memory on GPU, in the container, at all; bfloat16. No torch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

CGROUP = Path("/sys/fs/cgroup")
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
