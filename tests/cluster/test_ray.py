"""Stages as jobs of a real Ray cluster: results, refusals, stops, deaths."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.resume import Trial
from chatllama_pipeline.errors import ChildError, DataError, OutOfMemoryError, SettingsError
from chatllama_pipeline.launch.jobs import running as jobs
from chatllama_pipeline.launch.ray.wanted import Wanted
from tests.cluster.losses import STAGES, Alone, assert_same_losses
from tests.cluster.machines.ray_nodes import ADDRESSES, Nodes
from tests.cluster.place import Place, when
from tests.cluster.served import serves_and_ends_with_its_command
from tests.cluster.stages import COUNTED

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def at_work(place: Place) -> list[psutil.Process]:
    """The processes of a place's stage."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(place.folder / "spec.json") in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def job_of(place: Place) -> str:
    """The job whose id stands in the run folder."""
    told = json.loads((place.folder / jobs.JOB_FILE).read_text())
    return str(told["id"])


def node_of(place: Place) -> str:
    """A node of the job's, though not the cluster's head."""
    status = json.loads((place.folder / f"{job_of(place)}.json").read_text())
    addresses = status["nodes"].split(", ")
    return next(n for n, address in ADDRESSES.items() if n != "n1" and address in addresses)


def test_a_stage_runs_as_a_job_and_says_what_it_does(nodes: Nodes, place: Place) -> None:
    outcome, metrics = place.run("writes", Wanted(address=nodes.address))

    assert outcome.rows == 1
    spoken = [line for line in place.said if line.startswith("writes: ")]
    assert [line for line in spoken if "job" not in line] == ["writes: begun", "writes: done"]
    assert (metrics["ray_jobs"], metrics["ray_restarts"]) == (1, 0)
    assert metrics["ray_nodes"] in ADDRESSES.values()
    assert metrics["node_hours"] > 0
    assert not (place.folder / jobs.JOB_FILE).exists()


def test_what_the_stage_refuses_is_raised_as_it_is(nodes: Nodes, place: Place) -> None:
    with pytest.raises(DataError, match=r"rows.json, row 3: prompt is empty"):
        place.run("refuses", Wanted(address=nodes.address))


def test_a_stage_that_dies_without_a_word_ends_with_its_reason_and_its_log(
    nodes: Nodes, place: Place
) -> None:
    with pytest.raises(ChildError, match=r"(?s)ended as FAILED: .*exit code 9.*dies: last words"):
        place.run("dies", Wanted(address=nodes.address))


def test_a_stage_that_is_killed_for_memory_says_so(
    nodes: Nodes, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A node whose kernel doesn't count whom it killed for memory.
    here = place.folder / "customized"
    here.mkdir()
    (here / "sitecustomize.py").write_text(
        "import pathlib, chatllama_pipeline.launch.child as child\n"
        "child.KERNEL_COUNTS = pathlib.Path('/absent')\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{here}:{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(OutOfMemoryError, match="most likely out of memory"):
        place.run("is_killed", Wanted(address=nodes.address))


def test_a_stage_that_a_signal_ended_says_which(nodes: Nodes, place: Place) -> None:
    with pytest.raises(ChildError, match="SIGKILL, though not by the kernel"):
        place.run("is_killed", Wanted(address=nodes.address))


def test_an_address_without_a_cluster_is_told_with_the_cure(place: Place) -> None:
    pytest.importorskip("ray")
    with pytest.raises(SettingsError, match=r"'127.0.0.1:9': Connection.*--num-cpus=0"):
        place.run("writes", Wanted(address="127.0.0.1:9"))


def test_a_node_with_another_version_of_the_project_refuses(
    nodes: Nodes, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatllama_pipeline.launch.source.source_fingerprint", lambda: "other")
    with pytest.raises(SettingsError, match="has another version of the project"):
        place.run("writes", Wanted(address=nodes.address))


def test_a_node_without_the_project_says_so(
    nodes: Nodes, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatllama_pipeline.launch.jobs.node_script.PYTHON", "/no/python")
    told = r"(?s)ended as FAILED: ended with exit code 127.*has no \S*/no/python"
    with pytest.raises(ChildError, match=told):
        place.run("writes", Wanted(address=nodes.address))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"threads": 64}, "1 node.s. with 64 CPU each, .* 0 of them among 2: .*2 CPU"),
        ({"gpus": 1}, "1 CPU, 1 GPU each, and the cluster has 0"),
        ({"resources": {"tpu": 1}}, "1 tpu each, and the cluster has 0"),
    ],
    ids=["threads", "gpus", "resources"],
)
def test_what_the_cluster_will_never_have_is_told_with_what_it_has(
    nodes: Nodes, asked: dict[str, Any], told: str
) -> None:
    bundle = Wanted(**{"threads": 1, **asked}).of_each_node
    plan = {"grows": False, "nodes": 1, "bundle": bundle}
    with pytest.raises(SettingsError, match=told):
        nodes.client.ask("submit", name="refused", plan=plan)


