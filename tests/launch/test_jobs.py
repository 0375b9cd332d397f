"""What holds for jobs whoever schedules them, on a scheduler of one machine's processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from chatllama_pipeline.errors import ChildError, SettingsError
from chatllama_pipeline.launch.jobs import running
from chatllama_pipeline.launch.jobs.scheduler import NoAnswerError, Request, Task
from chatllama_pipeline.launch.jobs.stage import run_as_job
from chatllama_pipeline.records import StageSpec


@dataclass(frozen=True)
class Job:
    """A process, as its scheduler sees it; those that wait have none."""

    state: str
    restarts: int = 0
    reason: str = "Resources"
    nodes: str = "here"
    may_come_back: bool = False
    would_never_start: bool = False
    was_out_of_memory: bool = False
    was_lost: bool = False
    queued_seconds: float = 0.0
    node_hours: float = 0.0

    @property
    def waits(self) -> bool:
        return self.state == "waits"

    @property
    def is_over(self) -> bool:
        return self.state in ("ended", "failed")

    @property
    def went_well(self) -> bool:
        return self.state == "ended"

    @property
    def how_it_ended(self) -> str:
        return f"ended as {self.state}"


@dataclass
class OneMachine:
    """Runs each job at once, unless it is told that it is full, refuses, or is away."""

    request: Request = field(default_factory=Request)
    full: bool = False
    refuses: bool = False
    away: int = 0
    loses: int = 0
    jobs: dict[str, subprocess.Popen[bytes] | None] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    name = "One"
    section = "one"
    cure_for_stops = "ask for more"

    def require(self) -> None:
        pass

    def submit(self, task: Task, name: str, stop_seconds: float) -> str:
        if self.refuses:
            raise SettingsError("no such queue")
        self.started.append(name)
        with task.log.open("wb") as log:
            self.jobs[name] = None if self.full else subprocess.Popen(task.command, stdout=log)
        return name

    def look_at(self, job: str) -> Job | None:
        if self.away:
            self.away -= 1
            raise NoAnswerError("nobody is there")
        if job not in self.jobs:
            return None
        process = self.jobs[job]
        if process is None:
            return Job("waits")
        code = process.poll()
        if code and self.loses:
            self.loses -= 1
            return Job("failed", was_lost=True)
        return Job("runs" if code is None else "failed" if code else "ended")

    def named(self, name: str) -> str | None:
        return name if name in self.jobs else None

    def ask_to_save(self, job: str) -> None:
        process = self.jobs[job]
        assert process is not None
        process.terminate()

    def cancel(self, job: str) -> None:
        process = self.jobs.pop(job)
        if process is not None:
            process.kill()
            process.wait()

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(running, "COME_BACK_SECONDS", 0.1)


@pytest.fixture
def one() -> Iterator[OneMachine]:
    scheduler = OneMachine()
    yield scheduler
    for job in list(scheduler.jobs):
        scheduler.cancel(job)


def task(folder: Path, script: str) -> Task:
    spec, result = folder / "spec.json", folder / "result"
    spec.write_text(script)
    command = ["bash", "-c", f"cd {folder}; {script}"]
    log, refusal = folder / "spec.log", folder / "result.error"
    return Task("counts", command, spec, log, refusal, lambda: None, result.exists)


def ran(scheduler: OneMachine, what: Task) -> list[str]:
    said: list[str] = []
    running.run_job(what, scheduler, say=said.append, stop_seconds=10)
    return said


def ran_as_stage(scheduler: OneMachine, folder: Path, script: str) -> list[str]:
    said: list[str] = []
    result = str(folder / "result")
    spec = StageSpec("counts", "ours", {}, {}, str(folder / "published"), str(folder), result)
    command = ["bash", "-c", f"cd {folder}; {script}"]
    run_as_job(spec, folder / "spec.json", command, scheduler, stop_seconds=10, say=said.append)
    return said


WAITS_FOR_GO = "echo begun >> starts; while [ ! -e go ]; do sleep .05; done; touch result"


def left_behind(one: OneMachine, folder: Path, script: str) -> Task:
    """A job whose run was killed."""
    what = task(folder, script)
    one.submit(what, "earlier", 10)
    told = {"launcher": "one", "name": "earlier", "id": "earlier", "spec": script}
    (folder / running.JOB_FILE).write_text(json.dumps(told))
    while not (folder / "starts").exists():
        time.sleep(0.02)
    return what


def test_what_a_job_prints_is_handed_on_and_nothing_is_left(
    one: OneMachine, tmp_path: Path
) -> None:
    said = ran(one, task(tmp_path, "echo 'counts: one'; echo noise; touch result"))
    assert said[1:] == ["counts: one"]
    assert not (tmp_path / running.JOB_FILE).exists()


def test_a_job_that_fails_is_told_with_its_log(one: OneMachine, tmp_path: Path) -> None:
    with pytest.raises(ChildError, match=r"(?s)on here ended as failed; the end of .*last words"):
        ran(one, task(tmp_path, "echo last words; exit 3"))


THIRD_TIME = "echo begun >> starts; [ $(wc -l < starts) = 3 ] && touch result"


def test_a_stage_that_lost_its_node_goes_on_in_another_job(one: OneMachine, tmp_path: Path) -> None:
    one.loses = 2
    said = ran_as_stage(one, tmp_path, THIRD_TIME)
    assert sum("lost a node; asks for another" in line for line in said) == 2


def test_a_stage_that_loses_node_after_node_ends(one: OneMachine, tmp_path: Path) -> None:
    one.loses, one.request = 9, Request(retries=1)
    with pytest.raises(ChildError, match="ended as failed"):
        ran_as_stage(one, tmp_path, THIRD_TIME)
    assert (tmp_path / "starts").read_text() == "begun\nbegun\n"


def test_a_refused_job_leaves_the_folder_to_other_launchers(
    one: OneMachine, tmp_path: Path
) -> None:
    one.refuses = True
    with pytest.raises(SettingsError, match="no such queue"):
        ran(one, task(tmp_path, "true"))
    running.require_no_job(tmp_path, "local")


def test_a_job_that_waits_says_why_and_is_taken_back_in_time(
    one: OneMachine, tmp_path: Path
) -> None:
    one.full, one.request = True, Request(queue_seconds=0.3)
    cure = "or raise compute.one.queue_minutes"
    with pytest.raises(ChildError, match=rf"has waited .*\(Resources\) and was taken back.*{cure}"):
        ran(one, task(tmp_path, "true"))
    assert one.jobs == {}


def test_a_scheduler_that_is_away_is_waited_for(one: OneMachine, tmp_path: Path) -> None:
    one.away = 3
    ran(one, task(tmp_path, "touch result"))
    assert one.away == 0


def test_a_job_of_a_scheduler_that_stays_away_is_looked_for_by_the_next_run(
    one: OneMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "AWAY_SECONDS", 0.2)
    one.away = 1000
    what = task(tmp_path, WAITS_FOR_GO)
    with pytest.raises(NoAnswerError, match="run again when One is back"):
        ran(one, what)
    one.away = 0
    (tmp_path / "go").touch()
    assert any("takes up job" in line for line in ran(one, what))
    assert (tmp_path / "starts").read_text() == "begun\n"


def test_a_job_that_outlived_its_run_is_not_started_twice(one: OneMachine, tmp_path: Path) -> None:
    what = left_behind(one, tmp_path, WAITS_FOR_GO)
    (tmp_path / "go").touch()
    assert "takes up job earlier" in ran(one, what)[0]
    assert (tmp_path / "starts").read_text() == "begun\n"


def test_a_job_of_other_settings_is_ended_before_another_starts(
    one: OneMachine, tmp_path: Path
) -> None:
    left_behind(one, tmp_path, WAITS_FOR_GO)
    said = ran(one, task(tmp_path, "touch result"))
    assert "ends job earlier" in said[0]
    assert "earlier" not in one.jobs


def test_a_job_that_is_gone_without_a_result_is_told(one: OneMachine, tmp_path: Path) -> None:
    def lose() -> None:
        while not (tmp_path / "starts").exists():
            time.sleep(0.02)
        one.cancel(next(iter(one.jobs)))

    threading.Thread(target=lose, daemon=True).start()
    with pytest.raises(ChildError, match="is gone, and counts left no result"):
        ran(one, task(tmp_path, WAITS_FOR_GO))


def test_an_interrupt_has_the_job_save_and_end(one: OneMachine, tmp_path: Path) -> None:
    def interrupt() -> None:
        while not (tmp_path / "starts").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    saves = "trap 'touch saved; exit 75' TERM; " + WAITS_FOR_GO
    with pytest.raises(KeyboardInterrupt):
        ran(one, task(tmp_path, saves))
    assert (tmp_path / "saved").exists()
    assert one.jobs == {}
    assert not (tmp_path / running.JOB_FILE).exists()


def test_a_stage_on_a_node_that_blocks_interrupts_saves_all_the_same(tmp_path: Path) -> None:
    saves = f"trap 'touch {tmp_path}/saved; exit 0' INT; touch {tmp_path}/begun; "
    script = saves + "while :; do sleep .05; done"
    module = "chatllama_pipeline.launch.jobs.on_node"
    on_node = [sys.executable, "-m", module, str(tmp_path / "how"), str(tmp_path / "log"), "1"]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        process = subprocess.Popen([*on_node, "bash", "-c", script])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with process:
        while not (tmp_path / "begun").exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.terminate()
    assert (tmp_path / "saved").exists()
