"""`python -m chatllama_pipeline`: status, approve, and errors without tracebacks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.place import REPOSITORY, TINY_CONFIG, Place
from tests.waiting import PATIENCE


def command(place: Place, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "chatllama_pipeline", *arguments],
        cwd=REPOSITORY,
        env=place.environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.fixture
def copied(tiny_run: Place, tmp_path: Path) -> Place:
    shutil.copytree(tiny_run.root, tmp_path / "copy")
    return Place(tmp_path / "copy")


def state_of(report: str, asset: str) -> str:
    [line] = [line for line in report.splitlines() if line.startswith(f"{asset} ")]
    return line


def test_status_shows_versions_and_that_all_is_current(tiny_run: Place) -> None:
    report = command(tiny_run, "status", "tiny").stdout
    version = tiny_run.store.read("actor_ppo", "tiny").id
    assert version in state_of(report, "actor_ppo")
    assert state_of(report, "actor_ppo").endswith("current")
    assert "RELEASED" in report or "HELD BACK: " in report
    assert "evaluation.json" in report
    audit = tiny_run.store.read("data_audit", "tiny").path / "report.html"
    assert f"data audit: {audit}" in report


def test_status_says_what_is_stale_and_why(copied: Place) -> None:
    copied.add_assistant("tiny", TINY_CONFIG.replace("actor_lr: 0.0002", "actor_lr: 0.0003"))
    report = command(copied, "status", "tiny").stdout
    stale = state_of(report, "actor_ppo")
    assert "stale: trainer_config.actor_lr 0.0002 -> 0.0003" in stale
    assert state_of(report, "evaluation").endswith("stale: actor_ppo is stale")
    assert state_of(report, "actor_sft").endswith("current")


def test_status_of_an_assistant_that_was_never_made(place: Place) -> None:
    place.add_assistant("mine", "seed: 0")
    report = command(place, "status", "mine").stdout
    assert state_of(report, "actor_ppo").endswith("never made")
    assert "chatllama make mine" in report


def test_an_unknown_assistant_is_an_error_in_one_line(place: Place) -> None:
    place.add_assistant("mine", "seed: 0")
    asked = command(place, "status", "main")
    assert asked.returncode == 2
    assert asked.stderr.startswith("error: unknown assistant 'main' (did you mean 'mine'?)")
    assert "Traceback" not in asked.stderr


def test_chat_without_a_release_says_what_to_do(place: Place) -> None:
    place.add_assistant("mine", "seed: 0")
    asked = command(place, "chat", "mine")
    assert asked.returncode == 2
    assert "release of assistant mine was never made" in asked.stderr


def test_a_person_can_approve_what_the_gate_held_back(copied: Place) -> None:
    config = TINY_CONFIG + "release: {min_win_rate: 0.999}\n"
    copied.add_assistant("tiny", config)
    shutil.rmtree(copied.root / "storage" / "release", ignore_errors=True)
    held = copied.materialize("tiny", "evaluation,release")
    assert held.returncode == 0, held.stderr
    assert "HELD BACK" in held.stderr
    assert copied.store.current("release", "tiny") is None

    approved = command(copied, "approve", "tiny")
    assert "chatllama make tiny --select release" in approved.stdout
    released = copied.materialize("tiny", "release")
    assert released.returncode == 0, released.stderr
    assert copied.store.current("release", "tiny") is not None
    assert "approved by a person" in command(copied, "status", "tiny").stdout
