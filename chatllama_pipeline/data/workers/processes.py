"""Processes that work on batches of rows, each asked by a thread of its own.

A worker hears of its end on its standard input, and the kernel ends it with the thread that started
it: it outlives nothing.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Protocol

from chatllama_pipeline.errors import ChildError, SettingsError
from chatllama_pipeline.launch import shim
from chatllama_pipeline.launch.child import child_environment, cores_at_hand

VARIABLE = "CHATLLAMA_DATA_WORKERS"
# Bytes that say how many follow.
LENGTH = 8


class Trade(Protocol):
    """What a worker is told once; it can be pickled."""

    def opened(self, files: Sequence[int]) -> Any:
        """Whose methods work on batches; `files` are descriptors that workers share."""


def workers_asked() -> int:
    """How many processes work on rows: what `VARIABLE` says, else as many as there are cores."""
    named = os.environ.get(VARIABLE, "").strip()
    if not named:
        return cores_at_hand()
    if not named.isdecimal() or int(named) < 1:
        raise SettingsError(f"{VARIABLE} is {named!r}; set it to a number of processes, 1 or more")
    return int(named)


class Workers:
    """So many processes of a trade."""

    def __init__(self, count: int, trade: Trade, files: Sequence[int] = ()) -> None:
        self.count = count
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._threads = ThreadPoolExecutor(count, "workers")
        command = [sys.executable, "-m", __name__, *map(str, files)]
        environment = child_environment(1, {**os.environ, shim.PARENT_VARIABLE: str(os.getpid())})
        try:
            for _ in range(count):
                process = subprocess.Popen(
                    shim.through_shim(command),
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    pass_fds=files,
                    start_new_session=True,
                )
                self._processes.append(process)
                _send(process.stdin, trade)
                self._idle.put(process)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def ask(self, task: str, batch: object) -> Future[Any]:
        """What the trade's method `task` makes of a batch, once a worker has done it."""
        return self._threads.submit(self._asked, task, batch)

    def _asked(self, task: str, batch: object) -> Any:
        process = self._idle.get()
        try:
            _send(process.stdin, (task, batch))
            told = received(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise _ended(process) from error
        finally:
            self._idle.put(process)
        if isinstance(told, BaseException):
            raise told
        return told

    def close(self) -> None:
        """End the processes, at work or not."""
        for process in self._processes:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    _shut(pipe)


def _shut(pipe: Any) -> None:
    try:
        pipe.close()
    # What was to be written when the worker ended.
    except OSError:
        return


def _ended(process: subprocess.Popen[bytes]) -> ChildError:
    code = process.wait()
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    memory = "the kernel does so where memory ends; " if code == -9 else ""
    return ChildError(
        f"a process that works on rows (pid {process.pid}) {how} before it was done; {memory}"
        f"nothing was written. Run again, with {VARIABLE}=1 if memory is short"
    )


def sent(what: object) -> bytes:
    """What goes through a pipe: how many bytes follow, and `what` as bytes."""
    raw = pickle.dumps(what, protocol=5)
    return len(raw).to_bytes(LENGTH, "little") + raw


def _send(pipe: Any, what: object) -> None:
    pipe.write(sent(what))
    pipe.flush()


def received(pipe: Any) -> Any:
    """What came through a pipe; raises EOFError at its end."""
    length = int.from_bytes(_exactly(pipe, LENGTH), "little")
    return pickle.loads(_exactly(pipe, length))


def _exactly(pipe: Any, count: int) -> bytes:
    raw: bytes = pipe.read(count)
    if len(raw) < count:
        raise EOFError
    return raw


def main() -> None:
    """Work on what comes on standard input until it ends."""
    receive, send = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # What a library prints must not stand among the answers.
    os.dup2(2, 1)
    trade: Trade = received(receive)
    worker = trade.opened([int(file) for file in sys.argv[1:]])
    while True:
        try:
            task, batch = received(receive)
        except EOFError:
            return
        try:
            told = getattr(worker, task)(batch)
        # Whatever it is, it is raised again where the batches come from.
        except Exception as error:
            told = error
        _send(send, told)


if __name__ == "__main__":
    main()
