"""The unit files, the proxy, the backup and the database of docs/running/production.md, tried."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import httpx
import pytest
from dagster._daemon.cli import create_dagster_daemon_cli
from dagster_webserver.cli import create_dagster_webserver_cli

from chatllama_pipeline.cli.dagster_runs import home_command
from chatllama_pipeline.cli.main import cli
from chatllama_pipeline.definitions import definitions
from chatllama_pipeline.lineage.status import asset_statuses
from chatllama_pipeline.serving.api.access.place import open_place
from chatllama_pipeline.serving.reports.server import reports_beside
from chatllama_pipeline.settings.folder import load_assistant
from chatllama_pipeline.store.versions import Store
from tests.docs.commands import click_values
from tests.docs.pages import PAGES as DOCS
from tests.docs.pages import REPOSITORY
from tests.pipeline.place import Place
from tests.ui.postgres import PROGRAMS as POSTGRES
from tests.ui.postgres import postgres
from tests.ui.service import free_port, wait_for
from tests.ui.test_reports import published

DEPLOY = REPOSITORY / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
HOME = "/srv/chatllama"
COMMANDS = {
    "chatllama": cli,
    "dagster-daemon": create_dagster_daemon_cli(),
    "dagster-webserver": create_dagster_webserver_cli(),
}


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_starts_a_command_that_there_is_for_its_owner_alone(unit: Path) -> None:
    parsed = configparser.RawConfigParser(strict=False)
    parsed.read_string(unit.read_text())
    service = parsed["Service"]
    program, *words = service["ExecStart"].removeprefix(f"{HOME}/.venv/bin/").split()
    assert click_values(COMMANDS[program], words, whole=True)
    if program != "chatllama":
        looks = " ".join(home_command()[1:])
        assert service["ExecStartPre"] == f"{HOME}/.venv/bin/python {looks}"
    assert service["UMask"] == "0077"
    # Longer than a training takes to save its state.
    assert int(service["TimeoutStopSec"]) > 30
    assert "0.0.0.0" not in unit.read_text()
    assert f"deploy/{unit.name}" in DOCS["docs/running/production.md"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for unit in UNITS:
        # Here the programs stand elsewhere.
        text = unit.read_text().replace(f"{HOME}/.venv/bin/", f"{Path(sys.executable).parent}/")
        (tmp_path / unit.name).write_text(
            re.sub(r"/bin/(chatllama|dagster-\w+)", "/bin/python", text)
        )
    told = subprocess.run(
        ["systemd-analyze", "verify", *map(str, sorted(tmp_path.glob("*.service")))],
        capture_output=True,
        text=True,
        timeout=60,
    )
    complaints = [line for line in told.stderr.splitlines() if "chatllama-" in line]
    assert (told.returncode, complaints) == (0, [])


@contextmanager
def nginx(folder: Path, page: str, reports: str) -> Iterator[str]:
    """The configuration of deploy/, without TLS, before servers at these addresses."""
    port = free_port()
    hashed = subprocess.check_output(["openssl", "passwd", "-apr1", "secret"], text=True)
    (folder / "htpasswd").write_text(f"ann:{hashed}")
    site = (DEPLOY / "nginx.conf").read_text()
    for ours, here in (
        ("listen 443 ssl;", f"listen 127.0.0.1:{port};"),
        ("/etc/nginx/chatllama.htpasswd", str(folder / "htpasswd")),
        ("http://127.0.0.1:3000", page),
        ("http://127.0.0.1:3001", reports),
    ):
        assert ours in site
        site = site.replace(ours, here)
    (folder / "site").write_text(re.sub(r"ssl_certificate.*\n", "\n", site))
    user = "user root;" if os.geteuid() == 0 else ""
    places = " ".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{}} http {{ access_log off; {places} include {folder}/site; }}\n"
    )
    process = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")])
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(lambda: httpx.get(address).status_code, "nginx")
        yield address
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.skipif(shutil.which("nginx") is None, reason="no nginx here: apt-get install nginx")
def test_behind_the_proxy_a_report_opens_with_the_login_and_nothing_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "storage")
    version = published(store, "evaluation")
    place = open_place("127.0.0.1", 0, ())
    with reports_beside(place, store), nginx(tmp_path, place.url, place.url) as address:
        report = f"{address}/reports/evaluation/tiny/{version.id}"
        for asked in (address, report):
            assert httpx.get(asked).status_code == 401
            assert httpx.get(asked, auth=("ann", "guessed")).status_code == 401
        opened = httpx.get(report, auth=("ann", "secret"))
        assert opened.status_code == 200
        assert "sandbox" in opened.headers["content-security-policy"]
        climbing = f"{address}/reports/..%2f..%2fetc%2fpasswd"
        assert httpx.get(climbing, auth=("ann", "secret")).status_code in (400, 404)


def test_what_was_backed_up_and_restored_elsewhere_is_fresh_and_has_its_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [command] = re.findall(r"^tar -czf .*$", DOCS["docs/running/production.md"], re.MULTILINE)
    here, there = tmp_path / "here", tmp_path / "elsewhere" / "deeper"
    there.mkdir(parents=True)
    (here / "assistants" / "mine").mkdir(parents=True)
    (here / "assistants" / "mine" / "config.yaml").write_text("data: {sources: []}")
    home = here / "dagster_home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(here / "assistants"))
    monkeypatch.setenv("CHATLLAMA_STORE", str(here / "storage"))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        dg.materialize(
            definitions.assets or [],
            selection=["personal_data"],
            partition_key="mine",
            resources=definitions.resources,
            instance=instance,
        )
    subprocess.run(command.split(), cwd=here, check=True)
    with tarfile.open(here / "chatllama-backup.tar.gz") as archive:
        archive.extractall(there, filter="tar")
    shutil.rmtree(here)

    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(there / "assistants"))
    monkeypatch.setenv("CHATLLAMA_STORE", str(there / "storage"))
    store = Store(there / "storage")
    [personal] = [
        each
        for each in asset_statuses(load_assistant("mine"), store)
        if each.asset == "personal_data"
    ]
    assert personal.version is not None and personal.stale == []
    assert list(store.read("personal_data", "mine").damaged()) == []
    assert oct(store.root.stat().st_mode)[-3:] == "700"
    with dg.DagsterInstance.from_config(str(there / "dagster_home")) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("personal_data"))
        assert event is not None and event.asset_materialization is not None
        assert event.asset_materialization.metadata["version"].value == personal.version


@pytest.fixture
def database() -> Iterator[str]:
    with postgres() as address:
        yield address


@pytest.mark.slow
@pytest.mark.skipif(POSTGRES is None, reason="no PostgreSQL here: apt-get install postgresql")
def test_a_chain_runs_on_postgresql_and_its_history_stands_there(
    database: str, tmp_path: Path
) -> None:
    place = Place(tmp_path)
    pytest.importorskip("dagster_postgres", reason="the extra `postgres` isn't installed")
    [config] = re.findall(
        r"```text\n(storage:\n.*?)```", DOCS["docs/running/production.md"], re.DOTALL
    )
    environment = {
        **place.environment(),
        "PYTHONPATH": str(REPOSITORY),
        "DAGSTER_POSTGRES_URL": database,
    }
    home = place.root / "dagster_home"
    (home / "dagster.yaml").write_text(
        (REPOSITORY / "dagster_home/dagster.yaml").read_text() + config
    )
    place.add_assistant("mine", "data: {sources: [grammar], number_of_samples: 200}")
    selected = "grammar,personal_data,preference_data"
    command = place.command("mine", selected)

    def run(*words: str) -> None:
        done = subprocess.run(
            words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, done.stderr

    run(*command)
    run(str(Path(sys.executable).with_name("dagster")), "instance", "migrate")
    run(*command)
    assert not (home / "history").exists()
    program = """
import dagster as dg
with dg.DagsterInstance.get() as instance:
    assert [run.status.value for run in instance.get_runs()] == ["SUCCESS"] * 2
    for name in ("grammar", "personal_data", "preference_data"):
        found = instance.fetch_materializations(dg.AssetKey(name), limit=5).records
        assert [r.asset_materialization.metadata["reused"].value for r in found] == [True, False]
    key = dg.AssetCheckKey(dg.AssetKey("preference_data"), "schema")
    assert len(instance.event_log_storage.get_asset_check_execution_history(key, 5)) == 2
    assert "mine" in instance.get_dynamic_partitions("assistant")
"""
    run(sys.executable, "-c", program)
