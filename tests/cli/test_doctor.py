"""`chatllama doctor`: what it finds, and the exit code for scripts."""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner

from chatllama_pipeline.cli.doctor import findings
from chatllama_pipeline.cli.main import cli
from chatllama_pipeline.records import Finding


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(tmp_path / "assistants"))
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "storage"))
    home = tmp_path / "dagster_home"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    write(tmp_path, "mine", "data: {sources: []}")
    return tmp_path


def write(root: Path, name: str, config: str) -> None:
    folder = root / "assistants" / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config)


def faults(found: list[Finding]) -> list[str]:
    return [f"{one.what}: {one.told}" for one in found if one.level == "fault"]


def test_a_whole_place_has_exit_code_0_and_says_what_a_run_would_make(place: Path) -> None:
    done = CliRunner().invoke(cli, ["doctor"])
    assert done.exit_code == 0, done.output
    assert "ok       mine: a run makes personal_data, preference_data, " in done.output
    assert done.output.endswith("nothing stands in the way of a run\n")
    assert not (place / "storage").exists()


def test_a_broken_config_is_told_by_name_and_the_others_are_looked_at(place: Path) -> None:
    write(place, "broken", "seeed: 1")
    write(place, "no-name", "seed: 1")
    found = list(findings.assistants())
    [fault] = faults(found)
    assert fault.startswith("broken: ") and "unknown key seeed" in fault
    assert any(one.level == "warning" and "no-name" in one.told for one in found)
    assert any(one.what == "mine" and one.level == "ok" for one in found)


def test_a_pin_of_what_there_is_not_and_a_missing_key_are_faults(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    write(place, "keyless", "llm: {provider: openai, model: m, prices: {m: free}}")
    write(place, "pinned", "store: {pins: {release: aa}}")
    keyless, pinned = faults(list(findings.assistants()))
    assert keyless.startswith("keyless: ") and "OPENAI_API_KEY" in keyless
    assert pinned.startswith("pinned: ") and "release has no version aa" in pinned


def test_a_store_that_cannot_be_written_is_a_fault(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Under a file nothing can be made, whoever asks; root may write what is read-only.
    blocked = place / "file"
    blocked.touch()
    monkeypatch.setenv("CHATLLAMA_STORE", str(blocked))
    [fault] = faults(list(findings.store()))
    assert "can't be written" in fault and "CHATLLAMA_STORE" in fault


def test_a_store_that_others_may_enter_is_a_warning_with_the_cure(place: Path) -> None:
    (place / "storage").mkdir(mode=0o700)
    assert [one.level for one in findings.store() if "chmod" in one.told] == []
    (place / "storage").chmod(0o755)
    [told] = [one for one in findings.store() if "chmod 700" in one.told]
    assert told.level == "warning"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write what is read-only")
def test_a_read_only_store_is_a_fault(place: Path) -> None:
    (place / "storage").mkdir(mode=0o500)
    assert len(faults(list(findings.store()))) == 1


def test_a_home_of_another_version_of_dagster_is_a_fault_with_the_cure(place: Path) -> None:
    history = place / "dagster_home" / "history"
    history.mkdir()
    with sqlite3.connect(history / "runs.db") as old:
        old.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        old.execute("INSERT INTO alembic_version VALUES ('567bc23fd1ac')")
        old.execute("CREATE TABLE runs (id INTEGER PRIMARY KEY, run_id VARCHAR(255))")
    old.close()
    [fault] = faults(list(findings.dagster_home()))
    assert "dagster instance migrate" in fault


@pytest.mark.parametrize(
    ("compute", "told"),
    [
        ("launcher: local", None),
        ("launcher: slurm\nslurm: {memory: 4 gigs}", "cluster: compute.slurm.memory is '4 gigs'"),
        ("launcher: slurm", "cluster: compute.launcher is 'slurm', but sbatch"),
        ("launcher: [slurm]", "cluster: CHATLLAMA_COMPUTE: .*compute.yaml: launcher: Input should"),
        (None, "cluster: CHATLLAMA_COMPUTE: .*compute.yaml can't be read"),
    ],
)
def test_a_cluster_that_would_take_no_job_is_a_fault(
    place: Path, monkeypatch: pytest.MonkeyPatch, compute: str | None, told: str | None
) -> None:
    if compute is not None:
        (place / "compute.yaml").write_text(compute)
    monkeypatch.setenv("CHATLLAMA_COMPUTE", str(place / "compute.yaml"))
    monkeypatch.setenv("PATH", str(place))
    found = faults(list(findings.cluster()))
    assert len(found) == (told is not None)
    assert told is None or re.match(told, found[0])


def test_a_store_at_no_buckets_url_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATLLAMA_STORE", "s3://buck et/folder")
    [fault] = faults(list(findings.store()))
    assert "'buck et' is no bucket's name" in fault
