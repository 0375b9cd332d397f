"""Stages as jobs of a cluster: what they find, what befalls them, what is refused."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from chatllama_pipeline.errors import ChildError, OutOfMemoryError, SettingsError
from chatllama_pipeline.launch.jobs import running
from chatllama_pipeline.launch.jobs.scheduler import Task
from chatllama_pipeline.launch.kubernetes import scheduler as scheduling
from chatllama_pipeline.launch.kubernetes.scheduler import Kubernetes
from chatllama_pipeline.launch.kubernetes.wanted import Wanted
from chatllama_pipeline.records import StageSpec
from tests.cluster.place import when
from tests.launch.kubernetes.cluster import DEPLOY, IMAGE, Cluster
from tests.waiting import wait_until

WAITS_FOR_GO = "echo begun >> starts; echo 'counts: begun'; until [ -e go ]; do sleep .05; done; "
SAVES = "trap 'touch saved; exit 75' INT; " + WAITS_FOR_GO


def wanted(folder: Path) -> Wanted:
    return Wanted(image=IMAGE, claim="chatllama", mount_path=str(folder))


def task(folder: Path, script: str) -> Task:
    result = folder / "result.json"
    spec = StageSpec("counts", "ours", {"script": script}, {}, "", str(folder), str(result))
    spec.write(folder / "spec.json")
    # Not by -c: on a node the words pass through a shell.
    (folder / "stage.sh").write_text(f"cd {shlex.quote(str(folder))}; {script}\n")
    command = ["bash", str(folder / "stage.sh")]
    log = folder / "spec.log"
    refusal = folder / "result.json.error"
    return Task("counts", command, folder / "spec.json", log, refusal, lambda: None, result.exists)


class Run:
    """A run of a stage that is a shell's script, in a folder of its own; `said` is its log."""

    def __init__(self, folder: Path, asked: Wanted | None = None) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.by = Kubernetes(asked or wanted(folder), folder, dict(os.environ))

    def __call__(self, script: str) -> running.JobRun:
        try:
            what = task(self.folder, script)
            return running.run_job(what, self.by, say=self.said.append, stop_seconds=10)
        finally:
            self.by.close()

    def heard(self, words: str) -> Callable[[], bool]:
        return lambda: any(words in line for line in self.said)


@pytest.fixture
def run(kube: Cluster, tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_a_job_finds_what_was_named_and_nothing_else_of_our_environment(
    kube: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATLLAMA_API_KEY", "a secret")
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path))
    monkeypatch.setenv("HF_HOME", "/cache")
    run = Run(tmp_path, replace(wanted(tmp_path), variables=["HF_HOME"]))
    ended = run("echo counts: $HF_HOME $CHATLLAMA_STORE $CHATLLAMA_API_KEY-; touch result.json")

    assert f"counts: /cache {tmp_path} -" in run.said
    assert ended.ended is not None
    assert ended.ended.nodes == "n1"
    assert "a secret" not in json.dumps(kube.server.all("jobs"))
    assert not (tmp_path / running.JOB_FILE).exists()


def test_a_stage_that_fails_is_told_with_its_pod_its_exit_and_its_log(run: Run) -> None:
    with pytest.raises(ChildError, match=r"(?s)on n1 ended as FAILED: .*exit code 3.*last words"):
        run("echo last words; exit 3")


def test_what_a_node_says_before_the_stage_has_a_log_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatllama_pipeline.launch.jobs.node_script.PYTHON", "/no/python")
    with pytest.raises(ChildError, match=r"exit code 127: error: .* has no /no/python: install"):
        run("true")


@pytest.mark.cluster
def test_out_of_memory_is_told_apart(run: Run, kube: Cluster) -> None:
    when(run.heard("counts: begun"), kube.kill_for_memory)
    with pytest.raises(OutOfMemoryError, match=r"raise compute\.kubernetes\.memory"):
        run(WAITS_FOR_GO)


@pytest.mark.cluster
def test_a_pod_that_loses_its_node_goes_on_on_another(
    run: Run, kube: Cluster, tmp_path: Path
) -> None:
    def lose() -> None:
        kube.lose("n1")
        (tmp_path / "go").touch()

    when(run.heard("counts: begun"), lose)
    ended = run(WAITS_FOR_GO + "touch result.json").ended
    assert ended is not None
    assert (ended.nodes, ended.restarts) == ("n2", 1)
    assert (tmp_path / "starts").read_text() == "begun\nbegun\n"


