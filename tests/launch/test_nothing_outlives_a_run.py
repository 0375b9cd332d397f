"""Runs ended at work, by every way there is: nothing of them is left.

Each trial mostly waits (imports, grace times), so several are at work at the same time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, Signals
from typing import Any

import pytest

Way = tuple[str, str, Signals]

# Each kind of program meets each signal, and each signal one child and two ranks.
WAYS: tuple[Way, ...] = (
    ("engine", "one_child", SIGINT),
    ("engine", "one_child", SIGTERM),
    ("engine", "two_ranks", SIGKILL),
    ("dagster", "one_child", SIGKILL),
    ("dagster", "two_ranks", SIGINT),
    ("dagster", "two_ranks", SIGTERM),
)
OTHERS: tuple[Way, ...] = (
    ("engine", "one_child", SIGKILL),
    ("engine", "two_ranks", SIGINT),
    ("engine", "two_ranks", SIGTERM),
    ("dagster", "one_child", SIGINT),
    ("dagster", "one_child", SIGTERM),
    ("dagster", "two_ranks", SIGKILL),
)


@pytest.mark.parametrize(
    "ways", [WAYS, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["in pairs", "the others"]
)
def test_nothing_is_left_of_a_run_that_was_signalled(
    tmp_path: Path, programs: Path, end_at_work: Callable[..., Any], ways: tuple[Way, ...]
) -> None:
    def end(way: Way) -> Any:
        kind, asset, number = way
        place = tmp_path / f"{kind}_{asset}_{number.name}"
        home, folder = place / "home", place / "run" / asset
        for made in (home, folder.parent):
            made.mkdir(parents=True)
        engine = [sys.executable, str(programs / "parent.py"), str(folder.parent), asset]
        dagster = [sys.executable, "-m", "dagster", "asset", "materialize"]
        dagster += ["-f", str(programs / "location.py"), "--select", asset]
        command = engine if kind == "engine" else dagster
        return end_at_work(command, {"DAGSTER_HOME": str(home)}, folder, number)

    with ThreadPoolExecutor(len(ways)) as pool:
        for way, trial in zip(ways, pool.map(end, ways), strict=True):
            # The program and its child; or the program, torchrun and its two ranks.
            assert len(trial.at_work) >= {"one_child": 2, "two_ranks": 4}[way[1]], way
            assert trial.returncode != 0, way
