"""A server that is killed amid ratings: what it acknowledged stands, once."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatllama_pipeline.store.feedback import FeedbackLog
from chatllama_pipeline.store.manifests import Version
from chatllama_pipeline.store.versions import Store
from tests.serving.served import NAME
from tests.waiting import PATIENCE, wait_until

REPOSITORY = Path(__file__).parents[3]
KILLS, RATERS = 20, 4


class Rater(threading.Thread):
    """Gives rating after rating; one that wasn't acknowledged is sent again, as the docs say."""

    def __init__(self, number: int) -> None:
        super().__init__(daemon=True)
        self._number = number
        self.url = ""
        self.over = threading.Event()
        self.given: dict[str, dict[str, Any]] = {}
        self.sent_again = 0

    def run(self) -> None:
        with httpx.Client(timeout=PATIENCE, trust_env=False) as client:
            while not self.over.is_set():
                self._give(client, self._rating(len(self.given)))

    def _rating(self, count: int) -> dict[str, Any]:
        return {
            "kind": "thumb",
            "prompt": [{"role": "user", "content": f"question {count}"}],
            "reply": {"text": f"reply {count}"},
            "good": count % 2 == 0,
            "visit": f"visit-of-rater-{self._number:04}",
            "id": f"rating-{self._number:04}-{count:08}",
        }

    def _give(self, client: httpx.Client, rating: dict[str, Any]) -> None:
        tries = 0
        while True:
            try:
                answer = client.post(f"{self.url}/feedback", json=rating)
            except httpx.TransportError:
                tries += 1
                if self.over.wait(0.05):
                    return
                continue
            assert answer.status_code == 200, answer.text
            self.given[rating["id"]] = rating
            self.sent_again += tries > 0
            return


# Imports what a server needs, which takes the longest of its start, and forks one for each line
# that it is told; it ends with its input.
STARTER = """
import os, sys
import chatllama_pipeline.serving.api.running, chatllama_pipeline.serving.api.versions
from chatllama_pipeline.cli.main import main

for line in sys.stdin:
    server = os.fork()
    if not server:
        sys.argv = ["chatllama", "serve", *line.split()]
        main()
        os._exit(0)
    print(server, flush=True)
    os.waitpid(server, 0)
"""


@pytest.fixture
def starter(
    released: tuple[Store, Version, Version], tmp_path: Path
) -> Iterator[subprocess.Popen[str]]:
    """What starts servers of assistant `tiny`; they say on its stderr where they answer."""
    folder = tmp_path / "assistants" / NAME
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n")
    variables = {
        "CHATLLAMA_ASSISTANTS": str(folder.parent),
        "CHATLLAMA_STORE": str(released[0].root),
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONUNBUFFERED": "1",
    }
    with subprocess.Popen(
        [sys.executable, "-c", STARTER],
        cwd=REPOSITORY,
        env={**os.environ, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


@contextlib.contextmanager
def server(starter: subprocess.Popen[str]) -> Iterator[str]:
    """The address of a process that serves until it is killed in the end."""
    assert starter.stdin and starter.stdout and starter.stderr
    starter.stdin.write(f"{NAME} --port 0\n")
    starter.stdin.flush()
    number = int(starter.stdout.readline())
    try:
        told = next((line for line in starter.stderr if "answers at" in line), "")
        found = re.search(r"http://\S+", told)
        assert found is not None
        yield found[0]
    finally:
        os.kill(number, signal.SIGKILL)


def rated(raters: Sequence[Rater], url: str, count: int) -> None:
    """Have each give so many ratings there, or more; they go on."""
    before = [len(rater.given) for rater in raters]
    for rater in raters:
        rater.url = url
        if not rater.is_alive():
            rater.start()
    wait_until(
        lambda: all(
            len(rater.given) >= given + count for rater, given in zip(raters, before, strict=True)
        )
    )


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_what_a_server_acknowledged_stands_once_though_it_is_killed_twenty_times(
    released: tuple[Store, Version, Version], starter: subprocess.Popen[str]
) -> None:
    log, chance = FeedbackLog(released[0].root, NAME), random.Random(0)
    raters = [Rater(number) for number in range(RATERS)]
    try:
        for _ in range(KILLS):
            with server(starter) as url:
                # Amid ratings, at a moment that differs from kill to kill.
                rated(raters, url, chance.randrange(1, 12))
        with server(starter) as url:
            rated(raters, url, 1)
            for rater in raters:
                rater.over.set()
                rater.join(PATIENCE)
        given = {number: rating for rater in raters for number, rating in rater.given.items()}
        stands = log.entries()
        counts = Counter(entry.id for entry in stands)
        assert set(counts.values()) == {1}
        assert {number: counts[number] for number in given} == dict.fromkeys(given, 1)
        # The last one of each rater may stand without its word having come back.
        assert len(set(counts) - set(given)) <= RATERS
        for entry in stands:
            rating = given.get(entry.id)
            if rating is not None:
                assert json.loads(entry.content)["reply"]["text"] == rating["reply"]["text"]
                assert entry.visit == rating["visit"]
        assert sum(rater.sent_again for rater in raters) >= KILLS
    finally:
        for rater in raters:
            rater.over.set()
        log.forget()
