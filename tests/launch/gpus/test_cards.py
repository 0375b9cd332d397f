"""Which GPUs there are, by a driver that tells of cards which need not exist."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pynvml
import pytest

from chatllama_pipeline import gpus
from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.gpus import Gpu, all_gpus, named_gpus, usable_gpus

GB = 10**9
WHOLE, PARTED, SHARING = "GPU-1a", "GPU-2b", "GPU-3c"


@dataclasses.dataclass
class Handle:
    """A card, or a part of one."""

    uuid: str
    title: str
    memory: tuple[int, int] | None = (80 * GB, 79 * GB)
    parts: dict[int, Handle] | None = None
    ids: tuple[int, int] = (0, 0)


CARDS = [
    Handle(WHOLE, "NVIDIA H100"),
    Handle(
        PARTED,
        "NVIDIA A100",
        parts={
            0: Handle("MIG-5d", "A100 MIG 3g.20gb", (20 * GB, 20 * GB), ids=(1, 0)),
            3: Handle("MIG-6e", "A100 MIG 1g.5gb", (5 * GB, 1 * GB), ids=(9, 0)),
        },
    ),
    Handle(SHARING, "NVIDIA GB10", memory=None),
]


def refuse(error: type[Exception]) -> Exception:
    return error()


class Driver:
    """What NVML answers of the cards above."""

    nvmlInit = staticmethod(lambda: None)
    nvmlShutdown = staticmethod(lambda: None)
    nvmlDeviceGetCount = staticmethod(lambda: len(CARDS))
    nvmlDeviceGetHandleByIndex = staticmethod(lambda number: CARDS[number])
    nvmlDeviceGetUUID = staticmethod(lambda handle: handle.uuid)
    nvmlDeviceGetName = staticmethod(lambda handle: handle.title)
    nvmlDeviceGetMaxMigDeviceCount = staticmethod(lambda card: 7)
    nvmlDeviceGetGpuInstanceId = staticmethod(lambda part: part.ids[0])
    nvmlDeviceGetComputeInstanceId = staticmethod(lambda part: part.ids[1])

    @staticmethod
    def nvmlDeviceGetMigMode(card: Handle) -> list[int]:
        if card.memory is None:
            raise pynvml.NVMLError_NotSupported
        return [int(card.parts is not None)] * 2

    @staticmethod
    def nvmlDeviceGetMigDeviceHandleByIndex(card: Handle, place: int) -> Handle:
        if card.parts is None or place not in card.parts:
            raise pynvml.NVMLError_NotFound
        return card.parts[place]

    @staticmethod
    def nvmlDeviceGetMemoryInfo(handle: Handle) -> SimpleNamespace:
        if handle.memory is None:
            raise pynvml.NVMLError_NotSupported
        total, free = handle.memory
        return SimpleNamespace(total=total, free=free)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in vars(Driver):
        if name.startswith("nvml"):
            monkeypatch.setattr(pynvml, name, getattr(Driver, name))
    monkeypatch.setattr(gpus.metadata, "version", lambda package: "2.13.0+cu130")
    monkeypatch.delenv(gpus.VARIABLE, raising=False)


@pytest.mark.usefixtures("driver")
def test_cards_and_the_parts_of_parted_ones_are_told_by_their_uuids() -> None:
    assert all_gpus() == [
        Gpu(WHOLE, ("0",), "NVIDIA H100", 80 * GB, 79 * GB),
        Gpu("MIG-5d", ("1", "MIG-GPU-2b/1/0"), "A100 MIG 3g.20gb", 20 * GB, 20 * GB),
        Gpu("MIG-6e", ("1", "MIG-GPU-2b/9/0"), "A100 MIG 1g.5gb", 5 * GB, 1 * GB),
        Gpu(SHARING, ("2",), "NVIDIA GB10", None, None),
    ]
    assert [gpu.free_share for gpu in all_gpus()] == [79 / 80, 1.0, 0.2, 1.0]


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(
    ("named", "ids"),
    [
        (None, [WHOLE, "MIG-5d", "MIG-6e", SHARING]),
        ("2", [SHARING]),
        (" 2 , 0", [SHARING, WHOLE]),
        ("GPU-3c,0", [SHARING, WHOLE]),
        ("GPU-1", [WHOLE]),
        ("1", ["MIG-5d", "MIG-6e"]),
        ("MIG-6e", ["MIG-6e"]),
        ("MIG-GPU-2b/1/0", ["MIG-5d"]),
        ("", []),
        ("0,-1,2", [WHOLE]),
        ("NoDevFiles", []),
    ],
)
def test_the_gpus_named_visible_are_those_there_are(
    monkeypatch: pytest.MonkeyPatch, named: str | None, ids: list[str]
) -> None:
    if named is not None:
        monkeypatch.setenv(gpus.VARIABLE, named)
    assert [gpu.id for gpu in usable_gpus()] == ids


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("7", r"names '7', which isn't there: use of GPU-1a \(0\), MIG-5d \(1\)"),
        ("0,one", "names 'one', which isn't there"),
        ("GPU-9", "names 'GPU-9', which isn't there"),
        ("0,0", "CUDA_VISIBLE_DEVICES=0,0 names GPU-1a twice"),
        ("0, GPU-1a", "names GPU-1a twice"),
        ("1,MIG-6e", "names MIG-6e twice"),
    ],
)
def test_a_name_of_no_gpu_or_of_one_named_before_is_refused(named: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        named_gpus(named, all_gpus())


@pytest.mark.usefixtures("driver")
def test_a_torch_for_the_cpu_sees_no_gpu_and_one_for_amd_s_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpus.metadata, "version", lambda package: "2.13.0+cpu")
    assert usable_gpus() == []
    monkeypatch.setattr(gpus.metadata, "version", lambda package: "2.13.0+rocm7.1")
    with pytest.raises(SettingsError, match=r"built for AMD's GPUs \(ROCm\)"):
        usable_gpus()


@pytest.mark.usefixtures("driver")
def test_no_driver_is_no_gpu_and_one_that_does_not_answer_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent() -> None:
        raise pynvml.NVMLError_LibraryNotFound

    def silent() -> None:
        raise pynvml.NVMLError_LibRmVersionMismatch

    monkeypatch.setattr(pynvml, "nvmlInit", absent)
    assert usable_gpus() == []
    monkeypatch.setattr(pynvml, "nvmlInit", silent)
    with pytest.raises(SettingsError, match="driver is there and doesn't answer"):
        usable_gpus()
