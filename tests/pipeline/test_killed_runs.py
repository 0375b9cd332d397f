"""A run that is killed while it trains: nothing stays at work, and the next run finishes."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
import yaml

from tests.pipeline.place import REPOSITORY, TINY_CONFIG, Place
from tests.waiting import PATIENCE, wait_until

STEPS = 120


@pytest.fixture
def copied(tiny_run: Place, tmp_path: Path) -> Place:
    """The tiny assistant with everything made but a longer SFT."""
    shutil.copytree(tiny_run.root, tmp_path / "copy")
    config = yaml.safe_load(TINY_CONFIG)
    config["actor_config"]["max_steps"] = STEPS
    place = Place(tmp_path / "copy")
    place.add_assistant("tiny", yaml.safe_dump(config))
    return place


def processes_of(place: Place) -> list[str]:
    """Command lines that name a file of this place's store: its children."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if str(place.root / "storage") in command:
            found.append(command)
    return found


def default_signals() -> None:
    # Tests may run in the background, where a shell makes its children ignore interrupts.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)],
    ids=lambda number: number.name,
)
def test_a_killed_run_leaves_no_process_and_the_next_continues(
    copied: Place, number: signal.Signals
) -> None:
    before = copied.store.current("actor_sft", "tiny")
    run = subprocess.Popen(
        copied.command("tiny", "actor_sft"),
        cwd=REPOSITORY,
        env=copied.environment(),
        stderr=subprocess.DEVNULL,
        preexec_fn=default_signals,
    )
    runs = copied.root / "storage" / "_runs" / "actor_sft"
    try:
        wait_until(lambda: any(runs.rglob("state/*.json")), lambda: "for a saved state")
        assert processes_of(copied)
        run.send_signal(number)
        run.wait(timeout=PATIENCE)
    finally:
        run.kill()

    wait_until(lambda: not processes_of(copied), lambda: "for the children to be gone")
    assert run.returncode != 0
    assert copied.store.current("actor_sft", "tiny") == before

    again = copied.materialize("tiny", "actor_sft")
    assert again.returncode == 0, again.stderr
    assert "actor_sft: continues from the state" in again.stderr
    assert copied.made("tiny") >= {"actor_sft"}
    manifest = copied.store.read("actor_sft", "tiny").manifest
    assert manifest.settings["actor_config.max_steps"] == STEPS
    assert list(runs.rglob("state")) == []
