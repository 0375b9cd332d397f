"""Stages as child processes of a Dagster asset: results, progress, refusals."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from chatllama_pipeline.errors import (
    CheckError,
    ChildError,
    DataError,
    OutOfMemoryError,
    SettingsError,
)
from chatllama_pipeline.launch import child as launch
from chatllama_pipeline.launch.forks import CAN_FORK
from chatllama_pipeline.records import Check, Curve, Outcome, StageSpec
from resources.compute import Compute
from tests.quick import quick_instance
from tests.waiting import wait_until

FAKE_STAGES = Path(__file__).parents[1] / "programs" / "fake_stages.py"


class FakeCompute(Compute):
    """Runs stages of the tests' own, by the same path as the real ones."""

    def stage_command(self, spec_path: Path) -> list[str]:
        return [sys.executable, str(FAKE_STAGES), str(spec_path)]


def spec_for(stage: str, folder: Path) -> StageSpec:
    return StageSpec(
        stage=stage,
        assistant="quickstart",
        settings={"seed": 7} | ({"trainer_config": {}} if stage == "actor_ppo" else {}),
        inputs={},
        output=str(folder),
        run_folder=str(folder),
        result=str(folder / "result.json"),
    )


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with quick_instance() as instance:
        yield instance


@pytest.fixture
def run_stage(
    tmp_path: Path, instance: dg.DagsterInstance
) -> Callable[..., tuple[Outcome, float, list[str]]]:
    """Runs a stage inside a materialized asset; gives outcome, seconds, and log lines."""

    def run(stage: str, **resource: Any) -> tuple[Outcome, float, list[str]]:
        got: list[tuple[Outcome, float]] = []

        @dg.asset
        def staged(
            context: dg.AssetExecutionContext, compute: FakeCompute
        ) -> dg.MaterializeResult[None]:
            got.append(
                compute.run_stage(context, spec_for(stage, tmp_path), tmp_path / "spec.json")
            )
            return dg.MaterializeResult()

        compute = FakeCompute(**{"device": "cpu", **resource})
        result = dg.materialize([staged], resources={"compute": compute}, instance=instance)
        logs = [log.user_message for log in instance.all_logs(result.run_id)]
        return *got[0], logs

    return run


