"""A real server among clients that leave, overload, and send what is no request."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.pipeline.place import REPOSITORY

SECONDS, CLIENTS = 20, 32


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_among_hostile_clients_whoever_asks_well_is_answered_and_nothing_grows() -> None:
    command = [sys.executable, "-m", "benchmarks.clients.hostile"]
    ended = subprocess.run(
        [*command, "--seconds", str(SECONDS), "--clients", str(CLIENTS)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["wrong"] == []
    assert found["alive"] and found["answers_as_before"]
    assert found["in_flight_at_the_end"] == 0
    assert len(found["answers"]) == 11
    assert sum(found["answers"]["well"].values()) > CLIENTS / 4
    (before, after), (files_before, files_after) = found["memory_mb"], found["open_files"]
    assert after < 1.1 * before + 20
    assert files_after < files_before + 2 * CLIENTS
