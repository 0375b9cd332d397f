"""Stages as forks of a process that has imported what they need, and what becomes of both."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from chatllama_pipeline.errors import ChildError, OutOfMemoryError, WarmParentError
from chatllama_pipeline.launch import child as launch
from chatllama_pipeline.launch import forks
from chatllama_pipeline.launch.child import ChildRun, child_environment, run_child
from chatllama_pipeline.launch.forks import WarmParent, WarmStart
from chatllama_pipeline.launch.stages import OUT_OF_MEMORY, stage_error
from chatllama_pipeline.records import Outcome, StageSpec
from chatllama_pipeline.schemas import ACTOR_SCHEMA
from resources.compute import Compute
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(not forks.CAN_FORK, reason="forks on Linux alone")

COMMAND = [sys.executable, str(Path(__file__).parents[1] / "programs" / "fake_stages.py")]
ENVIRONMENT = child_environment(2)


@pytest.fixture
def warm_start() -> Iterator[WarmStart]:
    start = WarmStart()
    yield start
    start.close()


@pytest.fixture
def write_spec(tmp_path: Path) -> Callable[..., StageSpec]:
    """Writes `spec.json` of a fake stage into a folder named by it."""

    def write(stage: str, settings: dict[str, Any] | None = None) -> StageSpec:
        folder = tmp_path / stage
        folder.mkdir(exist_ok=True)
        where = {"output": str(folder), "run_folder": str(folder)}
        result = str(folder / "result.json")
        spec = StageSpec(stage, "tiny", settings or {}, {}, result=result, threads=2, **where)
        spec.write(folder / "spec.json")
        return spec

    return write


def parent_for(
    start: WarmStart, spec: StageSpec, env: dict[str, str] = ENVIRONMENT
) -> WarmParent | None:
    return start.parent(COMMAND, spec, Path(spec.run_folder) / "spec.json", env)


def run(spec: StageSpec, warm: WarmParent | None, **options: Any) -> ChildRun:
    folder = Path(spec.run_folder)
    env = options.pop("env", ENVIRONMENT)
    command = [*COMMAND, str(folder / "spec.json")]
    return run_child(command, env=env, log=folder / "spec.log", warm=warm, **options)


def outcome(spec: StageSpec) -> Outcome:
    return Outcome.read(Path(spec.result))


def test_a_fork_is_what_a_process_of_its_own_is(
    warm_start: WarmStart, write_spec: Callable[..., StageSpec]
) -> None:
    spec = write_spec("describes")
    own = {**ENVIRONMENT, "OF_THIS_STAGE": "yes"}
    found = []
    for warm in (None, parent_for(warm_start, spec), parent_for(warm_start, spec)):
        run(spec, warm, env=own)
        found.append(outcome(spec).metrics)
    assert [each["forked"] for each in found] == [False, True, True]
    alone, first, second = (json.loads(str(each["found"])) for each in found)
    assert alone["environment"]["OF_THIS_STAGE"] == "yes"
    assert alone["leads its session and group"] and alone["tied to its parent"]
    assert alone == first == second


def test_another_environment_or_other_libraries_have_another_warm_parent(
    warm_start: WarmStart, write_spec: Callable[..., StageSpec]
) -> None:
    plain = write_spec("ok")
    adapters = write_spec("describes", {"actor_config": {"peft_enable": True}})
    first = parent_for(warm_start, plain)
    assert first is not None and parent_for(warm_start, plain) is first
    second = parent_for(warm_start, adapters)
    assert second is not None and second is not first and not psutil.pid_exists(first.pid)
    assert parent_for(warm_start, adapters, {**ENVIRONMENT, "HF_HOME": "/x"}) is not second


@pytest.mark.parametrize("section", [{"zero_stage": 1}, {"trust_remote_code": True}])
def test_what_may_start_threads_is_not_forked(
    warm_start: WarmStart, write_spec: Callable[..., StageSpec], section: dict[str, Any]
) -> None:
    assert parent_for(warm_start, write_spec("ok", {"actor_config": section})) is None


def test_for_the_last_stage_alone_no_warm_parent_is_started(
    warm_start: WarmStart, write_spec: Callable[..., StageSpec]
) -> None:
    assert parent_for(warm_start, write_spec("release")) is None
    assert parent_for(warm_start, write_spec("ok")) is parent_for(warm_start, write_spec("release"))


def test_how_a_fork_ends_is_told_as_of_any_child(
    warm_start: WarmStart,
    write_spec: Callable[..., StageSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for stage, code in (("refuses", 2), ("breaks", 1), ("reward_model", OUT_OF_MEMORY)):
        spec = write_spec(stage)
        with pytest.raises(ChildError, match=f"ended with exit code {code}"):
            run(spec, parent_for(warm_start, spec))
    assert isinstance(stage_error(Path(spec.result)), OutOfMemoryError)
    # A kernel that doesn't count its own kills may have done it.
    monkeypatch.setattr(launch, "KERNEL_COUNTS", tmp_path / "absent")
    sections = {"actor_config": {}, "trainer_config": {"rollout_batch_size": 8}}
    killed = write_spec("actor_ppo", sections)
    with pytest.raises(OutOfMemoryError, match="most likely out of memory"):
        run(killed, parent_for(warm_start, killed))
    after = write_spec("leaves_one_behind")
    assert run(after, parent_for(warm_start, after)).leftovers == 1


def test_with_the_warm_parent_ends_its_fork(
    warm_start: WarmStart, write_spec: Callable[..., StageSpec], watch: Any
) -> None:
    spec = write_spec("kills_its_warm_parent")
    with pytest.raises(WarmParentError, match="the warm parent ended with exit code -9"):
        run(spec, parent_for(warm_start, spec))
    assert watch.living(spec.run_folder) == []
    # It stays dead, until the run does without.
    with pytest.raises(WarmParentError, match="exit code -9"):
        run(spec, parent_for(warm_start, spec))
    warm_start.give_up()
    assert parent_for(warm_start, spec) is None
    run(spec, None)
    assert outcome(spec).rows == 1


def test_a_process_with_threads_is_not_copied(
    warm_start: WarmStart, write_spec: Callable[..., StageSpec]
) -> None:
    spec = write_spec("ok")
    threaded = {**ENVIRONMENT, "FAKE_IMPORTS": "thread"}
    with pytest.raises(WarmParentError, match="could not fork: 2 threads are at work in it"):
        run(spec, parent_for(warm_start, spec, threaded))


def test_a_warm_parent_that_cannot_import_says_why(
    warm_start: WarmStart, write_spec: Callable[..., StageSpec]
) -> None:
    spec = write_spec("ok")
    lost = warm_start.parent([*COMMAND[:1], "-m", "nowhere"], spec, Path(spec.result), ENVIRONMENT)
    with pytest.raises(WarmParentError, match=r"exit code 1: .*No module named nowhere"):
        run(spec, lost)


@pytest.mark.parametrize("at", ["importing", "at work"])
def test_an_interrupt_ends_the_fork_or_what_would_fork(
    warm_start: WarmStart, write_spec: Callable[..., StageSpec], watch: Any, at: str
) -> None:
    spec = write_spec("waits_with_a_copy")
    slow = {**ENVIRONMENT, "FAKE_IMPORTS": "slow" if at == "importing" else ""}
    sign = Path(spec.run_folder) / ("importing" if at == "importing" else "at_work")
    warm = parent_for(warm_start, spec, slow)

    def interrupt() -> None:
        if sign.exists():
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(spec, warm, env=slow, poll=interrupt, stop_seconds=0.2)
    finally:
        signal.signal(signal.SIGINT, before)
    warm_start.close()
    assert watch.living(spec.run_folder) == []


PARENT = """
import pathlib, sys
from chatllama_pipeline.launch.child import child_environment, run_child
from chatllama_pipeline.launch.forks import WarmStart
from chatllama_pipeline.records import StageSpec
spec, command, env = pathlib.Path(sys.argv[1]), sys.argv[2:], child_environment(1)
start = WarmStart()
warm = start.parent(command, StageSpec.read(spec), spec, env)
run_child([*command, str(spec)], env=env, log=spec.with_suffix(".log"), warm=warm)
"""


def test_the_warm_parent_and_its_fork_end_with_a_run_that_is_killed(
    write_spec: Callable[..., StageSpec], watch: Any
) -> None:
    spec = write_spec("waits")
    folder = Path(spec.run_folder)
    program = [sys.executable, "-c", PARENT, str(folder / "spec.json"), *COMMAND]
    started = subprocess.Popen(program, start_new_session=True)
    try:
        wait_until((folder / "at_work").exists)
        # The run, its warm parent, and the fork.
        assert len(watch.living(spec.run_folder)) == 3
        started.kill()
        wait_until(lambda: not watch.living(spec.run_folder))
    finally:
        watch.kill_all(spec.run_folder)
        started.wait()


@pytest.mark.slow
def test_a_training_makes_the_same_bytes_forked_and_alone(
    warm_start: WarmStart,
    make_spec: Callable[..., StageSpec],
    tmp_path: Path,
    tiny_base_folder: Path,
    write_table: Any,
) -> None:
    row = {"prompt": [{"role": "user", "content": "alpha bravo"}], "completion": "charlie"}
    rows = [{**row, "source": "test", "split": split} for split in ("train", "validation")]
    table = write_table(tmp_path / "data", rows, ACTOR_SCHEMA)
    inputs = {"actor_base": tiny_base_folder, "actor_training_data": table}
    section = {"model": "local", "max_sequence_length": 64, "batch_size": 1, "max_steps": 4}
    command = Compute().stage_command(tmp_path)[:-1]
    made: dict[str, dict[str, str]] = {}
    for take in ("alone", "first fork", "second fork"):
        spec = make_spec("actor_sft", {"actor_config": section}, inputs, take)
        file = Path(spec.run_folder) / "spec.json"
        file.parent.mkdir()
        spec.write(file)
        warm = None if take == "alone" else warm_start.parent(command, spec, file, ENVIRONMENT)
        log = file.with_suffix(".log")
        run_child([*command, str(file)], env=ENVIRONMENT, log=log, warm=warm)
        files = [path for path in Path(spec.output).rglob("*") if path.is_file()]
        assert any(path.suffix == ".safetensors" for path in files)
        made[take] = {
            str(path.relative_to(spec.output)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        }
    assert made["alone"] == made["first fork"] == made["second fork"]
