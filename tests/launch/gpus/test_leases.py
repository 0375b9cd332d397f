"""Leases on GPUs that need not exist: a lease is a lock on a file."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from chatllama_pipeline.errors import LeaseError, SettingsError
from chatllama_pipeline.gpus import Gpu
from chatllama_pipeline.launch import cores, leases
from chatllama_pipeline.launch.child import child_environment, run_child
from chatllama_pipeline.launch.cores import fair_threads
from chatllama_pipeline.launch.leases import Lease, Rules, lease_gpus
from resources import compute
from resources.compute import Compute

GB = 10**9
SECONDS = 30.0


def gpus(*free: float) -> Callable[[], Sequence[Gpu]]:
    """GPUs `gpu0` and so on, of 80 GB each, so many of which are free."""
    found = [
        Gpu(f"gpu{number}", (str(number),), "H", 80 * GB, int(gigabytes * GB))
        for number, gigabytes in enumerate(free)
    ]
    return lambda: found


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RETRY_SECONDS", 0.01)


def leased(
    there: Callable[[], Sequence[Gpu]],
    count: int,
    folder: Path,
    say: Callable[[str], None] = print,
    who: str = "actor_sft of poet",
    wait: float = SECONDS,
) -> contextlib.AbstractContextManager[Lease]:
    return lease_gpus(there, count, who, say, Rules(folder, wait_seconds=wait))


def test_leases_hand_out_different_gpus_and_give_them_back(tmp_path: Path) -> None:
    there = gpus(80, 80, 80)
    with leased(there, 2, tmp_path) as first, leased(there, 1, tmp_path) as second:
        assert (first.ids, second.ids) == (["gpu0", "gpu1"], ["gpu2"])
    with leased(there, 3, tmp_path) as third:
        assert third.ids == ["gpu0", "gpu1", "gpu2"]


def test_the_freest_gpus_are_chosen_and_those_that_others_load_are_left(tmp_path: Path) -> None:
    with leased(gpus(60, 20, 79), 2, tmp_path) as lease:
        assert lease.ids == ["gpu2", "gpu0"]
    told = r"of gpu1 others have taken 60\.0 of 80\.0 GB \(compute\.gpu_least_free\)"
    with pytest.raises(LeaseError, match=told), leased(gpus(60, 20, 79), 3, tmp_path, wait=0):
        pass


def test_who_waits_too_long_is_told_who_holds_the_gpus(tmp_path: Path) -> None:
    there = gpus(80)
    with leased(there, 1, tmp_path, who="actor_ppo of poet, run 8f1c"):
        with pytest.raises(LeaseError) as refused, leased(there, 1, tmp_path, wait=0):
            pass
        told = f"gpu0 is held by actor_ppo of poet, run 8f1c (root on {os.uname().nodename}, "
        assert told.replace("root", leases.getpass.getuser()) in str(refused.value)
        assert f"process {os.getpid()}, since 20" in str(refused.value)
        assert "compute.gpu_wait_seconds" in str(refused.value)
    with leased(there, 1, tmp_path, wait=0) as lease:
        assert lease.ids == ["gpu0"]


class Asker(threading.Thread):
    """Somebody who asks for GPUs, holds them until told to let go, and hears why it waits."""

    def __init__(self, there: Callable[[], Sequence[Gpu]], count: int, folder: Path) -> None:
        super().__init__(daemon=True)
        self.waits, self.has, self.lets_go = threading.Event(), threading.Event(), threading.Event()
        self.said: list[str] = []
        self._lease = leased(there, count, folder, self._hear, who=f"who wants {count}")
        self.start()

    def _hear(self, text: str) -> None:
        self.said.append(text)
        self.waits.set()

    def run(self) -> None:
        with self._lease as lease:
            self.ids = lease.ids
            self.has.set()
            self.lets_go.wait(SECONDS)


def test_who_wants_several_is_not_passed_by_those_who_want_one(tmp_path: Path) -> None:
    there = gpus(80, 80)
    first = Asker(there, 1, tmp_path)
    assert first.has.wait(SECONDS)
    several = Asker(there, 2, tmp_path)
    assert several.waits.wait(SECONDS)
    one = Asker(there, 1, tmp_path)
    # One of the two is free all the while.
    assert one.waits.wait(SECONDS)
    assert one.said == ["waiting for 1 of 2 GPUs: who wants 2 asked earlier"]
    assert not one.has.is_set()
    first.lets_go.set()
    assert several.has.wait(SECONDS) and sorted(several.ids) == ["gpu0", "gpu1"]
    assert not one.has.is_set()
    several.lets_go.set()
    assert one.has.wait(SECONDS)
    one.lets_go.set()


def test_who_waits_for_other_gpus_waits_for_nobody(tmp_path: Path) -> None:
    with leased(gpus(80), 1, tmp_path):
        waits = Asker(gpus(80), 1, tmp_path)
        assert waits.waits.wait(SECONDS)
        other = [Gpu("gpu7", ("7",), "H")]
        with leased(lambda: other, 1, tmp_path, wait=0) as lease:
            assert lease.ids == ["gpu7"]
    assert waits.has.wait(SECONDS)
    waits.lets_go.set()


ASKS = """
import os, sys, time
from pathlib import Path
from chatllama_pipeline.gpus import Gpu
from chatllama_pipeline.launch.leases import Rules, lease_gpus
folder, count, user = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
if user: os.setuid(user)
there = [Gpu(f"gpu{n}", (), "H") for n in range(2)]
say = lambda text: print("waits", flush=True)
with lease_gpus(lambda: there, count, "another process", say, Rules(folder)) as lease:
    print("has", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def another_process(folder: Path, count: int, user: int = 0) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", ASKS, str(folder), str(count), str(user)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def says(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_kill_frees_what_was_held_and_whoever_waited_behind(tmp_path: Path) -> None:
    there = gpus(80, 80)
    with another_process(tmp_path, 2) as holds, another_process(tmp_path, 2) as waits:
        assert {says(holds), says(waits)} == {"has", "waits"}
        mine = Asker(there, 1, tmp_path)
        assert mine.waits.wait(SECONDS)
        for process in (holds, waits):
            process.kill()
            process.wait()
        assert mine.has.wait(SECONDS)
        mine.lets_go.set()
        mine.join()
    assert list((tmp_path / leases.QUEUE).iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_users_lease_counts_and_is_told_and_ours_after_it_works() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        place = Path(name)
        place.chmod(0o755)
        with leased(gpus(80, 80), 1, place / "leases"):
            pass
        with another_process(place / "leases", 2, user=65534) as holds:
            assert says(holds) == "has"
            with (
                pytest.raises(LeaseError, match="held by another process"),
                leased(gpus(80, 80), 1, place / "leases", wait=0),
            ):
                pass
        with leased(gpus(80, 80), 2, place / "leases") as lease:
            assert len(lease.ids) == 2


def test_more_processes_than_gpus_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(SettingsError, match=r"compute\.processes is 2, but 1 GPUs are there"),
        leased(gpus(80), 2, tmp_path),
    ):
        pass


def test_a_child_holds_the_lease_after_its_parent_let_go(tmp_path: Path) -> None:
    (tmp_path / "go_on").touch()
    code = "import os, sys, time\nwhile os.path.exists(sys.argv[1]): time.sleep(0.02)"
    looks = []

    def look() -> None:
        holding.__exit__(None, None, None)
        with pytest.raises(LeaseError), leased(gpus(80), 1, tmp_path, wait=0):
            pass
        looks.append("held")
        (tmp_path / "go_on").unlink()

    holding = leased(gpus(80), 1, tmp_path)
    lease = holding.__enter__()
    run_child(
        [sys.executable, "-c", code, str(tmp_path / "go_on")],
        env=child_environment(1),
        log=tmp_path / "child.log",
        poll=lambda: look() if not looks else None,
        pass_fds=lease.fds,
    )

    assert looks == ["held"]
    with leased(gpus(80), 1, tmp_path, wait=0) as lease:
        assert lease.ids == ["gpu0"]


def test_the_cores_are_shared_out_among_the_stages_that_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "cores_at_hand", lambda: 8)
    with (
        fair_threads(tmp_path, 0) as first,
        fair_threads(tmp_path, 0) as second,
        fair_threads(tmp_path, 3) as asked,
        fair_threads(tmp_path, 0) as fourth,
    ):
        assert (first, second, asked, fourth) == (8, 4, 3, 2)
    with fair_threads(tmp_path, 0) as alone:
        assert alone == 8


def test_the_device_follows_the_gpus_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "usable_gpus", gpus(80))
    assert Compute(device="auto").device_at_hand() == "cuda"
    assert Compute(device="cpu").device_at_hand() == "cpu"
    monkeypatch.setattr(compute, "usable_gpus", list)
    assert Compute(device="auto").device_at_hand() == "cpu"
    with pytest.raises(SettingsError, match=r"compute\.device is 'cuda', but the installed torch"):
        Compute(device="cuda").device_at_hand()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"threads": -1}, r"compute\.threads is -1: use 0 or more"),
        ({"processes": 0}, r"compute\.processes is 0: use 1 or more"),
        ({"gpu_least_free": 1.5}, r"compute\.gpu_least_free is 1\.5: use 0 to 1"),
        ({"gpu_wait_seconds": -1}, r"compute\.gpu_wait_seconds is -1\.0: use 0 or more"),
    ],
)
def test_settings_of_the_machine_out_of_range_are_refused(
    settings: dict[str, float], told: str
) -> None:
    with pytest.raises(SettingsError, match=told):
        Compute(**settings).require_valid()
