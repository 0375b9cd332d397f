"""The loop closes: served, rated, learned from, gated, and swapped in while clients ask on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.place import REPOSITORY, TINY_CONFIG


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_people_say_is_learned_from_and_no_request_fails(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(TINY_CONFIG)
    command = [sys.executable, "-m", "benchmarks.clients.feedback", "--seeds", "0"]
    ended = subprocess.run(
        [*command, "--config", str(config), "--questions", "120", "--approve"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[0])
    assert found["how"] == {} and found["requests"] > 350
    assert sum(found["ratings"].values()) > 100
    assert found["on feedback"]["prompts"] > 10
    assert found["on feedback"]["version"] in found["spoke"]
    assert found["swapped"] and len(found["spoke"]) == 2
