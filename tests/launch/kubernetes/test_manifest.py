"""What a job's settings come to in its manifest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chatllama_pipeline.launch.kubernetes.manifest import APP, job_manifest
from chatllama_pipeline.launch.kubernetes.wanted import Wanted, quantity
from tests.launch.kubernetes.api_server import require_valid

PLAIN = Wanted(image="ours:1", claim="store", mount_path="/data")
ALL = replace(
    PLAIN,
    nodes=2,
    processes=4,
    threads=32,
    gpus=4,
    memory="400Gi",
    gpu_resource="amd.com/gpu",
    time_limit_seconds=90.5,
    service="meet",
    service_account="trainer",
    node_selector={"accelerator": "a100"},
    tolerations=[{"key": "gpu", "operator": "Exists", "tolerationSeconds": 60}],
    labels={"kueue.x-k8s.io/queue-name": "ours"},
    secrets=["keys"],
    pod={"priorityClassName": "low", "volumes": [{"name": "more", "hostPath": {"path": "/m"}}]},
    container={
        "imagePullPolicy": "Always",
        "volumeMounts": [{"name": "more", "mountPath": "/more"}],
        "env": [{"name": "MORE", "value": "1"}],
    },
)


def made(wanted: Wanted, stop_seconds: float = 30.0) -> tuple[dict[str, Any], dict[str, Any]]:
    """The job's own spec and its pod's; whole, as a strict server takes it."""
    manifest = job_manifest(wanted, "chatllama-a", Path("/data/task.sh"), {"A": "1"}, stop_seconds)
    require_valid(manifest)
    return manifest["spec"], manifest["spec"]["template"]["spec"]


def test_every_setting_stands_in_the_manifest() -> None:
    spec, pod = made(ALL)
    [container] = pod["containers"]
    given = {"cpu": "32", "memory": "400Gi", "amd.com/gpu": "4"}
    labels = spec["template"]["metadata"]["labels"]
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (2, 2, "Indexed")
    assert container["resources"] == {"requests": given, "limits": given}
    assert pod["activeDeadlineSeconds"] == 91
    assert (pod["subdomain"], pod["serviceAccountName"]) == ("meet", "trainer")
    assert (pod["nodeSelector"], pod["priorityClassName"]) == ({"accelerator": "a100"}, "low")
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists", "tolerationSeconds": 60}]
    assert labels.items() >= {**APP, **ALL.labels}.items()
    assert [volume["name"] for volume in pod["volumes"]] == ["store", "shm", "more"]
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert mounts == ["/data", "/dev/shm", "/more"]
    assert container["envFrom"] == [{"secretRef": {"name": "keys"}}]
    variables = {one["name"]: one["value"] for one in container["env"]}
    assert variables["MASTER_ADDR"] == "chatllama-a-0.meet"
    assert variables.items() >= {"A": "1", "MORE": "1"}.items()
    assert (container["image"], container["imagePullPolicy"]) == ("ours:1", "Always")


def test_without_gpus_none_is_shown_and_one_node_meets_nobody() -> None:
    _, pod = made(PLAIN)
    variables = {one["name"]: one["value"] for one in pod["containers"][0]["env"]}
    assert variables == {"A": "1", "CUDA_VISIBLE_DEVICES": ""}
    assert not {"subdomain", "affinity", "activeDeadlineSeconds", "nodeSelector"} & pod.keys()
    assert pod["containers"][0]["resources"] == {"requests": {}, "limits": {}}


@pytest.mark.parametrize("seconds", [0.5, 30.0, 600.0])
def test_the_grace_is_longer_than_a_stage_may_take_to_save(seconds: float) -> None:
    _, pod = made(PLAIN, seconds)
    assert pod["terminationGracePeriodSeconds"] > seconds + 10


def test_a_lost_node_costs_no_try_and_an_exit_code_ends_the_job() -> None:
    spec, pod = made(PLAIN)
    lost, ended = spec["podFailurePolicy"]["rules"]
    assert (lost["action"], lost["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert (ended["action"], ended["onExitCodes"]["values"]) == ("FailJob", [0])
    assert pod["restartPolicy"] == "Never"


@pytest.mark.parametrize(
    ("text", "amount"),
    [("2", 2.0), ("500m", 0.5), ("1.5k", 1500.0), ("64Gi", 64 * 2.0**30), ("64G", 64e9)],
)
def test_a_quantity_is_read_as_kubernetes_reads_it(text: str, amount: float) -> None:
    assert quantity(text) == amount


@pytest.mark.parametrize("text", ["", "much", "64GB", "-1", "1 Gi", "64K", "1e3x"])
def test_what_is_no_quantity_is_none(text: str) -> None:
    assert quantity(text) is None
