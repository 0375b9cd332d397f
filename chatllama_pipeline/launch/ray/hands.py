"""Hands batches out to a Ray cluster: `python -m chatllama_pipeline.launch.ray.hands ADDRESS MOST
COMMAND...`.

They come on standard input, and what was made of them goes to standard output. First comes what
each hand is told, then batches: a number of 8 bytes before each, and before what was made of it. A
hand whose node was lost starts on another one; its batch goes to whichever is idle first.
"""

from __future__ import annotations

import os
import sys
import threading
from queue import SimpleQueue
from typing import BinaryIO

import ray
from ray import cloudpickle
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from chatllama_pipeline.launch.ray import hand
from chatllama_pipeline.launch.ray.driver import connect
from chatllama_pipeline.launch.ray.hand import FAILED, LENGTH, NUMBER

# How long hands wait for a node that has room for them, and how many nodes each may lose.
ROOM_SECONDS = 600.0
MOST_LOST = 10


class Hands:
    """So many hands on the cluster, each asked by a thread of its own."""

    def __init__(self, count: int, command: list[str], trade: bytes, answers: BinaryIO) -> None:
        self._batches: SimpleQueue[tuple[bytes, bytes]] = SimpleQueue()
        self._answers, self._writing = answers, threading.Lock()
        self._at_work, self._counting = 0, threading.Lock()
        self._actor = ray.remote(hand.Hand).options(num_cpus=1)
        self._told = (command, dict(os.environ), ray.put(trade))
        for _ in range(count):
            threading.Thread(target=self._keep_one, daemon=True).start()

    def give(self, number: bytes, batch: bytes) -> None:
        """Have a hand work on a batch, once one is idle."""
        self._batches.put((number, batch))

    def _keep_one(self) -> None:
        lost = 0
        while True:
            try:
                self._use_one()
            except GetTimeoutError:
                # Those that found room do its work.
                if not self._at_work:
                    self._fail(f"no node had a CPU to spare within {ROOM_SECONDS:.0f} s")
                return
            except RayError as error:
                lost += 1
                if lost > MOST_LOST or not isinstance(error, RayActorError):
                    self._fail(str(error).strip().splitlines()[-1])
                    return

    def _use_one(self) -> None:
        """Start a hand, and give it batches while it lives."""
        one = self._actor.remote(*self._told)
        ray.get(one.is_there.remote(), timeout=ROOM_SECONDS)
        with self._counting:
            self._at_work += 1
        try:
            while True:
                number, batch = self._batches.get()
                try:
                    made = ray.get(one.work.remote(batch))
                except RayActorError:
                    self._batches.put((number, batch))
                    raise
                self._answer(number, made)
        finally:
            with self._counting:
                self._at_work -= 1

    def _fail(self, why: str) -> None:
        told = why.encode()
        length = len(told).to_bytes(LENGTH, "little")
        self._answer(FAILED.to_bytes(NUMBER, "little"), length + told)

    def _answer(self, number: bytes, what: bytes) -> None:
        with self._writing:
            self._answers.write(number + what)
            self._answers.flush()


def main(argv: list[str]) -> int:
    """Hand out what comes until the standard input ends; whoever asked waits for no more then."""
    batches, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # What Ray prints must not stand among the answers.
    os.dup2(2, 1)
    address, most, *command = argv
    try:
        connect(address)
    except (OSError, RuntimeError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    cloudpickle.register_pickle_by_value(hand)
    cpus = int(ray.cluster_resources().get("CPU", 0))
    count = max(1, min(cpus, int(most) or cpus))
    answers.write(count.to_bytes(NUMBER, "little"))
    answers.flush()
    hands = Hands(count, command, _frame(batches), answers)
    while number := batches.read(NUMBER):
        hands.give(number, _frame(batches))
    return 0


def _frame(pipe: BinaryIO) -> bytes:
    length = pipe.read(LENGTH)
    return length + pipe.read(int.from_bytes(length, "little"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
