"""`chatllama ui` in a process of its own, and a Chromium that looks at it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from tests.pipeline.place import REPOSITORY, Place

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Seconds; a machine that does other things, too, is given them.
PATIENCE = 600.0
LOCATION = "/locations/chatllama_pipeline.definitions"


def browser() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def wait_for(what: Callable[[], Any], told: str, seconds: float = PATIENCE) -> Any:
    """What `what` returns once that is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(httpx.TransportError):
            if found := what():
                return found
        time.sleep(0.5)
    raise AssertionError(f"not within {seconds:.0f} s: {told}")


@dataclass(frozen=True)
class Service:
    """A running page of Dagster on a place of a test's own."""

    place: Place
    url: str
    reports: str

    def ask(self, query: str, **variables: Any) -> Any:
        """The answer to a GraphQL query, as the page itself asks."""
        asked = {"query": query, "variables": variables}
        answer = httpx.post(f"{self.url}/graphql", json=asked, timeout=PATIENCE).json()
        assert "errors" not in answer, answer
        return answer["data"]

    def runs(self) -> dict[str, str]:
        """Every run's status, by its id."""
        query = "{runsOrError {... on Runs {results {id status}}}}"
        return {run["id"]: run["status"] for run in self.ask(query)["runsOrError"]["results"]}

    def ended(self, run: str, seconds: float = PATIENCE) -> str:
        """The status of a run, once it is over."""
        over, told = {"SUCCESS", "FAILURE", "CANCELED"}, f"the end of run {run}"
        return str(wait_for(lambda: over & {self.runs()[run]}, told, seconds).pop())


@contextlib.contextmanager
def service(place: Place, monitored: int = 20) -> Iterator[Service]:
    """The real command with the repository's dagster.yaml, until the test is over.

    Runs are monitored every so many seconds.
    """
    home = place.root / "dagster_home"
    home.mkdir(parents=True, exist_ok=True)
    ours = (REPOSITORY / "dagster_home" / "dagster.yaml").read_text()
    ours = ours.replace("poll_interval_seconds: 20", f"poll_interval_seconds: {monitored}")
    patient = f"code_servers: {{local_startup_timeout: {PATIENCE:.0f}}}\n"
    (home / "dagster.yaml").write_text(ours + patient)
    port, reports = free_port(), free_port()
    arguments = ("ui", "--port", str(port), "--reports-port", str(reports))
    with (place.root / "ui.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "chatllama_pipeline", *arguments],
            cwd=REPOSITORY,
            env={**place.environment(), "PYTHONPATH": str(REPOSITORY)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        running = Service(place, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{reports}")
        try:
            wait_for(lambda: httpx.get(f"{running.url}/server_info").is_success, "Dagster's page")
            keys = "{assetNodes(pipeline: null) {assetKey {path}}}"
            wait_for(lambda: running.ask(keys)["assetNodes"], "the definitions")
            yield running
        finally:
            process.terminate()
            process.wait(PATIENCE)
