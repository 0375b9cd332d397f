"""The service as its units start it: webserver and daemon, with all that comes of them."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import dagster as dg
import psutil

from resources.dagster_home import open_home
from tests.pipeline.place import REPOSITORY, Place
from tests.waiting import PATIENCE, wait_until

MARK = "CHATLLAMA_SERVICE_TRIAL"
LOCATION = "chatllama_pipeline.definitions"
COMMANDS = {
    "webserver": ("-m", "dagster_webserver", "-h", "127.0.0.1", "-m", LOCATION),
    "daemon": ("-m", "dagster._daemon", "run", "-m", LOCATION),
}
# By what the command line says, the first that fits.
KINDS = {
    "dagster_webserver": "webserver",
    "dagster._daemon": "daemon",
    "--multiprocessing-fork": "run",
    "chatllama_pipeline.launch.stages": "child",
}
# Two processes a training, and figures that don't depend on what else runs here.
CONFIG = {"resources": {"compute": {"config": {"device": "cpu", "processes": 2, "threads": 1}}}}
LAUNCH = """mutation($name: String!, $config: RunConfigData!) { launchRun(executionParams: {
  selector: {repositoryLocationName: "chatllama_pipeline.definitions",
             repositoryName: "__repository__", jobName: "all"},
  runConfigData: $config, executionMetadata: {tags: [{key: "dagster/partition", value: $name}]}
}) { __typename ... on LaunchRunSuccess { run { runId } } } }"""


class Service:
    """Webserver and daemon over a place, each started again where it is gone."""

    def __init__(self, place: Place) -> None:
        self.place = place
        ours = (REPOSITORY / "dagster_home" / "dagster.yaml").read_text()
        patient = f"code_servers: {{local_startup_timeout: {PATIENCE:.0f}}}\n"
        self.home = Path(place.environment()["DAGSTER_HOME"])
        (self.home / "dagster.yaml").write_text(ours + patient)
        open_home(self.home)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._servers: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """What isn't running."""
        for name, command in COMMANDS.items():
            old = self._servers.get(name)
            if old is not None and old.poll() is None:
                continue
            port = ("-p", str(self.port)) if name == "webserver" else ()
            with (self.place.root / f"{name}.log").open("ab") as log:
                self._servers[name] = subprocess.Popen(
                    [sys.executable, *command, *port],
                    cwd=REPOSITORY,
                    env={
                        **self.place.environment(),
                        "PYTHONPATH": str(REPOSITORY),
                        MARK: str(self.place.root),
                    },
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

    def launch(self, name: str) -> str:
        """A run of an assistant, asked for as the page does it; returns its id."""
        answers: list[Any] = []

        def launched() -> bool:
            # Until the webserver has loaded the definitions, and the daemon knows the assistant.
            self.start()
            with contextlib.suppress(OSError):
                answers.append(self._ask(LAUNCH, name=name, config=CONFIG))
            return bool(answers) and "run" in (answers[-1].get("data") or {}).get("launchRun", {})

        wait_until(launched, lambda: f"for a run of {name}: {answers[-1:]}")
        return str(answers[-1]["data"]["launchRun"]["run"]["runId"])

    def processes(self) -> dict[str, list[psutil.Process]]:
        """All that lives of it, by what it is."""
        found: dict[str, list[psutil.Process]] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                ours = process.environ().get(MARK) == str(self.place.root)
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.setdefault(_kind(process), []).append(process)
        return found

    def stop(self) -> None:
        """As systemd does it, and wait for all that came of it."""
        for server in self._servers.values():
            server.terminate()
        wait_until(lambda: not self.processes(), lambda: f"for the end of {self.processes()}")

    def kill_all(self) -> None:
        """As a machine that goes down."""
        for processes in self.processes().values():
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        for server in self._servers.values():
            server.wait()

    def unfinished(self, instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
        """Runs that wait or go on, and those that are about to be tried again.

        Who asks has the servers started that were killed.
        """
        self.start()
        runs = instance.get_runs()
        return [run for run in runs if not run.is_finished or run.is_complete_and_waiting_to_retry]

    def _ask(self, query: str, **variables: Any) -> Any:
        body = json.dumps({"query": query, "variables": variables}).encode()
        url, kind = f"http://127.0.0.1:{self.port}/graphql", {"Content-Type": "application/json"}
        request = urllib.request.Request(url, body, kind)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)


def _kind(process: psutil.Process) -> str:
    if "RANK" in process.environ():
        return "rank"
    command = " ".join(process.cmdline())
    return next((kind for part, kind in KINDS.items() if part in command), "other")
