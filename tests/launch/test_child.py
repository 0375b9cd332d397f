"""A child process by itself: how it ends, what is said of it, and the environment it gets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatllama_pipeline.errors import ChildError, OutOfMemoryError
from chatllama_pipeline.launch import child as launch
from chatllama_pipeline.launch.child import ChildRun, child_environment, cores_at_hand, run_child


def run_python(code: str, log: Path, **options: Any) -> ChildRun:
    return run_child([sys.executable, "-c", code], env=child_environment(1), log=log, **options)


def test_a_child_that_ends_well_leaves_its_output_and_its_seconds(tmp_path: Path) -> None:
    log = tmp_path / "runs" / "child.log"
    code = "import sys, time; time.sleep(0.5); print('out'); print('err', file=sys.stderr)"

    begun = time.monotonic()
    run = run_python(code, log)

    assert 0.5 <= run.seconds <= time.monotonic() - begun
    assert run.leftovers == 0
    assert log.read_text() == "out\nerr\n"


def test_a_failure_names_the_exit_code_and_the_end_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    with pytest.raises(ChildError) as raised:
        run_python("[print('line', n) for n in range(100)]; raise SystemExit(7)", log)

    first, *tail = str(raised.value).splitlines()
    assert first.endswith(f"ended with exit code 7; the end of {log}:")
    assert tail == [f"line {number}" for number in range(70, 100)]


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGTERM"])
def test_an_end_by_a_signal_names_it(tmp_path: Path, name: str) -> None:
    code = f"import os, signal; os.kill(os.getpid(), signal.{name})"
    with pytest.raises(ChildError, match=f"was ended by {name}"):
        run_python(code, tmp_path / "child.log")


KILLED = "import os, time; os.environ.get('RANK') == '0' or os.kill(os.getpid(), 9); time.sleep(60)"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_kill_reads_as_out_of_memory_where_the_kernel_does_not_count_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    monkeypatch.setattr(launch, "KERNEL_COUNTS", tmp_path / "absent")
    with pytest.raises(OutOfMemoryError, match="most likely out of memory: lower micro_batch_size"):
        run_python(KILLED, tmp_path / "child.log", processes=processes)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_kill_by_hand_is_no_lack_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    counts = tmp_path / "vmstat"
    counts.write_text("nr_free_pages 5\noom_kill 3\n")
    monkeypatch.setattr(launch, "KERNEL_COUNTS", counts)
    with pytest.raises(ChildError, match="though not by the kernel for want of") as raised:
        run_python(KILLED, tmp_path / "child.log", processes=processes)
    assert not isinstance(raised.value, OutOfMemoryError)


@pytest.fixture
def little_memory() -> Iterator[Path]:
    """A memory cgroup's list of processes; 100 MiB for all of them."""
    for root, limit in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        group = Path("/sys/fs/cgroup") / root / f"chatllama_test_{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text("100M")
            yield group / "cgroup.procs"
            return
        except OSError:
            continue
        finally:
            group.rmdir()
    pytest.skip("needs a memory cgroup of its own, which only root may make")


def test_the_kernel_s_own_kill_is_told_from_one_by_hand(
    tmp_path: Path, little_memory: Path
) -> None:
    code = (
        "import os, pathlib\n"
        f"pathlib.Path({str(little_memory)!r}).write_text(str(os.getpid()))\n"
        "bytearray(2**30)\n"
    )
    with pytest.raises(OutOfMemoryError, match="most likely out of memory: lower micro_batch_size"):
        run_python(code, tmp_path / "child.log")


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ChildError, match="error: cannot start /no/such/program: No such file"):
        run_child(["/no/such/program"], env=child_environment(1), log=tmp_path / "child.log")


def test_what_a_child_left_behind_is_ended_with_it(tmp_path: Path, watch: Any) -> None:
    # A session of its own, and no parent any more: neither a group nor a tree leads to it.
    code = (
        "import subprocess, sys\n"
        f"command = [sys.executable, '-c', 'import time; time.sleep(600)', {str(tmp_path)!r}]\n"
        "subprocess.Popen(command, start_new_session=True)\n"
    )

    run = run_python(code, tmp_path / "child.log")

    assert run.leftovers == 1
    assert watch.living(str(tmp_path)) == []


