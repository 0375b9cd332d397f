"""Trials: a program at work in processes of its own, ended from outside; what is left of it?"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from tests.waiting import PATIENCE, wait_until

RANKS = {"one_child": 1, "two_ranks": 2}


@pytest.fixture(scope="session")
def programs() -> Path:
    return Path(__file__).parent / "programs"


# A test run started by `&` in a script ignores SIGINT, and programs would inherit that.
CLEAN_SIGNALS = (
    "import os, signal, sys\n"
    "for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_DFL)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)


def living(text: str) -> list[psutil.Process]:
    """Other processes running that carry `text` in their arguments or environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            values = [*process.cmdline(), *process.environ().values()]
            if any(text in value for value in values) and process.pid != os.getpid():
                found.append(process)
    return found


def kill_all(text: str) -> None:
    for process in living(text):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def all_at_work(folder: Path) -> bool:
    return len(list(folder.glob("at_work_*"))) == RANKS[folder.name]


@dataclass(frozen=True)
class Trial:
    """What became of a program of which nothing is left: exit code, and what was seen at work."""

    returncode: int
    at_work: list[str]


@pytest.fixture(scope="session")
def end_at_work() -> Callable[..., Trial]:
    def end(
        command: Sequence[str], env: Mapping[str, str], folder: Path, number: signal.Signals
    ) -> Trial:
        """Start `command`, all of whose processes carry `folder.parent`; signal it at work."""
        text = str(folder.parent)
        with (folder.parent / "output.txt").open("wb") as output:
            program = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", CLEAN_SIGNALS, *command],
                env={**os.environ, **env, "TRIAL_FOLDER": text},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            told = folder.parent / "output.txt"
            wait_until(lambda: all_at_work(folder), told.read_text)
            at_work = [" ".join(process.cmdline()) for process in living(text)]
            program.send_signal(number)
            returncode = program.wait(timeout=PATIENCE)
            wait_until(lambda: not living(text), lambda: f"for the end of {living(text)}")
            return Trial(returncode, at_work)
        finally:
            kill_all(text)
            program.wait()

    return end


@pytest.fixture(scope="session")
def watch() -> SimpleNamespace:
    """The functions above for tests that start their programs themselves."""
    return SimpleNamespace(living=living, kill_all=kill_all, all_at_work=all_at_work)
