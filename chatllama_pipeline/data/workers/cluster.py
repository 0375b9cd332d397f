"""Batches worked on by the nodes of a Ray cluster, which share nothing but what they are told."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from chatllama_pipeline.data.workers.processes import (
    VARIABLE,
    Trade,
    received,
    sent,
    workers_asked,
)
from chatllama_pipeline.errors import ChildError, SettingsError
from chatllama_pipeline.launch import shim
from chatllama_pipeline.launch.child import child_environment, tail
from chatllama_pipeline.launch.ray.hand import FAILED, LENGTH, NUMBER

_DRIVER = "chatllama_pipeline.launch.ray.hands"
_WORKER = "chatllama_pipeline.data.workers.processes"


class RayWorkers:
    """A process on each CPU of the Ray cluster at `address`, or as many as `VARIABLE` says.

    A node that is lost takes no batch along: another has it again. What Ray says goes to the file
    `log`. Raises SettingsError where no cluster can be joined.
    """

    def __init__(self, address: str, log: Path, trade: Trade) -> None:
        self._address, self._log = address, log
        self._waiting: dict[int, Future[Any]] = {}
        self._given, self._failed = 0, ""
        # What was asked is in `_waiting` before no more comes, or hears of it at once.
        self._asking = threading.Lock()
        self._reader = threading.Thread(target=self._read, daemon=True)
        most = str(workers_asked()) if os.environ.get(VARIABLE, "").strip() else "0"
        environment = child_environment(1, {**os.environ, shim.PARENT_VARIABLE: str(os.getpid())})
        worker = [sys.executable, "-m", _WORKER]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as said:
            self._process = subprocess.Popen(
                shim.through_shim([sys.executable, "-m", _DRIVER, address, most, *worker]),
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                start_new_session=True,
            )
        joined = self._process.stdout.read(NUMBER)  # type: ignore[union-attr]
        if len(joined) < NUMBER:
            self.close()
            raise SettingsError(
                f"no Ray cluster can be joined at compute.ray.address {address!r}: look whether "
                f"its head runs (`ray status`), and whether this machine is one of its nodes; "
                f"{log} ends:\n{tail(log)}"
            )
        self.count = int.from_bytes(joined, "little")
        self._write(sent(trade))
        self._reader.start()

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def ask(self, task: str, batch: object) -> Future[Any]:
        """What the trade's method `task` makes of a batch, once a node has done it."""
        future: Future[Any] = Future()
        with self._asking:
            number, self._given = self._given, self._given + 1
            self._waiting[number] = future
            if self._failed:
                future.set_exception(self._error())
                return future
        with contextlib.suppress(BrokenPipeError):
            self._write(number.to_bytes(NUMBER, "little") + sent((task, batch)))
        return future

    def close(self) -> None:
        """End the process that asks the cluster; Ray ends what worked for it."""
        self._process.kill()
        self._process.wait()
        if self._reader.is_alive():
            self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]

    def _write(self, raw: bytes) -> None:
        self._process.stdin.write(raw)  # type: ignore[union-attr]
        self._process.stdin.flush()  # type: ignore[union-attr]

    def _read(self) -> None:
        for number, told in self._answers():
            future = self._waiting.pop(number)
            if isinstance(told, BaseException):
                future.set_exception(told)
            else:
                future.set_result(told)

    def _answers(self) -> Iterator[tuple[int, Any]]:
        """Numbers of batches with what was made of them, until there are no more."""
        pipe: Any = self._process.stdout
        why = ""
        try:
            while len(raw := pipe.read(NUMBER)) == NUMBER:
                number = int.from_bytes(raw, "little")
                if number == FAILED:
                    why = pipe.read(int.from_bytes(pipe.read(LENGTH), "little")).decode()
                    break
                yield number, received(pipe)
        except EOFError:
            pass
        self._end(why or f"the process that asks it ended; {self._log} ends:\n{tail(self._log)}")

    def _end(self, why: str) -> None:
        with self._asking:
            self._failed = why
            for future in self._waiting.values():
                future.set_exception(self._error())
            self._waiting.clear()

    def _error(self) -> ChildError:
        return ChildError(
            f"the Ray cluster at {self._address} made nothing of some rows ({self._failed}), and "
            "nothing was written: look at its nodes, and run again"
        )
