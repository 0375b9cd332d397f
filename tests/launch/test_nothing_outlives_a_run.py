"""Runs ended at work, by every way there is: nothing of them is left.

Each trial mostly waits (imports, grace times), so all of them are at work at the same time.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
ASSETS = ("one_child", "two_ranks")
KINDS = ("engine", "dagster")

Key = tuple[str, str, signal.Signals]


@pytest.fixture(scope="module")
def trials(
    tmp_path_factory: pytest.TempPathFactory, programs: Path, end_at_work: Callable[..., Any]
) -> Iterator[dict[Key, Future[Any]]]:
    def start(kind: str, asset: str, number: signal.Signals) -> Future[Any]:
        folder = tmp_path_factory.mktemp(f"{kind}_{asset}_{number.name}")
        home = tmp_path_factory.mktemp("dagster_home")
        engine = [sys.executable, str(programs / "parent.py"), str(folder), asset]
        dagster = [sys.executable, "-m", "dagster", "asset", "materialize"]
        dagster += ["-f", str(programs / "location.py"), "--select", asset]
        command = engine if kind == "engine" else dagster
        return pool.submit(
            end_at_work, command, {"DAGSTER_HOME": str(home)}, folder / asset, number
        )

    with ThreadPoolExecutor(max_workers=6) as pool:
        yield {
            (kind, asset, number): start(kind, asset, number)
            for kind in KINDS
            for asset in ASSETS
            for number in SIGNALS
        }


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("asset", ASSETS)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_of_a_run_that_was_signalled(
    trials: dict[Key, Future[Any]], kind: str, asset: str, number: signal.Signals
) -> None:
    trial = trials[kind, asset, number].result()

    # The program and its child; or the program, torchrun and its two ranks.
    assert len(trial.at_work) >= {"one_child": 2, "two_ranks": 4}[asset]
    assert trial.returncode != 0
