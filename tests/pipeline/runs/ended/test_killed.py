"""A run that is killed while it trains: nothing stays at work, and the next run finishes."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import yaml

from tests.pipeline.place import REPOSITORY, TINY_CONFIG, Place
from tests.waiting import PATIENCE, wait_until

STEPS, ENDLESS = 120, 10**6


@pytest.fixture
def longer(copied: Place) -> Place:
    """The tiny assistant with everything made but a longer SFT."""
    set_steps(copied, STEPS)
    return copied


def set_steps(place: Place, steps: int) -> None:
    config = yaml.safe_load(TINY_CONFIG)
    config["actor_config"]["max_steps"] = steps
    place.add_assistant("tiny", yaml.safe_dump(config))


def processes_of(place: Place) -> list[str]:
    """Command lines that name a file of this place's store: its children."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if str(place.root / "storage") in command:
            found.append(command)
    return found


def interrupts_ignored() -> None:
    # As nohup does, and a script's `&`.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def training(
    place: Place, signals: Callable[[], None] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A run of the longer SFT with a saved state; nothing of it is at work at the end."""
    run = subprocess.Popen(
        place.command("tiny", "actor_sft"),
        cwd=REPOSITORY,
        env=place.environment(),
        stderr=subprocess.DEVNULL,
        preexec_fn=signals,
    )
    try:
        wait_until(lambda: states_of(place), lambda: "for a saved state")
        assert processes_of(place)
        yield run
        run.wait(timeout=PATIENCE)
    finally:
        run.kill()
    wait_until(lambda: not processes_of(place), lambda: "for the children to be gone")


def states_of(place: Place) -> list[Path]:
    return list((place.root / "storage" / "_runs" / "actor_sft").rglob("state/*.json"))


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGKILL,
        # Who asks a training to stop finds its state saved: tests/launch shows that by itself.
        *(pytest.param(asked, marks=pytest.mark.slow) for asked in (signal.SIGINT, signal.SIGTERM)),
    ],
    ids=lambda number: number.name,
)
def test_a_killed_run_leaves_no_process_and_the_next_continues(
    longer: Place, number: signal.Signals
) -> None:
    before = longer.store.current("actor_sft", "tiny")
    with training(longer) as run:
        run.send_signal(number)
    assert run.returncode != 0
    assert longer.store.current("actor_sft", "tiny") == before

    again = longer.materialize("tiny", "actor_sft")
    assert again.returncode == 0, again.stderr
    assert "actor_sft: continues from the state" in again.stderr
    assert longer.made("tiny") >= {"actor_sft"}
    manifest = longer.store.read("actor_sft", "tiny").manifest
    assert manifest.settings["actor_config.max_steps"] == STEPS
    assert states_of(longer) == []


@pytest.mark.slow
def test_a_run_that_was_started_to_ignore_interrupts_is_stopped_with_its_state_saved(
    longer: Place,
) -> None:
    set_steps(longer, ENDLESS)
    with training(longer, interrupts_ignored) as run:
        told = longer.chatllama("stop", "tiny")
    assert told.returncode == 0, told.stderr
    assert "was ended" in told.stdout and run.returncode == 1
    log = [path.read_text() for path in longer.store.root.glob("_runs/actor_sft/*/*/spec.log")]
    assert any("stopped by" in text and "its state is saved" in text for text in log), log
