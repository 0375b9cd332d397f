"""The reward model and the actor at once, where GPUs are there for both: errors, ends, resumes."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.models import actor_ppo, actor_sft, reward_model
from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.gpus import Gpu
from chatllama_pipeline.store.versions import Store
from resources import compute
from resources.compute import Compute
from resources.executor import one_process
from resources.run_options import RunOptions
from resources.store import StoreResource
from tests.automation.made import make_versions, write_assistant
from tests.quick import quick_instance
from tests.waiting import wait_until

NAME = "mine"
TRAINED = ("reward_model", "actor_sft", "actor_ppo")
STAGES = Path(__file__).parents[1] / "programs" / "trainings.py"


class QuickCompute(Compute):
    """The real processes and leases, and stages that end at once."""

    def stage_command(self, spec_path: Path) -> list[str]:
        return [sys.executable, str(STAGES), str(spec_path)]


def trainings_job() -> dg.JobDefinition:
    located = dg.Definitions(
        assets=[reward_model, actor_sft, actor_ppo],
        resources={
            "compute": QuickCompute.configure_at_launch(),
            "store": StoreResource(),
            "run_options": RunOptions(),
        },
        jobs=[dg.define_asset_job("trainings", selection=dg.AssetSelection.all())],
        executor=one_process,
    )
    return located.resolve_job_def("trainings")


def gpus(count: int) -> Callable[[], Sequence[Gpu]]:
    return lambda: [Gpu(f"gpu{number}", (str(number),), "H") for number in range(count)]


class Trial:
    """An assistant with everything made but its trainings, and runs of these."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        self.folder, self.instance = folder, instance
        self.store = Store(folder / "storage")
        self.leases = folder / "leases"

    def set(self, *files: str) -> None:
        """How the stages behave from here on."""
        for path in self.folder.glob("*"):
            if path.is_file():
                path.unlink()
        for file in files:
            (self.folder / file).touch()

    def run(self, failed: str | None = None, **settings: Any) -> dg.DagsterRun:
        """A run of all three, or of what failed in another."""
        config = {"lease_folder": str(self.leases), "device": "auto", **settings}
        again = dg.ReexecutionOptions.from_failure(failed, self.instance) if failed else None
        done = dg.execute_job(
            dg.reconstructable(trainings_job),
            self.instance,
            {"resources": {"compute": {"config": config}}, "loggers": {"console": {}}},
            tags={"dagster/partition": NAME},
            reexecution_options=again,
        )
        found = self.instance.get_run_by_id(done.run_id)
        assert found is not None
        return found

    def made(self) -> dict[str, dict[str, Any]]:
        """What each training that is in use says of itself."""
        there = [asset for asset in TRAINED if self.store.current(asset, NAME)]
        read = {asset: self.store.read(asset, NAME).path / "weights" for asset in there}
        return {asset: json.loads(path.read_text()) for asset, path in read.items()}

    def failures(self, run: dg.DagsterRun) -> dict[str, str]:
        """What the steps say that failed in a run."""
        found = self.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
        events = [entry.dagster_event for entry in found if entry.dagster_event]
        errors = {str(each.step_key): each.step_failure_data.error for each in events}
        return {step: error.message if error else "" for step, error in errors.items()}


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trial]:
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(tmp_path / "assistants"))
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "storage"))
    monkeypatch.setenv("TRIAL_FOLDER", str(tmp_path))
    monkeypatch.setattr(compute, "usable_gpus", gpus(2))
    write_assistant(tmp_path / "assistants" / NAME)
    with quick_instance() as instance:
        instance.add_dynamic_partitions("assistant", [NAME])
        trial = Trial(tmp_path, instance)
        make_versions(trial.store, NAME, all_but=(*TRAINED, "evaluation", "release"))
        yield trial


def test_two_trainings_that_do_not_need_each_other_have_a_gpu_each_at_once(trial: Trial) -> None:
    trial.set("meet")
    assert trial.run().is_success
    made = trial.made()
    assert {made["reward_model"]["gpu"], made["actor_sft"]["gpu"]} == {"gpu0", "gpu1"}
    assert set(made) == set(TRAINED)


@pytest.mark.parametrize(
    ("count", "settings", "room"),
    [
        (2, {}, True),
        (4, {"processes": 2}, True),
        (3, {"processes": 2}, False),
        (1, {}, False),
        (0, {}, False),
        (2, {"side_by_side": False}, False),
        (2, {"device": "cpu"}, False),
        (2, {"launcher": "slurm"}, False),
    ],
)
def test_there_is_room_for_two_where_each_has_gpus_for_its_processes(
    monkeypatch: pytest.MonkeyPatch, count: int, settings: dict[str, Any], room: bool
) -> None:
    monkeypatch.setattr(compute, "usable_gpus", gpus(count))
    assert Compute(**settings).has_room_for(2) == room


def test_a_driver_that_does_not_answer_is_the_stages_to_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def silent() -> Sequence[Gpu]:
        raise SettingsError("the driver doesn't answer")

    monkeypatch.setattr(compute, "usable_gpus", silent)
    assert not Compute().has_room_for(2)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "settings"), [(1, {}), (2, {"device": "cpu"})])
def test_without_gpus_for_both_one_is_trained_after_the_other(
    trial: Trial, monkeypatch: pytest.MonkeyPatch, count: int, settings: dict[str, Any]
) -> None:
    monkeypatch.setattr(compute, "usable_gpus", gpus(count))
    assert trial.run(**settings).is_success
    assert [each["beside"] for each in trial.made().values()] == [[]] * 3


@pytest.mark.parametrize(
    ("fails", "ends"),
    [
        ("reward_model", "actor_sft"),
        pytest.param("actor_sft", "reward_model", marks=pytest.mark.slow),
    ],
)
def test_one_that_fails_leaves_the_other_to_its_end_and_alone_is_made_again(
    trial: Trial, fails: str, ends: str
) -> None:
    trial.set("meet", f"{fails}.fails")
    failed = trial.run()
    assert not failed.is_success
    assert trial.failures(failed) == {
        fails: f"resources.refusals.Refused: {fails} can't be trained on this: mend the rows\n"
    }
    assert set(trial.made()) == {ends}
    kept = trial.store.read(ends, NAME).id

    trial.set()
    again = trial.run(failed.run_id)
    assert again.is_success
    assert set(again.step_keys_to_execute or []) == {fails, "actor_ppo"}
    assert set(trial.made()) == set(TRAINED)
    assert trial.store.read("actor_ppo", NAME).manifest.upstream[ends] == kept


def test_an_interrupt_ends_both_with_their_states_and_the_next_run_takes_both_up(
    trial: Trial,
) -> None:
    trial.set("hang")

    def interrupt() -> None:
        begun = ("reward_model.at_work", "actor_sft.at_work")
        wait_until(lambda: all((trial.folder / name).exists() for name in begun))
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    ended = trial.run()
    assert ended.status == dg.DagsterRunStatus.FAILURE  # nobody asked Dagster to cancel it
    told = trial.failures(ended)
    assert set(told) == {"reward_model", "actor_sft"}
    assert all("was stopped, since the run is being ended" in text for text in told.values())
    assert trial.made() == {}

    trial.set("meet")
    assert trial.run().is_success
    continued = {asset: each["continued"] for asset, each in trial.made().items()}
    assert continued == {"reward_model": "half of it", "actor_sft": "half of it", "actor_ppo": ""}
