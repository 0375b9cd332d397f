"""Whole stages as jobs of a cluster whose API server and nodes are the tests' own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chatllama_pipeline.errors import DataError, SettingsError
from chatllama_pipeline.launch.jobs import running as jobs
from chatllama_pipeline.launch.kubernetes.wanted import Wanted
from tests.cluster.losses import STAGES, Alone
from tests.cluster.ordeals import bears
from tests.cluster.place import Place, when
from tests.cluster.stages import COUNTED
from tests.launch.kubernetes.at_hand import found, started
from tests.launch.kubernetes.cluster import IMAGE, Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture(scope="session")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with started(tmp_path_factory.mktemp("kubernetes")) as cluster:
        yield cluster


@pytest.fixture
def kube(pods: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with found(pods, tmp_path, monkeypatch):
        yield pods


def wanted(place: Place, nodes: int = 1, **more: object) -> Wanted:
    mount = str(place.folder)
    return Wanted(nodes=nodes, image=IMAGE, claim="chatllama", mount_path=mount, **more)  # type: ignore[arg-type]


def test_a_stage_runs_as_a_job_and_says_what_it_does(kube: Cluster, place: Place) -> None:
    outcome, metrics = place.run("writes", wanted(place, threads=2))

    assert (outcome.rows, outcome.metrics["threads"]) == (1, 2)
    assert (place.folder / "published" / "made").read_text() == "n1"
    spoken = [line for line in place.said if line.startswith("writes: ")]
    assert [line for line in spoken if "job" not in line] == ["writes: begun", "writes: done"]
    assert (metrics["kubernetes_jobs"], metrics["kubernetes_nodes"]) == (1, "n1")
    assert metrics["node_hours"] > 0
    assert not (place.folder / jobs.JOB_FILE).exists()


def test_what_the_stage_refuses_is_raised_as_it_is(kube: Cluster, place: Place) -> None:
    with pytest.raises(DataError, match=r"rows.json, row 3: prompt is empty"):
        place.run("refuses", wanted(place))


def test_a_node_with_another_version_of_the_project_refuses(
    kube: Cluster, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatllama_pipeline.launch.source.source_fingerprint", lambda: "other")
    with pytest.raises(SettingsError, match="has another version of the project"):
        place.run("writes", wanted(place))


def test_a_time_limit_has_the_stage_save_and_another_job_goes_on(
    kube: Cluster, place: Place
) -> None:
    when(lambda: place.heard("step 20"), kube.reach_time_limit)
    outcome, metrics = place.run("counts", wanted(place, time_limit_seconds=3600.0))
    assert outcome.rows == COUNTED
    assert metrics["kubernetes_jobs"] == 2
    assert any("asks for another" in line for line in place.said)


def test_a_node_that_is_drained_has_the_stage_save_and_go_on_elsewhere(
    kube: Cluster, place: Place
) -> None:
    when(lambda: place.heard("step 25"), lambda: kube.drain("n1"))
    outcome, metrics = place.run("counts", wanted(place))
    assert outcome.rows == COUNTED
    assert (metrics["kubernetes_jobs"], metrics["kubernetes_restarts"]) == (1, 1)
    assert metrics["kubernetes_nodes"] == "n2"
    resumed = [line for line in place.said if "goes on after step" in line]
    assert int(resumed[-1].split()[-1]) >= 25


@pytest.mark.parametrize("stage", STAGES)
def test_two_nodes_bear_a_cancel_a_killed_run_and_a_lost_node_and_learn_what_one_process_learns(
    kube: Cluster, tmp_path: Path, alone: Alone, stage: str
) -> None:
    def lose(place: Place, job: str) -> None:
        kube.lose("n2")
        kube.nodes["n3"] = 0

    bears(alone, stage, tmp_path / "nodes", wanted(Place(tmp_path), nodes=2), lose)
