"""Leases on GPUs that need not exist: a lease is a lock on a file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.launch.child import child_environment, run_child
from resources import compute, gpus
from resources.compute import Compute
from resources.gpus import lease_gpus


def test_leases_hand_out_different_gpus_and_give_them_back(tmp_path: Path) -> None:
    said: list[str] = []
    with (
        lease_gpus(["0", "1", "2"], 2, said.append, tmp_path) as first,
        lease_gpus(["0", "1", "2"], 1, said.append, tmp_path) as second,
    ):
        assert (first.ids, second.ids) == (["0", "1"], ["2"])
    with lease_gpus(["0", "1", "2"], 3, said.append, tmp_path) as third:
        assert third.ids == ["0", "1", "2"]
    assert said == []


def test_a_lease_waits_for_all_its_gpus_and_holds_none_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    holding = lease_gpus(["0"], 1, said.append, tmp_path)
    holding.__enter__()

    def free_while_it_waits(seconds: float) -> None:
        with lease_gpus(["1"], 1, said.append, tmp_path):
            holding.__exit__(None, None, None)

    monkeypatch.setattr(gpus.time, "sleep", free_while_it_waits)
    with lease_gpus(["0", "1"], 2, said.append, tmp_path) as lease:
        assert lease.ids == ["0", "1"]
    assert said == ["waiting until 2 of the GPUs 0, 1 are free"]


def test_more_processes_than_gpus_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(SettingsError, match=r"compute\.processes is 2, but 1 GPUs are there"),
        lease_gpus(["0"], 2, print, tmp_path),
    ):
        pass


class StillHeldError(Exception):
    pass


def still_held(text: str) -> None:
    raise StillHeldError(text)


def test_a_child_holds_the_lease_after_its_parent_let_go(tmp_path: Path) -> None:
    (tmp_path / "go_on").touch()
    code = "import os, sys, time\nwhile os.path.exists(sys.argv[1]): time.sleep(0.02)"
    looks = []

    def look() -> None:
        holding.__exit__(None, None, None)
        with (
            pytest.raises(StillHeldError),
            lease_gpus(["0"], 1, still_held, tmp_path),
        ):
            pass
        looks.append("held")
        (tmp_path / "go_on").unlink()

    holding = lease_gpus(["0"], 1, still_held, tmp_path)
    lease = holding.__enter__()
    run_child(
        [sys.executable, "-c", code, str(tmp_path / "go_on")],
        env=child_environment(1),
        log=tmp_path / "child.log",
        poll=lambda: look() if not looks else None,
        pass_fds=lease.fds,
    )

    assert looks == ["held"]
    with lease_gpus(["0"], 1, still_held, tmp_path) as lease:
        assert lease.ids == ["0"]


def test_the_device_follows_the_gpus_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "visible_gpus", lambda: ["0"])
    assert Compute(device="auto").device_at_hand() == "cuda"
    assert Compute(device="cpu").device_at_hand() == "cpu"
    monkeypatch.setattr(compute, "visible_gpus", list)
    assert Compute(device="auto").device_at_hand() == "cpu"
    with pytest.raises(SettingsError, match=r"compute\.device is 'cuda', but the installed torch"):
        Compute(device="cuda").device_at_hand()


@pytest.mark.parametrize(
    ("named", "ids"),
    [(None, ["0", "1"]), ("1", ["1"]), ("GPU-5,0", ["GPU-5", "0"]), ("", []), ("0,-1,1", ["0"])],
)
def test_the_gpus_named_visible_are_those_there_are(
    monkeypatch: pytest.MonkeyPatch, named: str | None, ids: list[str]
) -> None:
    monkeypatch.setattr(gpus.metadata, "version", lambda package: "2.13.0+cu130")
    monkeypatch.setattr(gpus, "_driver_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert gpus.visible_gpus() == ids


def test_a_torch_built_for_the_cpu_sees_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus.metadata, "version", lambda package: "2.13.0+cpu")
    monkeypatch.setattr(gpus, "_driver_count", lambda: 2)
    assert gpus.visible_gpus() == []