def test_an_outcome_comes_back_as_it_was(run_stage: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("of an earlier try")

    begun = time.monotonic()
    outcome, seconds, _ = run_stage("ok", threads=1)

    # The peak of a process that imported nothing large.
    assert 0 < outcome.metrics.pop("peak_gib") < 1
    assert outcome == Outcome(
        rows=3,
        metrics={"loss": 0.5, "seed": 7},
        checks=[Check("finite", True, True, 1.0, 1.0, "the loss is finite")],
        curves=[Curve("loss", [(1.0, 2.0), (2.0, 0.5)])],
        warnings=["few rows"],
    )
    assert 0 < seconds <= time.monotonic() - begun
    assert StageSpec.read(tmp_path / "spec.json").threads == 1
    assert not list(tmp_path.glob("*.unfinished*"))


def test_progress_reaches_dagster_while_the_child_works(
    run_stage: Callable[..., Any], instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    def has_begun() -> bool:
        (run,) = instance.get_runs(limit=1)
        return any(log.user_message == "heard: begun" for log in instance.all_logs(run.run_id))

    def listen() -> None:
        wait_until(has_begun)
        (tmp_path / "heard").touch()

    # Told at the end, the first line would never be heard, and the stage never end.
    listening = threading.Thread(target=listen, daemon=True)
    listening.start()
    _, _, logs = run_stage("heard")
    listening.join()

    assert [text for text in logs if text.startswith("heard: ")] == ["heard: begun", "heard: done"]
    assert (tmp_path / "spec.log").read_text() == "heard: begun\nheard: done\n"


def test_two_processes_are_two_ranks_of_which_one_speaks_and_each_leaves_its_group(
    run_stage: Callable[..., Any], tmp_path: Path
) -> None:
    outcome, _, logs = run_stage("joins", processes=2, threads=2)

    assert outcome.metrics.pop("peak_gib") > 0
    assert outcome == Outcome()
    assert logs.count("joins: only rank 0 speaks") == 1
    assert (tmp_path / "spec.log").read_text().count("only rank 0 speaks") == 1
    assert StageSpec.read(tmp_path / "spec.json").threads == 1
    exits = sorted(tmp_path.glob("in_a_group_at_exit_*"))
    assert [path.read_text() for path in exits] == ["False", "False"]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_refusal_is_raised_as_its_class_with_its_message_alone(
    run_stage: Callable[..., Any], tmp_path: Path, processes: int
) -> None:
    with pytest.raises(DataError) as raised:
        run_stage("refuses", processes=processes)

    assert str(raised.value) == "rows.json, row 3: prompt is empty: write one"
    log = (tmp_path / "spec.log").read_text()
    assert "error: rows.json, row 3: prompt is empty: write one\n" in log
    assert processes == 2 or "Traceback" not in log


def test_a_failed_check_comes_back_with_its_numbers(run_stage: Callable[..., Any]) -> None:
    with pytest.raises(CheckError, match="needs 9 GiB") as raised:
        run_stage("fails_a_check")
    [check] = raised.value.checks
    assert check == Check("memory_plan", False, True, 9.0, 4.0, "needs 9 GiB, 4 are free")


def test_a_refusal_of_an_earlier_try_is_forgotten(run_stage: Callable[..., Any]) -> None:
    with pytest.raises(DataError):
        run_stage("refuses")
    with pytest.raises(ChildError, match="exit code 1"):
        run_stage("breaks")


def test_a_defect_shows_its_traceback(run_stage: Callable[..., Any]) -> None:
    with pytest.raises(ChildError) as raised:
        run_stage("breaks")

    assert "exit code 1" in str(raised.value)
    assert str(raised.value).endswith("ZeroDivisionError: a defect")


def test_an_unknown_stage_lists_those_there_are(run_stage: Callable[..., Any]) -> None:
    with pytest.raises(SettingsError, match="unknown stage 'actor_dpo': use one of ok, heard,"):
        run_stage("actor_dpo")


def test_a_training_that_runs_out_of_memory_tries_with_half_until_it_fits(
    run_stage: Callable[..., Any], tmp_path: Path
) -> None:
    outcome, _, logs = run_stage("actor_sft")
    assert outcome.metrics["rows"] == 2
    fitted = "ran out of memory at micro_batch_size 4, 2 fitted: set it in config.yaml"
    assert outcome.warnings == ["its own", fitted]
    tries = [text for text in logs if "tries again" in text]
    assert [text.partition(": ")[2] for text in tries] == [
        "tries again with 4, from its last state",
        "tries again with 2, from its last state",
    ]
    assert tries[0].startswith("actor_sft ran out of memory at micro_batch_size 8:")


def test_a_training_that_the_kernel_kills_tries_with_half_as_well(
    run_stage: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It kills itself: a kernel that doesn't count its own kills may have done it.
    monkeypatch.setattr(launch, "KERNEL_COUNTS", tmp_path / "absent")
    outcome, _, logs = run_stage("actor_ppo", processes=2)
    # 32 prompts over two processes are 16 rows a process, of which it chose 8 by itself.
    tries = [text for text in logs if "tries again" in text]
    assert [text.partition(": ")[2] for text in tries] == [
        "tries again with 4, from its last state"
    ]
    assert (outcome.metrics["rows"], outcome.metrics["rollouts"]) == (4, 8)


def test_where_one_row_is_too_much_the_error_says_what_would_fit(
    run_stage: Callable[..., Any],
) -> None:
    with pytest.raises(OutOfMemoryError, match=r"no more") as raised:
        run_stage("reward_model")
    assert "reward_config.peft_enable: true, shard by reward_config.zero_stage" in str(raised.value)


def test_out_of_memory_has_an_exit_code_of_its_own(tmp_path: Path) -> None:
    spec_for("reward_model", tmp_path).write(tmp_path / "spec.json")
    command = FakeCompute().stage_command(tmp_path / "spec.json")
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 71
    assert "error: reward_model ran out of memory: no more" in ended.stderr


def test_processes_that_a_stage_left_are_told_of(run_stage: Callable[..., Any]) -> None:
    _, _, logs = run_stage("leaves_one_behind")
    assert "leaves_one_behind left processes running, which were ended: 1" in [
        text for text in logs
    ]


@pytest.mark.skipif(not CAN_FORK, reason="forks on Linux alone")
def test_where_the_warm_parent_is_killed_the_stage_starts_again_alone(
    run_stage: Callable[..., Any], tmp_path: Path
) -> None:
    outcome, _, logs = run_stage("kills_its_warm_parent")
    assert outcome.rows == 1
    told = "the warm parent ended with exit code -9; kills_its_warm_parent starts in a process of"
    assert [text for text in logs if text.startswith(told)]


@pytest.mark.skipif(not CAN_FORK, reason="forks on Linux alone")
@pytest.mark.parametrize("wanted", [True, False])
def test_a_stage_is_forked_unless_the_run_is_told_otherwise(
    run_stage: Callable[..., Any], tmp_path: Path, wanted: bool, watch: Any
) -> None:
    outcome, _, _ = run_stage("describes", warm_parent=wanted)
    assert outcome.metrics["forked"] is wanted
    assert (tmp_path / "warm.log").exists() is wanted
    assert watch.living(str(tmp_path)) == []


def test_torch_has_the_threads_of_the_spec(run_stage: Callable[..., Any]) -> None:
    outcome, _, _ = run_stage("threads", threads=1)
    assert outcome.metrics["torch_threads"] == 1


def test_the_same_command_works_by_hand(tmp_path: Path) -> None:
    (tmp_path / "heard").touch()
    spec_for("heard", tmp_path).write(tmp_path / "spec.json")
    command = FakeCompute().stage_command(tmp_path / "spec.json")
    env = {"PATH": os.environ["PATH"]}

    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stdout) == (0, "heard: begun\nheard: done\n")
    outcome = Outcome.read(tmp_path / "result.json")
    assert list(outcome.metrics) == ["peak_gib"]


def test_the_real_stages_start_by_the_package_itself(tmp_path: Path) -> None:
    spec_for("actor_dpo", tmp_path).write(tmp_path / "spec.json")
    command = Compute().stage_command(tmp_path / "spec.json")

    ended = subprocess.run(command, capture_output=True, text=True, check=False)

    assert ended.returncode == 2
    assert ended.stderr == (
        "error: unknown stage 'actor_dpo': use one of actor_base, reward_base, reward_model, "
        "actor_sft, actor_ppo, evaluation, release\n"
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"device": "gpu"}, r"compute\.device is 'gpu': use one of auto, cpu, cuda"),
        ({"threads": -1}, r"compute\.threads is -1: use 0 or more"),
        ({"processes": 0}, r"compute\.processes is 0: use 1 or more"),
    ],
)
def test_a_wrong_setting_names_its_value_and_the_cure(
    run_stage: Callable[..., Any], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        run_stage("ok", **settings)
