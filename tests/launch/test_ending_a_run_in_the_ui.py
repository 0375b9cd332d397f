"""Runs launched and terminated over the webserver's GraphQL, as its pages do it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import PATIENCE, wait_until

LAUNCH = """mutation($asset: String!) { launchRun(executionParams: {
  selector: {repositoryLocationName: "location.py", repositoryName: "__repository__",
             jobName: "__ASSET_JOB", assetSelection: [{path: [$asset]}]}, runConfigData: {}
}) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
TERMINATE = """mutation($run: String!) {
  terminateRun(runId: $run, terminatePolicy: SAFE_TERMINATE) { __typename } }"""
STATUS = "query($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"

# Runs start at once: there is no daemon to take them from a queue.
DAGSTER_YAML = """
run_coordinator: {module: dagster.core.run_coordinator, class: DefaultRunCoordinator}
telemetry: {enabled: false}
nux: {enabled: false}
"""


@dataclass(frozen=True)
class Ui:
    """A webserver on loopback, and the folder its workers report to."""

    url: str
    folder: Path

    def ask(self, query: str, **variables: str) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"{self.url}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            content = json.load(answer)
        assert "errors" not in content, content
        (data,) = content["data"].values()
        return dict(data)

    def status(self, run: str) -> str:
        return str(self.ask(STATUS, run=run)["status"])

    def answers(self) -> bool:
        with contextlib.suppress(urllib.error.URLError):
            return bool(urllib.request.urlopen(f"{self.url}/server_info", timeout=5))
        return False


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory, programs: Path, watch: Any) -> Iterator[Ui]:
    folder, home = tmp_path_factory.mktemp("ui"), tmp_path_factory.mktemp("dagster_home")
    (home / "dagster.yaml").write_text(DAGSTER_YAML)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    webserver = [sys.executable, "-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(port)]
    with (folder / "output.txt").open("wb") as output:
        server = subprocess.Popen(
            [*webserver, "-f", str(programs / "location.py")],
            env={**os.environ, "DAGSTER_HOME": str(home), "TRIAL_FOLDER": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    ui = Ui(f"http://127.0.0.1:{port}", folder)
    try:
        wait_until(ui.answers, (folder / "output.txt").read_text)
        yield ui
    finally:
        watch.kill_all(str(folder))
        server.wait()


def test_nothing_is_left_of_runs_terminated_in_the_ui(ui: Ui, watch: Any) -> None:
    runs = {}
    for asset in ("one_child", "two_ranks"):
        launched = ui.ask(LAUNCH, asset=asset)
        assert launched["__typename"] == "LaunchRunSuccess", launched
        runs[asset] = launched["run"]["runId"]
    for asset, run in runs.items():
        # In the arguments of the child alone; the server and the run carry only the parent.
        folder = ui.folder / asset
        wait_until(lambda folder=folder: watch.all_at_work(folder))  # type: ignore[misc]
        assert len(watch.living(str(folder))) == {"one_child": 1, "two_ranks": 3}[asset]
        assert ui.ask(TERMINATE, run=run)["__typename"] == "TerminateRunSuccess"
    for asset, run in runs.items():
        wait_until(lambda run=run: ui.status(run) == "CANCELED")  # type: ignore[misc]
        assert watch.living(str(ui.folder / asset)) == []