@pytest.mark.cluster
def test_a_job_that_loses_node_after_node_is_given_up(
    run: Run, kube: Cluster, tmp_path: Path
) -> None:
    run.by.request = replace(run.by.request, retries=0)
    when(run.heard("counts: begun"), lambda: kube.lose("n1"))
    with pytest.raises(ChildError, match=r"lost a node 1 times.*compute.kubernetes.retries"):
        run(WAITS_FOR_GO)
    kube.nodes["n1"] = 0


@pytest.mark.cluster
def test_an_interrupt_has_the_stage_save_and_leaves_nothing(
    run: Run, kube: Cluster, tmp_path: Path
) -> None:
    when(run.heard("counts: begun"), lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run(SAVES)
    assert (tmp_path / "saved").exists()
    assert kube.server.all("jobs") == kube.server.all("pods") == []
    assert not (tmp_path / running.JOB_FILE).exists()


@pytest.mark.parametrize("known_by", ["id", "name"])
def test_a_job_that_outlived_its_run_is_found_and_not_started_twice(
    kube: Cluster, tmp_path: Path, known_by: str
) -> None:
    what = task(tmp_path, WAITS_FOR_GO + "touch result.json")
    first = Run(tmp_path)
    first.by.submit(what, "chatllama-earlier", 10)
    told = {"launcher": "kubernetes", "name": "chatllama-earlier", "spec": what.spec.read_text()}
    told["id"] = "chatllama-earlier" if known_by == "id" else None
    (tmp_path / running.JOB_FILE).write_text(json.dumps(told))
    first.by.close()

    second = Run(tmp_path)
    when((tmp_path / "starts").exists, (tmp_path / "go").touch)
    second(WAITS_FOR_GO + "touch result.json")
    assert "takes up job chatllama-earlier" in second.said[0]
    assert (tmp_path / "starts").read_text() == "begun\n"


@pytest.mark.cluster
def test_a_job_that_somebody_deletes_is_told_once_its_pods_are_gone(
    run: Run, kube: Cluster, tmp_path: Path
) -> None:
    def delete() -> None:
        [job] = kube.server.all("jobs")
        run.by.ask_to_save(job["metadata"]["name"])

    when(run.heard("counts: begun"), delete)
    with pytest.raises(ChildError, match="was deleted, and not by this run"):
        run(SAVES)
    assert (tmp_path / "saved").exists()


@pytest.mark.cluster
def test_a_server_that_is_away_for_a_while_loses_no_job(
    run: Run, kube: Cluster, tmp_path: Path
) -> None:
    def away() -> None:
        kube.server.away = 5
        (tmp_path / "go").touch()

    when(run.heard("counts: begun"), away)
    run(WAITS_FOR_GO + "touch result.json")
    assert kube.server.away == 0


@pytest.mark.cluster
def test_a_time_limit_has_the_stage_save(run: Run, kube: Cluster, tmp_path: Path) -> None:
    run.by.request = replace(run.by.request, time_limit_seconds=3600)
    when(run.heard("counts: begun"), kube.reach_time_limit)
    with pytest.raises(running.JobError, match=r"compute\.kubernetes\.time_limit_minutes"):
        run(SAVES)
    assert (tmp_path / "saved").exists()


REFUSED: list[tuple[str, dict[str, object], str]] = [
    (
        "namespace",
        {"namespace": "theirs"},
        r"namespaces \"theirs\" not found.*kubernetes.namespace",
    ),
    ("claim", {"claim": "none"}, r"there is no compute.kubernetes.claim 'none'.*storage.yaml"),
    ("service", {"nodes": 2, "service": "none"}, r"headless service 'none'.*service.yaml"),
    ("field", {"pod": {"priorityClas": "low"}}, 'unknown field "spec.template.spec.priorityClas"'),
    ("ours", {"pod": {"restartPolicy": "Always"}}, "pod.restartPolicy can't be set there"),
    ("list", {"container": {"env": {"A": "b"}}}, "container.env must be a list"),
    ("mount", {"mount_path": "/elsewhere"}, r"isn't below .*mount_path '/elsewhere'"),
    ("context", {"context": "none"}, r"context 'none': no cluster is known here"),
]


@pytest.mark.parametrize(("changes", "told"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_what_can_never_run_is_refused_before_there_is_a_job(
    run: Run, kube: Cluster, changes: dict[str, object], told: str
) -> None:
    run.by.request = replace(run.by.request, **changes)  # type: ignore[arg-type]
    for ask in (run.by.require_taken, lambda: run("touch result.json")):
        with pytest.raises(SettingsError, match=told):
            ask()
    assert kube.server.all("jobs") == []
    assert not (run.folder / running.JOB_FILE).exists()


def test_a_claim_for_one_node_is_refused_to_several(run: Run, kube: Cluster) -> None:
    [claim] = kube.server.all("persistentvolumeclaims")
    claim["spec"]["accessModes"] = ["ReadWriteOnce"]
    run.by.request = replace(run.by.request, nodes=2)
    with pytest.raises(
        SettingsError, match=r"ReadWriteOnce, and compute.nodes is 2.*ReadWriteMany"
    ):
        run("true")


@pytest.mark.parametrize(
    ("forbidden", "told"),
    [
        ({"create jobs"}, r"cannot create.*\(403\)\. Have its role allow .*rights.yaml"),
        ({"get jobs"}, r"cannot get.*\(403\)\. Have its role allow .*rights.yaml"),
    ],
)
def test_whoever_may_not_is_told_which_rights_it_takes(
    run: Run, kube: Cluster, forbidden: set[str], told: str
) -> None:
    kube.server.forbidden |= forbidden
    with pytest.raises(SettingsError, match=told):
        run("true")


def test_the_role_in_deploy_allows_what_is_asked_and_no_more(
    run: Run, kube: Cluster, tmp_path: Path
) -> None:
    role = list(yaml.safe_load_all((DEPLOY / "rights.yaml").read_text()))[1]
    allowed = {
        f"{verb} {kind}"
        for rule in role["rules"]
        for verb, kind in itertools.product(rule["verbs"], rule["resources"])
    }
    kube.server.asked.clear()
    alone = run.by.request
    kube.server.quota["memory"] = 1
    run.by.request = replace(alone, nodes=2, memory="2Gi")
    run.by.require()
    waits = run.by.submit(task(tmp_path, "true"), "chatllama-waits", 1)
    wait_until(lambda: kube.server.all("events"))
    assert run.by.look_at(waits) is not None
    run.by.request = alone
    runs = run.by.submit(task(tmp_path, WAITS_FOR_GO), "chatllama-runs", 1)
    wait_until((tmp_path / "starts").exists)
    for job in (waits, runs):
        run.by.cancel(job)
    wait_until(lambda: not kube.server.all("jobs"))
    assert set(kube.server.asked) == allowed


def test_rights_that_tell_more_are_done_without(run: Run, kube: Cluster) -> None:
    kube.server.forbidden |= {"get persistentvolumeclaims", "list events", "get services"}
    run("touch result.json")


def test_a_full_quota_of_jobs_is_told(run: Run, kube: Cluster) -> None:
    kube.server.quota["count/jobs.batch"] = 0
    run.by.require_taken()  # there may be room once the job is asked for
    with pytest.raises(
        SettingsError, match=r"exceeded quota.*or ask for what the namespace's quota"
    ):
        run("true")


def test_a_token_that_is_not_taken_is_told(run: Run, kube: Cluster, tmp_path: Path) -> None:
    kube.server.write_kubeconfig(tmp_path / "kubeconfig", token="of long ago")
    with pytest.raises(SettingsError, match=r"no jobs can be asked for at http.*Unauthorized"):
        run("true")


def test_a_server_that_is_not_there_is_told(run: Run, tmp_path: Path) -> None:
    config = json.loads((tmp_path / "kubeconfig").read_text())
    config["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:9"
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    with pytest.raises(SettingsError, match=r"asked for at http://127.0.0.1:9.*doesn't answer"):
        run("true")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"image": "registry.test/none:1"}, "ImagePullBackOff: .*registry.test/none:1"),
        ({"secrets": ["keys"]}, 'CreateContainerConfigError: secret "keys" not found'),
    ],
)
def test_a_pod_that_would_never_start_is_taken_back_with_the_reason(
    run: Run,
    kube: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    told: str,
) -> None:
    monkeypatch.setattr(scheduling, "PULL_SECONDS", 0.3)
    run.by.request = replace(run.by.request, **changes)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=rf"would never start \({told}.*was taken back"):
        run("true")
    assert kube.server.all("jobs") == []


def test_pods_that_a_quota_never_admits_are_taken_back_and_others_wait(
    run: Run, kube: Cluster
) -> None:
    kube.server.quota["requests.nvidia.com/gpu"] = 1
    run.by.request = replace(run.by.request, gpus=2)
    with pytest.raises(SettingsError, match=r"would never start \(Error creating: .*gpu=2"):
        run("true")


def test_a_job_that_no_node_fits_is_taken_back_in_time(run: Run, kube: Cluster) -> None:
    run.by.request = replace(run.by.request, gpus=1, queue_seconds=0.5)
    with pytest.raises(ChildError, match=r"Unschedulable: 0/2 nodes.*kubernetes.queue_minutes"):
        run("true")
    assert any("waits (Unschedulable" in line for line in run.said)
    assert kube.server.all("jobs") == []
