"""Stages as jobs of a real Slurm of two nodes: results, refusals, stops, deaths."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from chatllama_pipeline.errors import ChildError, DataError, SettingsError, StoreError
from chatllama_pipeline.launch.jobs import running as jobs
from chatllama_pipeline.launch.jobs.scheduler import NoAnswerError
from chatllama_pipeline.launch.slurm import commands
from chatllama_pipeline.launch.slurm import scheduler as scheduling
from chatllama_pipeline.launch.slurm.script import Wanted
from chatllama_pipeline.llm.client.requests import LlmReply, LlmRequest
from chatllama_pipeline.llm.clients import open_client
from chatllama_pipeline.records import Message
from chatllama_pipeline.settings import AssistantSettings
from resources.compute import Compute
from tests.cluster.losses import STAGES, Alone
from tests.cluster.machines.slurm import Cluster
from tests.cluster.ordeals import bears
from tests.cluster.place import Place, scheduler, when
from tests.cluster.served import serves_and_ends_with_its_command
from tests.cluster.stages import COUNTED

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_a_stage_runs_as_a_job_and_says_what_it_does(slurm: Cluster, place: Place) -> None:
    outcome, metrics = place.run("writes", Wanted(threads=2))

    assert outcome.rows == 1
    assert (place.folder / "published" / "made").read_text() in ("n1", "n2")
    spoken = [line for line in place.said if line.startswith("writes: ")]
    assert [line for line in spoken if "job" not in line] == ["writes: begun", "writes: done"]
    assert metrics["slurm_jobs"] == 1
    assert metrics["node_hours"] > 0
    assert not (place.folder / jobs.JOB_FILE).exists()


def test_what_the_stage_refuses_is_raised_as_it_is(slurm: Cluster, place: Place) -> None:
    with pytest.raises(DataError, match=r"rows.json, row 3: prompt is empty"):
        place.run("refuses", Wanted())


def test_a_stage_that_dies_without_a_word_ends_with_its_state_and_its_log(
    slurm: Cluster, place: Place
) -> None:
    with pytest.raises(ChildError, match=r"ended as FAILED .*exit code 9:0"):
        place.run("dies", Wanted())


NEVER = "would never start "


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (Wanted(partition="none"), "refused the job: .*invalid partition"),
        (Wanted(partition="closed"), "refused the job: .*partition not available"),
        (Wanted(partition="short", time_limit="2:00:00"), rf"{NEVER}\(PartitionTimeLimit\)"),
        (Wanted(partition="theirs", account="ours"), f"{NEVER}.*can't_use_this_part"),
        (Wanted(arguments=["--no-such-option"]), "refused the job: .*unrecognized option"),
        (Wanted(arguments=["--constraint=a100"]), "refused the job: .*invalid feature"),
        (Wanted(gpus=1), r"refused the job: .*invalid generic resource \(gres\)"),
        (Wanted(time_limit="soon"), "refused the job: .*time"),
        (Wanted(memory="900G"), "refused the job: .*memory"),
        (Wanted(threads=64), rf"{NEVER}\(PartitionConfig\)"),
        (Wanted(nodes=3, queue_seconds=60), rf"{NEVER}\(PartitionNodeLimit\)"),
    ],
    ids=[
        *("partition", "closed", "short", "account", "argument", "constraint"),
        *("gpus", "time", "memory", "threads", "nodes"),
    ],
)
def test_what_slurm_refuses_is_told_with_its_reason(
    slurm: Cluster, place: Place, monkeypatch: pytest.MonkeyPatch, wanted: Wanted, told: str
) -> None:
    monkeypatch.setattr(scheduling, "STUCK_SECONDS", 4.0)
    with pytest.raises(SettingsError, match=f"(?i){told}"):
        place.run("writes", wanted)
    # What a cluster may have at another time isn't held against a run that begins.
    early = not told.startswith(NEVER) and wanted.partition != "closed" and not wanted.memory
    with pytest.raises(SettingsError, match=f"(?i){told}") if early else contextlib.nullcontext():
        scheduler(wanted, place.folder).require_taken()
    assert slurm.queue() == []


def test_a_job_that_waits_too_long_is_taken_back_with_the_reason(
    slurm: Cluster, place: Place
) -> None:
    with pytest.raises(ChildError, match=r"has waited .*\(.+\) and was taken back"):
        place.run("writes", Wanted(arguments=["--begin=now+1hour"], queue_seconds=3))
    assert any("waits (" in line for line in place.said)


def test_a_training_that_slurm_stops_goes_on_in_another_job(slurm: Cluster, place: Place) -> None:
    def stop() -> None:
        commands.signal_steps(slurm.queue()[0], "TERM")  # as before a time limit

    when(lambda: place.heard("step 20"), stop)
    outcome, metrics = place.run("counts", Wanted())
    assert outcome.rows == COUNTED
    assert metrics["slurm_jobs"] == 2
    assert sum("asks for another" in line for line in place.said) == 1


def killed_at_work(slurm: Cluster, place: Place) -> None:
    """A run whose process is killed while its job runs."""
    program = (
        "from pathlib import Path;from tests.cluster.place import Place;"
        "from chatllama_pipeline.launch.slurm.script import Wanted;"
        f"Place(Path({str(place.folder)!r})).run('writes', Wanted())"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as first:
        slurm.wait(lambda: "RUNNING" in slurm.said("squeue", "-h", "-o", "%T"))
        first.kill()


def test_a_job_that_ended_while_nobody_looked_is_taken_as_it_is(
    slurm: Cluster, place: Place
) -> None:
    killed_at_work(slurm, place)
    slurm.wait(lambda: slurm.queue() == [])

    place.run("writes", Wanted())
    assert len((place.folder / "starts").read_text().split()) == 1


@pytest.mark.parametrize("hold", ["hold", "uhold", "--hold"])
def test_a_job_that_somebody_holds_waits_until_it_is_released(
    slurm: Cluster, place: Place, hold: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "WAITING_SECONDS", 0.0)
    asked = [hold] if hold == "--hold" else ["--begin=now+1hour"]

    def held() -> None:
        (job,) = slurm.queue()
        slurm.said("scontrol", hold, job)
        slurm.said("scontrol", "update", f"jobid={job}", "starttime=now")

    def release() -> None:
        slurm.said("scontrol", "release", *slurm.queue())

    if hold != "--hold":
        when(lambda: place.heard("waits (BeginTime)"), held)
    when(lambda: place.heard("`scontrol release"), release)
    assert place.run("writes", Wanted(arguments=asked))[0].rows == 1
    assert place.heard("holds it: `scontrol release")


def test_a_controller_that_is_started_again_loses_no_job(slurm: Cluster, place: Place) -> None:
    def restart() -> None:
        slurm.write_down(*slurm.queue())
        slurm.kill("slurmctld")
        slurm.start_controller()
        (place.folder / "go").touch()

    when(lambda: place.heard("step 10"), restart)
    assert place.run("counts", Wanted())[0].rows == COUNTED


def test_a_controller_that_forgot_that_a_job_runs_starts_it_again_and_it_goes_on(
    slurm: Cluster, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where it is quicker than the node it finds the job there already, and holds it.
    monkeypatch.setattr(scheduling, "RELEASE_SECONDS", 10.0)
    kept: list[Path] = []

    def begin() -> None:
        kept.append(slurm.write_down(*slurm.queue()))
        slurm.begin(*slurm.queue())

    def forget() -> None:
        [job] = slurm.queue()
        slurm.forget_until(kept[0])
        slurm.begin(job)
        (place.folder / "go").touch()

    when(lambda: place.heard("waits (BeginTime)"), begin)
    when(lambda: place.heard("step 10"), forget)
    outcome, _ = place.run("counts", Wanted(arguments=["--begin=now+1hour"]))
    assert outcome.rows == COUNTED
    assert len([line for line in place.said if "goes on after step" in line]) == 2


def test_a_controller_that_is_away_is_told_and_the_next_run_goes_on(
    slurm: Cluster, place: Place
) -> None:
    slurm.end_controller()
    try:
        with pytest.raises(NoAnswerError, match=r"Unable to contact .* Run again when it is"):
            place.run("writes", Wanted())
    finally:
        slurm.start_controller()
    assert place.run("writes", Wanted())[0].rows == 1


@pytest.mark.skipif(shutil.which("faketime") is None, reason="no faketime: apt-get install it")
def test_a_machine_whose_clock_is_minutes_apart_is_told_so(
    slurm: Cluster, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with slurm.clock_apart() as config, monkeypatch.context() as there:
        there.setenv("SLURM_CONF", str(config))
        with pytest.raises(SettingsError, match=r"doesn't trust this machine. Compare .*clocks"):
            place.run("writes", Wanted())
    assert not (place.folder / jobs.JOB_FILE).exists()


def test_a_disk_that_is_full_on_a_node_is_told_with_its_name_and_the_cure(
    slurm: Cluster, place: Place
) -> None:
    disk = place.folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a disk")
    try:
        told = r"no room on a disk of \S+: .*No space left .* Free some and run it again"
        with pytest.raises(StoreError, match=told):
            place.run("fills_a_disk", Wanted())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_node_without_the_project_says_so(
    slurm: Cluster, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatllama_pipeline.launch.jobs.node_script.PYTHON", "/no/python")
    with pytest.raises(ChildError, match=r"(?s)ended as FAILED .*has no \S*/no/python"):
        place.run("writes", Wanted())


def test_a_node_with_another_version_of_the_project_refuses(
    slurm: Cluster, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatllama_pipeline.launch.source.source_fingerprint", lambda: "other")
    with pytest.raises(SettingsError, match="has another version of the project"):
        place.run("writes", Wanted())


def test_a_model_of_llm_is_a_job_that_ends_with_its_client(
    slurm: Cluster, tmp_path: Path, alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "store"))
    model = str(alone.inputs / "actor_sft")
    settings = AssistantSettings.model_validate(
        {"llm": {"provider": "transformers", "model": model}}
    )
    role = settings.role("writer")
    asked = LlmRequest((Message("user", "alpha"),), temperature=0.0, max_tokens=4)
    with (
        Compute(launcher="slurm").machine(dg.build_asset_context(), role) as machine,
        open_client(role, tmp_path / "run", machine=machine) as client,
    ):
        [answer] = client.answer([asked])
        assert isinstance(answer, LlmReply)
        assert len(slurm.queue()) == 1
    assert slurm.queue() == []


def test_a_release_is_served_by_a_job_that_ends_with_the_command(
    slurm: Cluster, tmp_path: Path, tiny_base_folder: Path
) -> None:
    serves_and_ends_with_its_command(tmp_path, tiny_base_folder, {"launcher": "slurm"})
    assert slurm.queue() == []


@pytest.mark.parametrize("stage", STAGES)
def test_two_nodes_bear_a_cancel_a_killed_run_and_a_lost_node_and_learn_what_one_process_learns(
    slurm: Cluster, tmp_path: Path, alone: Alone, stage: str
) -> None:
    def lose(place: Place, job: str) -> None:
        slurm.lose("n2", job, told=stage != "actor_sft")
        slurm.start_node("n2")

    bears(alone, stage, tmp_path / "nodes", Wanted(nodes=2), lose)
