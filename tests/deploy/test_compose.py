"""compose.yaml's services as processes of this machine, in front of a real PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deploy.test_files import DOCKERFILE, REPOSITORY, composed
from tests.pipeline.place import Place
from tests.ui.postgres import PROGRAMS, postgres
from tests.ui.service import LOCATION, Service, free_port, wait_for

ROOT = "/srv/chatllama"
LAUNCH = """mutation($location: String!) { launchRun(executionParams: {selector: {
  repositoryLocationName: $location, repositoryName: "__repository__", jobName: "__ASSET_JOB",
  assetSelection: [{path: ["personal_data"]}]},
  executionMetadata: {tags: [{key: "dagster/partition", value: "mine"}]}, runConfigData: {}})
  { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } } } }"""


class Composed:
    """The services under a folder of a test's own, on ports and a database of its own."""

    def __init__(self, place: Place, database: str) -> None:
        self.place = place
        text = json.dumps(composed())
        self.ports = {name: free_port() for name in ("3000", "3001", "4000")}
        [port] = re.findall(r":(\d+)/", database)
        for ours, here in {**self.ports, "5432": port}.items():
            text = text.replace(ours, str(here))
        self.services: dict[str, Any] = json.loads(text.replace(ROOT, str(place.root)))
        self._lay_out()

    def _lay_out(self) -> None:
        """What the volumes hold; ours stands where the tests' assistants do."""
        for volume in self.services["code"]["volumes"]:
            target = Path(volume["target"])
            if volume["type"] == "volume":
                target.mkdir(parents=True, exist_ok=True)
            elif Path(volume["source"]).is_file():
                shutil.copy(volume["source"], target)
        workspace = self.place.root / "workspace.yaml"
        workspace.write_text(workspace.read_text().replace("4000", str(self.ports["4000"])))

    def environment(self, name: str) -> dict[str, str]:
        """That of the image, and the service's own."""
        image = dict(re.findall(r"(\w+)=(\S+)", DOCKERFILE.partition("\nENV ")[2]))
        image = {key: value.replace(ROOT, str(self.place.root)) for key, value in image.items()}
        programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        ours = {"PATH": programs, "PYTHONPATH": str(REPOSITORY)}
        told = self.services[name]["environment"]
        return {**self.place.environment(), **image, **told, **ours}

    def run(self, name: str) -> subprocess.Popen[bytes]:
        """Start a service as the image would."""
        program, *words = self.services[name]["command"]
        # A checkout whose tests run needn't be installed.
        command = [sys.executable, "-m", "chatllama_pipeline"]
        command = command if program == "chatllama" else [program]
        with (self.place.root / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [*command, *words], cwd=self.place.root, stdout=log,
                stderr=subprocess.STDOUT, env=self.environment(name),
            )  # fmt: skip

    @contextlib.contextmanager
    def at_work(self, name: str) -> Iterator[None]:
        """A service, for as long as the block goes on."""
        process = self.run(name)
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)

    def is_healthy(self) -> bool:
        """What the code server's health check says."""
        test = self.services["code"]["healthcheck"]["test"][1:]
        done = subprocess.run(test, env=self.environment("code"), capture_output=True)
        return done.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(PROGRAMS is None, reason="no PostgreSQL here: apt-get install postgresql")
def test_a_run_that_the_page_asks_for_is_queued_and_made_beside_the_code_server(
    tmp_path: Path,
) -> None:
    place = Place(tmp_path)
    place.add_assistant("mine", "data: {sources: []}")
    with contextlib.ExitStack() as running:
        made = Composed(place, running.enter_context(postgres()))
        assert made.run("home").wait(300) == 0, (tmp_path / "home.log").read_text()
        running.enter_context(made.at_work("code"))
        wait_for(made.is_healthy, "the code server")
        for name in ("page", "daemon", "reports"):
            running.enter_context(made.at_work(name))
        page = Service(place, f"http://127.0.0.1:{made.ports['3000']}", "")
        keys = "{assetNodes(pipeline: null) {assetKey {path}}}"
        wait_for(lambda: page.ask(keys)["assetNodes"], "the definitions")
        asked = page.ask(LAUNCH, location=LOCATION.rpartition("/")[2])["launchRun"]
        assert asked["__typename"] == "LaunchRunSuccess", asked
        ended = page.ended(asked["run"]["runId"])
        logs = {file.name: file.read_text()[-2000:] for file in tmp_path.glob("*.log")}
        assert ended == "SUCCESS", logs
        assert not list((tmp_path / "dagster_home").rglob("*.db")), "the history is PostgreSQL's"
        reports = f"http://127.0.0.1:{made.ports['3001']}/reports/nobody"
        assert httpx.get(reports).status_code == 404
    assert place.store.current("personal_data", "mine") is None
    assert (tmp_path / "data" / "storage" / "personal_data").is_dir()