def test_what_the_cluster_will_never_have_is_refused_at_once(nodes: Nodes, place: Place) -> None:
    told = "Ray refused the job: .* 3 node.s. with 1 CPU each, and the cluster has 2 of them"
    with pytest.raises(SettingsError, match=told):
        place.run("writes", Wanted(address=nodes.address, nodes=3))
    assert not (place.folder / jobs.JOB_FILE).exists()


def test_a_cluster_that_grows_is_waited_for(nodes: Nodes, place: Place) -> None:
    asked = Wanted(address=nodes.address, resources={"later": 1}, grows=True)
    grown = when(
        lambda: place.heard("waits (for 1 node(s) with 1 CPU, 1 later"),
        lambda: nodes.add("n3", resources={"later": 1}),
    )
    assert place.run("writes", asked)[0].rows == 1
    grown.join()


def test_a_job_that_waits_too_long_is_taken_back_with_the_reason(
    nodes: Nodes, place: Place
) -> None:
    asked = Wanted(address=nodes.address, resources={"never": 1}, grows=True, queue_seconds=3)
    with pytest.raises(ChildError, match=r"has waited .*\(for 1 node.*\) and was taken back"):
        place.run("writes", asked)


def test_an_interrupt_has_the_stage_save_and_leaves_no_job(nodes: Nodes, place: Place) -> None:
    asked = Wanted(address=nodes.address)
    when(lambda: place.heard("step 15"), lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        place.run("counts", asked)
    assert at_work(place) == []
    assert not (place.folder / jobs.JOB_FILE).exists()
    saved = int((place.folder / "state").read_text())
    assert saved >= 15

    outcome, _ = place.run("counts", asked)
    assert outcome.rows == COUNTED
    assert f"counts: goes on after step {saved}" in place.said


def test_a_training_that_is_stopped_on_its_node_goes_on_in_another_job(
    nodes: Nodes, place: Place
) -> None:
    def stop() -> None:
        at_work(place)[-1].send_signal(signal.SIGTERM)

    when(lambda: place.heard("step 20"), stop)
    outcome, metrics = place.run("counts", Wanted(address=nodes.address))
    assert outcome.rows == COUNTED
    assert metrics["ray_jobs"] == 2
    assert sum("asks for another" in line for line in place.said) == 1


def killed_at_work(nodes: Nodes, place: Place) -> None:
    """A run whose process is killed while its job runs."""
    program = (
        "from pathlib import Path;from tests.cluster.place import Place;"
        "from chatllama_pipeline.launch.ray.wanted import Wanted;"
        f"Place(Path({str(place.folder)!r})).run('writes', Wanted(address={nodes.address!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as first:
        nodes.wait(lambda: at_work(place) != [])
        first.kill()


def test_a_job_that_outlives_its_run_is_found_and_not_started_twice(
    nodes: Nodes, place: Place
) -> None:
    killed_at_work(nodes, place)
    job = job_of(place)

    outcome, metrics = place.run("writes", Wanted(address=nodes.address))
    assert outcome.rows == 1
    assert metrics["ray_job"] == job
    assert (place.folder / "starts").read_text().split() == [job]


def test_a_job_that_ended_while_nobody_looked_is_taken_as_it_is(nodes: Nodes, place: Place) -> None:
    killed_at_work(nodes, place)
    nodes.wait(lambda: at_work(place) == [] and "4 CPU" in nodes.free())

    place.run("writes", Wanted(address=nodes.address))
    assert len((place.folder / "starts").read_text().split()) == 1


def test_a_lost_node_costs_what_was_done_since_the_last_state(nodes: Nodes, place: Place) -> None:
    nodes.add("n3")
    when(lambda: place.heard("step 25"), lambda: nodes.lose(node_of(place)))
    asked = Wanted(address=nodes.address, resources={"may_be_lost": 1})
    outcome, metrics = place.run("counts", asked)
    assert outcome.rows == COUNTED
    assert metrics["ray_restarts"] == 1
    assert any("goes on after step " in line and "step 0" not in line for line in place.said)


def test_a_training_of_two_nodes_goes_on_on_another_where_one_is_lost(
    nodes: Nodes, tmp_path: Path, alone: Alone
) -> None:
    nodes.add("n3")
    spec = Trial("actor_sft", steps=200).spec(alone.inputs, tmp_path / "nodes")
    place, saved = Place(tmp_path / "nodes"), Path(spec.run_folder) / "state"
    when(lambda: any(saved.glob("*.json")), lambda: nodes.lose(node_of(place)))
    _, metrics = place.train(spec, Wanted(address=nodes.address, nodes=2))
    assert metrics["ray_restarts"] == 1
    assert place.heard("continues ")


def test_a_job_goes_on_whose_supervisor_is_lost(nodes: Nodes, place: Place) -> None:
    def lose() -> None:
        supervisors = [p for p in psutil.process_iter() if "ray::Supervisor" in p.name()]
        assert supervisors
        for process in supervisors:
            process.kill()

    when(lambda: place.heard("step 15"), lose)
    outcome, metrics = place.run("counts", Wanted(address=nodes.address))
    assert outcome.rows == COUNTED
    assert (metrics["ray_jobs"], metrics["ray_restarts"]) == (1, 1)
    assert re.search(r"goes on after step [123]0\b", "\n".join(place.said))


def test_a_job_that_vanishes_is_told(
    nodes: Nodes, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "COME_BACK_SECONDS", 2.0)

    def vanish() -> None:
        nodes.client.ask("kill", name=job_of(place))

    when(lambda: place.heard("step 5"), vanish)
    with pytest.raises(ChildError, match=r"is gone, and counts left no result: look at .*spec.log"):
        place.run("counts", Wanted(address=nodes.address))
    nodes.wait(lambda: at_work(place) == [])


def test_a_job_sees_the_devices_that_ray_gives_it(nodes: Nodes, place: Place) -> None:
    nodes.add("n3", num_gpus=2)
    outcome, _ = place.run("writes", Wanted(address=nodes.address, gpus=2))
    assert outcome.metrics["devices"] == "0,1"


def test_a_release_is_served_by_a_job_that_ends_with_the_command(
    nodes: Nodes, tmp_path: Path, tiny_base_folder: Path
) -> None:
    compute = {"launcher": "ray", "ray": {"address": nodes.address}}
    serves_and_ends_with_its_command(tmp_path, tiny_base_folder, compute)


@pytest.mark.parametrize("stage", STAGES)
def test_two_nodes_learn_what_one_process_learns(
    nodes: Nodes, tmp_path: Path, alone: Alone, stage: str
) -> None:
    assert_same_losses(alone, stage, tmp_path, Wanted(address=nodes.address, nodes=2))