def test_what_poll_raises_ends_a_polite_child_by_the_first_signal(
    tmp_path: Path, watch: Any
) -> None:
    log = tmp_path / "child.log"

    def look() -> None:
        if log.read_text() == "at work\n":
            raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        run_python(
            f"print('at work')\nimport time\ntime.sleep(600)\n{str(tmp_path)!r}", log, poll=look
        )

    assert watch.living(str(tmp_path)) == []
    assert "KeyboardInterrupt" in log.read_text()


def test_impatient_interrupts_end_a_deaf_grandchild_while_the_parent_lives_on(
    tmp_path: Path, programs: Path, watch: Any
) -> None:
    # The grandchild ignores INT and TERM and has a session of its own, as torchrun's ranks have.
    folder = tmp_path / "one_child"
    grandchild = [sys.executable, str(programs / "worker.py"), str(folder)]
    code = f"import subprocess\nsubprocess.Popen({grandchild!r}, start_new_session=True).wait()"
    again = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    interrupted = []

    def interrupt_once() -> None:
        if watch.all_at_work(folder) and not interrupted:
            interrupted.append(len(watch.living(str(folder))))
            again.start()
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_python(code, tmp_path / "child.log", poll=interrupt_once)
        left = [str(process) for process in watch.living(str(folder))]
    finally:
        again.cancel()
        signal.signal(signal.SIGINT, before)
        watch.kill_all(str(folder))

    # The child and its grandchild were at work.
    assert interrupted == [2]
    assert left == []


def test_a_child_whose_parent_died_before_it_was_tied_never_begins(tmp_path: Path) -> None:
    # The parent is not the process named in the environment: it died, and another took its place.
    stranger = {**os.environ, launch.shim.PARENT_VARIABLE: str(os.getppid())}
    command = [sys.executable, launch.shim.__file__, sys.executable, "-c", "print('at work')"]

    ended = subprocess.run(command, env=stranger, capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stdout) == (137, "")


def test_a_child_answers_to_signals_that_its_parent_ignores(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run_python("import signal; print(signal.getsignal(signal.SIGINT).__name__)", log)
    finally:
        signal.signal(signal.SIGINT, before)

    assert log.read_text() == "default_int_handler\n"


def test_the_handlers_of_the_parent_are_put_back(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run_python("pass", tmp_path / "child.log")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_childs_environment_is_steady_and_quiet(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    base = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "64", "KEPT": "yes"}
    run_child(
        [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"],
        env=child_environment(3, base),
        log=log,
    )

    env = json.loads(log.read_text())
    assert env["KEPT"] == "yes"
    assert env["OMP_NUM_THREADS"] == env["MKL_NUM_THREADS"] == "3"
    assert env["OMP_WAIT_POLICY"] == "PASSIVE"
    assert env["GOMP_SPINCOUNT"] == "1000"
    assert env["TOKENIZERS_PARALLELISM"] == "false"
    assert env["PYTHONHASHSEED"] == "0"
    assert env["PYTHONUNBUFFERED"] == "1"
    assert env["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"


def test_what_a_child_imports_is_compiled_once_whatever_the_environment_says(
    tmp_path: Path,
) -> None:
    (tmp_path / "imported.py").write_text("")
    base = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    run_child(
        [sys.executable, "-c", "import imported"],
        env=child_environment(1, base),
        log=tmp_path / "child.log",
    )
    assert list((tmp_path / "__pycache__").glob("imported.*.pyc"))


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")
def test_cores_at_hand_are_those_the_process_may_run_on() -> None:
    code = (
        "import os\nfrom chatllama_pipeline.launch.child import cores_at_hand\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nprint(cores_at_hand())"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "1\n"


@pytest.mark.parametrize(("limit", "cores"), [("100000 100000", 1), ("150000 100000", 2)])
def test_cores_at_hand_keep_to_a_containers_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, cores: int
) -> None:
    monkeypatch.setattr(launch, "CGROUP_CPU_LIMIT", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert cores_at_hand() == 8
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert cores_at_hand() == cores
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cores_at_hand() == 8
