"""`chatllama`: status, approve, and errors without tracebacks."""

from __future__ import annotations

import json

from click.testing import CliRunner

from chatllama_pipeline.cli.main import cli
from tests.pipeline.place import TINY_CONFIG, Place


def said(place: Place, *arguments: str) -> str:
    """What a command that ends well prints."""
    ended = CliRunner(env=place.environment()).invoke(cli, arguments, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return ended.stdout


def state_of(report: str, asset: str) -> str:
    [line] = [line for line in report.splitlines() if line.startswith(f"{asset} ")]
    return line


def test_status_shows_versions_and_that_all_is_current(tiny_run: Place) -> None:
    report = said(tiny_run, "status", "tiny")
    version = tiny_run.store.read("actor_ppo", "tiny").id
    assert version in state_of(report, "actor_ppo")
    assert state_of(report, "actor_ppo").endswith("current")
    assert "RELEASED" in report or "HELD BACK: " in report
    assert "evaluation.json" in report
    audit = tiny_run.store.read("data_audit", "tiny").path / "report.html"
    assert f"data audit: {audit}" in report


def test_status_says_what_is_stale_and_why(copied: Place) -> None:
    copied.add_assistant("tiny", TINY_CONFIG.replace("actor_lr: 0.0002", "actor_lr: 0.0003"))
    report = said(copied, "status", "tiny")
    stale = state_of(report, "actor_ppo")
    assert "stale: trainer_config.actor_lr 0.0002 -> 0.0003" in stale
    assert state_of(report, "evaluation").endswith("stale: actor_ppo is stale")
    assert state_of(report, "actor_sft").endswith("current")


def test_status_of_an_assistant_that_was_never_made(place: Place) -> None:
    place.add_assistant("mine", "seed: 0")
    report = said(place, "status", "mine")
    assert state_of(report, "actor_ppo").endswith("never made")
    assert "chatllama make mine" in report


def test_an_unknown_assistant_is_an_error_in_one_line(place: Place) -> None:
    place.add_assistant("mine", "seed: 0")
    asked = place.chatllama("status", "main")
    assert asked.returncode == 2
    assert asked.stderr.startswith("error: unknown assistant 'main' (did you mean 'mine'?)")
    assert "Traceback" not in asked.stderr


def test_chat_without_a_release_says_what_to_do(place: Place) -> None:
    place.add_assistant("mine", "seed: 0")
    asked = place.chatllama("chat", "mine")
    assert asked.returncode == 2
    assert "release of assistant mine was never made" in asked.stderr


def test_a_held_release_is_a_result_that_a_person_can_approve(copied: Place) -> None:
    # Of a few steps nothing comes: both actors' replies are worth nothing.
    evaluation = copied.store.read("evaluation", "tiny").path / "evaluation.json"
    figures = json.loads(evaluation.read_text())
    assert figures["released"] is False and "win rate" in figures["reason"]
    assert "HELD BACK: win rate" in said(copied, "status", "tiny")
    assert copied.store.current("release", "tiny") is None

    assert "chatllama make tiny --select release" in said(copied, "approve", "tiny")
    released = copied.materialize("tiny", "release")
    assert released.returncode == 0, released.stderr
    assert copied.store.current("release", "tiny") is not None
    assert "approved by a person" in said(copied, "status", "tiny")
