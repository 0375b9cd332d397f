"""A store on a disk that is full or read-only: told with the cure, and whole afterwards."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from chatllama_pipeline.cli.main import cli
from chatllama_pipeline.definitions import definitions
from chatllama_pipeline.errors import StoreError
from chatllama_pipeline.store.versions import Store, Workbench
from tests.automation.made import write_assistant
from tests.store.recipes import recipe, writes

KIB = 1024


def mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)):
        pytest.skip("only root can mount a disk")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Leave no room at all."""
    file = disk / "filler"
    with file.open("wb", buffering=0) as handle:
        try:
            while True:
                handle.write(os.urandom(4 * KIB))
        except OSError:
            return file


def test_a_version_that_finds_no_room_is_not_published_and_is_made_once_there_is(
    disk: Path,
) -> None:
    store = Store(disk / "storage")
    first = store.make(recipe(), writes("w"), {}, force=False).version

    def large(bench: Workbench) -> None:
        (bench.output / "weights").write_bytes(os.urandom(2 * KIB * KIB))

    changed = recipe(settings={"seed": 1})
    with pytest.raises(StoreError, match=r"actor_sft could not be written to .*No space left"):
        store.make(changed, large, {}, force=False)  # type: ignore[arg-type]
    assert store.read("actor_sft", "mine").id == first.id
    assert not list((disk / "storage" / "_staging").rglob("weights"))

    filler = fill(disk)
    with pytest.raises(StoreError, match=r"free space there, make it writable, or set CHATLLAMA"):
        store.make(changed, writes("x"), {}, force=False)
    filler.unlink()
    assert not store.make(changed, writes("x"), {}, force=False).reused


def run(assistant: str) -> str:
    """What a run of personal_data ends with: its error, or nothing."""
    with dg.DagsterInstance.ephemeral() as instance:
        made = dg.materialize(
            [definitions.get_assets_def("personal_data")],
            partition_key=assistant,
            resources=definitions.resources,
            instance=instance,
            raise_on_error=False,
        )
    for event in made.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            return str(error.to_string()) if error else "no error"
    return ""


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_run_on_such_a_disk_ends_by_our_own_error(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(tmp_path / "assistants"))
    monkeypatch.setenv("CHATLLAMA_STORE", str(disk / "storage"))
    write_assistant(tmp_path / "assistants" / "mine")
    filler = fill(disk) if how == "full" else None
    if how == "read-only":
        assert mount("-o", "remount,ro", str(disk))
    told = run("mine")
    assert f"could not be written to {disk / 'storage'}" in told
    assert "make it writable, or set CHATLLAMA_STORE" in told and "Traceback" not in told
    assert "File " not in told
    if filler:
        filler.unlink()
    else:
        assert mount("-o", "remount,rw", str(disk))
    assert run("mine") == ""


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_check_of_such_a_disk_says_that_no_store_can_stand_there(disk: Path, how: str) -> None:
    if how == "full":
        fill(disk)
    else:
        assert mount("-o", "remount,ro", str(disk))
    done = CliRunner().invoke(cli, ["store", "check", str(disk)])
    assert done.exit_code == 1
    assert ("No space left" if how == "full" else "Read-only file system") in done.output
    assert done.output.endswith(f"no store can stand in {disk}\n")


def test_a_copy_to_a_full_disk_is_told_and_goes_on_once_there_is_room(
    disk: Path, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    for number in range(3):
        store.make(recipe(code_version=str(number)), writes(f"{number}" * 200 * KIB), {}, False)
    first = ["store", "copy", str(store.root), str(disk / "store")]
    assert CliRunner().invoke(cli, [*first, "--version", store.versions("actor_sft", "mine")[0].id])
    filler = fill(disk)
    done = CliRunner().invoke(cli, first)
    assert isinstance(done.exception, StoreError)
    assert f"could not be written to {disk / 'store'}: No space left" in str(done.exception)
    filler.unlink()
    done = CliRunner().invoke(cli, first)
    assert "2 versions copied, 1 stood there already" in done.output
