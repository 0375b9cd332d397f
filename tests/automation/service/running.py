"""The service as a unit file starts it: webserver and daemon, with all that comes of them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import dagster as dg
import psutil

from chatllama_pipeline.store.versions import Store

REPOSITORY = Path(__file__).parents[3]
LOCATION = Path(__file__).with_name("location.py")
MARK = "CHATLLAMA_SERVICE_TRIAL"
LAUNCH = """mutation($name: String!) { launchRun(executionParams: {
  selector: {repositoryLocationName: "location.py", repositoryName: "__repository__",
             jobName: "all"}, runConfigData: {},
  executionMetadata: {tags: [{key: "dagster/partition", value: $name}]}
}) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
_Found = TypeVar("_Found")


def wait_for(look: Callable[[], _Found], seconds: float, what: str) -> _Found:
    """What `look` finds, as soon as it finds anything."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.2)
    return found


class Service:
    """Webserver and daemon over the folders under `root`, each started again where it is gone."""

    def __init__(self, root: Path, patience: float = 300.0) -> None:
        self.root, self.patience = root, patience
        self.store = Store(root / "storage")
        self.home = root / "dagster_home"
        self.home.mkdir()
        shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", self.home)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._servers: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """What isn't running; returns when the webserver answers."""
        port = str(self.port)
        commands = {
            "webserver": ["-m", "dagster_webserver", "-h", "127.0.0.1", "-p", port],
            "daemon": ["-m", "dagster._daemon", "run"],
        }
        for name, command in commands.items():
            old = self._servers.get(name)
            if old is not None and old.poll() is None:
                continue
            with (self.root / f"{name}.log").open("ab") as log:
                self._servers[name] = subprocess.Popen(
                    [sys.executable, *command, "-f", str(LOCATION)],
                    cwd=REPOSITORY,
                    env=self.environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        wait_for(self._answers, self.patience, "the webserver")

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "CHATLLAMA_ASSISTANTS": str(self.root / "assistants"),
            "CHATLLAMA_STORE": str(self.root / "storage"),
            "CHATLLAMA_LEASES": str(self.root / "leases"),
            "DAGSTER_HOME": str(self.home),
            "PYTHONPATH": str(REPOSITORY),
            MARK: str(self.root),
        }

    def launch(self, name: str) -> str:
        """A run of an assistant, asked for as the page does it; returns its id."""
        body = json.dumps({"query": LAUNCH, "variables": {"name": name}}).encode()
        url, kind = f"http://127.0.0.1:{self.port}/graphql", {"Content-Type": "application/json"}
        request = urllib.request.Request(url, body, kind)
        with urllib.request.urlopen(request, timeout=self.patience) as answer:
            content = json.load(answer)
        return str(content["data"]["launchRun"]["run"]["runId"])

    def processes(self) -> dict[str, list[psutil.Process]]:
        """All that lives of it, by what it is."""
        found: dict[str, list[psutil.Process]] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                ours = process.environ().get(MARK) == str(self.root)
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.setdefault(_kind(process), []).append(process)
        return found

    def kill_all(self) -> None:
        for processes in self.processes().values():
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        for server in self._servers.values():
            server.wait()

    def unfinished(self, instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
        """Runs that wait or go on, and those that are about to be tried again."""
        runs = instance.get_runs()
        return [run for run in runs if not run.is_finished or run.is_complete_and_waiting_to_retry]

    def _answers(self) -> bool:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/server_info", timeout=5)
            return True
        return False


def _kind(process: psutil.Process) -> str:
    command, environment = " ".join(process.cmdline()), process.environ()
    if "RANK" in environment:
        return "rank"
    kinds = {
        "dagster_webserver": "webserver",
        "dagster._daemon": "daemon",
        "execute_run": "run",
        "stages.py": "child",
    }
    return next((kind for part, kind in kinds.items() if part in command), "other")
