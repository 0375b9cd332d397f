"""The GPUs of this machine, by NVML and without torch: MIG instances each, all by their UUIDs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from chatllama_pipeline.errors import SettingsError

VARIABLE = "CUDA_VISIBLE_DEVICES"
# What says in CUDA's variable that no more follow: CUDA reads it up to the first that is none.
NO_DEVICE = ("", "-1", "NoDevFiles")


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a part of one by MIG.

    `id` is its UUID, which CUDA takes. `names` are the others that CUDA_VISIBLE_DEVICES may give
    it: nvidia-smi's number of the card, and a part's older name. Bytes are None where the driver
    doesn't tell them.
    """

    id: str
    names: tuple[str, ...]
    title: str
    total_bytes: int | None = None
    free_bytes: int | None = None

    @property
    def free_share(self) -> float:
        """How much of its memory is free, 0 to 1; 1 where nobody tells."""
        if not self.total_bytes or self.free_bytes is None:
            return 1.0
        return self.free_bytes / self.total_bytes


def usable_gpus() -> list[Gpu]:
    """The GPUs that the installed torch can use and CUDA_VISIBLE_DEVICES leaves; empty if none.

    Raises SettingsError where that variable names what isn't there or one GPU twice, where torch is
    built for AMD's GPUs, and where the driver is there and doesn't answer: a training would be
    slow on a CPU, and nobody would know.
    """
    build = metadata.version("torch").partition("+")[2]
    if build.startswith("rocm"):
        raise SettingsError(
            "the installed torch is built for AMD's GPUs (ROCm), which are neither counted nor "
            "leased here: set compute.device to cpu, or install a torch that is built for CUDA"
        )
    found = [] if build == "cpu" else all_gpus()
    named = os.environ.get(VARIABLE)
    return found if named is None or not found else named_gpus(named, found)


def all_gpus() -> list[Gpu]:
    """Every GPU that NVIDIA's driver knows, in its order; empty where there is no driver."""
    import pynvml

    absent = (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded)
    try:
        pynvml.nvmlInit()
    except absent:
        return []
    except pynvml.NVMLError as error:
        raise _silent(error) from None
    try:
        count = int(pynvml.nvmlDeviceGetCount())
        return [gpu for number in range(count) for gpu in _cards(number)]
    except pynvml.NVMLError as error:
        raise _silent(error) from None
    finally:
        pynvml.nvmlShutdown()


def named_gpus(named: str, found: Sequence[Gpu]) -> list[Gpu]:
    """Those of `found` that CUDA_VISIBLE_DEVICES names, in its order.

    A card's number names all its parts; a UUID may be cut short.
    """
    chosen: list[Gpu] = []
    for name in (part.strip() for part in named.split(",")):
        if name in NO_DEVICE:
            break
        same = [gpu for gpu in found if name == gpu.id or name in gpu.names]
        same = same or [gpu for gpu in found if _is_uuid(name) and gpu.id.startswith(name)]
        if not same:
            there = ", ".join(f"{gpu.id} ({gpu.names[0]})" for gpu in found)
            raise SettingsError(f"{VARIABLE} names {name!r}, which isn't there: use of {there}")
        if again := [gpu.id for gpu in same if gpu in chosen]:
            raise SettingsError(f"{VARIABLE}={named} names {again[0]} twice: name each GPU once")
        chosen += same
    return chosen


def _is_uuid(name: str) -> bool:
    return name.startswith(("GPU-", "MIG-"))


def _silent(error: Exception) -> SettingsError:
    return SettingsError(
        f"NVIDIA's driver is there and doesn't answer ({error}): see what nvidia-smi says, restart "
        "the container or the machine, or set compute.device to cpu"
    )


def _cards(number: int) -> Iterator[Gpu]:
    """A card, or its MIG instances where it is parted: CUDA then uses nothing else of it."""
    import pynvml

    card = pynvml.nvmlDeviceGetHandleByIndex(number)
    uuid, title = str(pynvml.nvmlDeviceGetUUID(card)), str(pynvml.nvmlDeviceGetName(card))
    if not _is_parted(card):
        yield Gpu(uuid, (str(number),), title, *_memory(card))
        return
    for place in range(int(pynvml.nvmlDeviceGetMaxMigDeviceCount(card))):
        with contextlib.suppress(pynvml.NVMLError_NotFound):
            part = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(card, place)
            instance = pynvml.nvmlDeviceGetGpuInstanceId(part)
            older = f"MIG-{uuid}/{instance}/{pynvml.nvmlDeviceGetComputeInstanceId(part)}"
            own, of = str(pynvml.nvmlDeviceGetUUID(part)), str(pynvml.nvmlDeviceGetName(part))
            yield Gpu(own, (str(number), older), of, *_memory(part))


def _is_parted(card: Any) -> bool:
    import pynvml

    try:
        now, _ = pynvml.nvmlDeviceGetMigMode(card)
    except pynvml.NVMLError_NotSupported:
        return False
    return bool(now == pynvml.NVML_DEVICE_MIG_ENABLE)


def _memory(handle: Any) -> tuple[int | None, int | None]:
    """All bytes and those that are free; a GPU that shares the machine's memory tells neither."""
    import pynvml

    try:
        told = pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError_NotSupported:
        return None, None
    return int(told.total), int(told.free)
