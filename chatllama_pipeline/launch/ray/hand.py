"""What works on a node of the cluster: an actor with a process of the project's behind it.

It is sent there by value and needs nothing there but Ray. What goes through it are bytes: how many
follow, and so many of them, both ways.
"""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

LENGTH = 8
# Bytes of a batch's number; the last number says that no more comes, and why.
NUMBER = 8
FAILED = (1 << 64) - 1


class Hand:
    """Starts `command` in the environment `env`, and tells it `trade` first."""

    def __init__(self, command: list[str], env: dict[str, str], trade: bytes) -> None:
        self._host = socket.gethostname()
        if not Path(command[0]).exists():
            raise FileNotFoundError(
                f"{self._host} has no {command[0]}: install the project at the same path on every "
                "node"
            )
        # It hears of this actor's end on its standard input.
        self._process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._tell(trade)

    def is_there(self) -> None:
        """Answers once this actor is at work."""

    def work(self, batch: bytes) -> bytes:
        """What the process made of a batch; raises RuntimeError where it ended instead."""
        try:
            self._tell(batch)
            length = self._answer(LENGTH)
            return length + self._answer(int.from_bytes(length, "little"))
        except (BrokenPipeError, EOFError):
            code = self._process.wait()
            raise RuntimeError(
                f"a process that works on rows on {self._host} ended with exit code {code}"
            ) from None

    def _tell(self, what: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(what)
        self._process.stdin.flush()

    def _answer(self, count: int) -> bytes:
        assert self._process.stdout is not None
        raw = self._process.stdout.read(count)
        if len(raw) < count:
            raise EOFError
        return raw
