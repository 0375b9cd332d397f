"""A warm parent, seen from the run that starts it: see `warm.py`.

It lives as long as the thread that started it, or until it is closed; so do its forks.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

import psutil

from chatllama_pipeline.errors import WarmParentError
from chatllama_pipeline.launch import shim
from chatllama_pipeline.launch.hidden import needless
from chatllama_pipeline.launch.warm import WARM, WITHOUT_THREADS
from chatllama_pipeline.records import StageSpec

TICK_SECONDS = 0.1
# Nothing comes after it that what it imported would be good for.
LAST_STAGE = "release"
# On macOS a copy of a process that has libraries in it crashes.
CAN_FORK = sys.platform == "linux"


class WarmParent:
    """A process that runs `command` up to the point where a stage is chosen, and forks there.

    What it printed stands in the file `log`, replaced.
    """

    def __init__(
        self, command: Sequence[str], spec: Path, env: Mapping[str, str], log: Path
    ) -> None:
        self.command, self.log = list(command), log
        self._connection, theirs = Pipe()
        argv = [*command, WARM, str(theirs.fileno()), str(spec)]
        with theirs, log.open("wb") as output:
            self._process = subprocess.Popen(
                shim.through_shim(argv),
                env={**env, **WITHOUT_THREADS, shim.PARENT_VARIABLE: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[theirs.fileno()],
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def fork(
        self, argv: Sequence[str], env: Mapping[str, str], log: Path, look: Callable[[], None]
    ) -> Fork:
        """A child that does what `argv` would, which begins with `command`.

        `look` is called while the warm parent still imports; what it raises ends both. Raises
        WarmParentError where there is no child and won't be one.
        """
        arguments = list(argv[len(self.command) :])
        request = {"arguments": arguments, "env": dict(env), "log": str(log.resolve())}
        try:
            self._send({**request, "cwd": os.getcwd()})
            while not self._connection.poll(TICK_SECONDS):
                look()
            told = self.read()
        except BaseException:
            # A child that it may have forked meanwhile ends with it.
            self.close()
            raise
        if "refused" in told:
            self.close()
            raise WarmParentError(f"the warm parent could not fork: {told['refused']}")
        return Fork(self, int(told["pid"]))

    def read(self, timeout: float | None = None) -> dict[str, Any]:
        """What it tells next; nothing where it tells nothing for `timeout` seconds.

        Raises WarmParentError where it has ended.
        """
        try:
            if timeout is not None and not self._connection.poll(timeout):
                return {}
            told: dict[str, Any] = json.loads(self._connection.recv_bytes())
        except (EOFError, ConnectionError):
            raise self._ended() from None
        return told

    def close(self) -> None:
        """End it, and with it a child that it still has."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        self._connection.close()

    def _send(self, request: dict[str, Any]) -> None:
        try:
            self._connection.send_bytes(json.dumps(request).encode())
        except OSError:
            raise self._ended() from None

    def _ended(self) -> WarmParentError:
        code = self._process.wait()
        said: list[str] = []
        with contextlib.suppress(OSError):
            said = self.log.read_text(errors="replace").strip().splitlines()[-1:]
        return WarmParentError(": ".join([f"the warm parent ended with exit code {code}", *said]))


class WarmStart:
    """How the stages of one run start: by a warm parent, where that is what fresh ones would be.

    The first stage starts it, and one that needs another environment or other libraries replaces
    it.
    """

    def __init__(self) -> None:
        self._parent: WarmParent | None = None
        self._like: object = None
        self._given_up = False

    def parent(
        self, command: Sequence[str], spec: StageSpec, spec_path: Path, env: Mapping[str, str]
    ) -> WarmParent | None:
        """The one that may fork what would run `command` for `spec` in `env`; None if none may.

        Its child is a single process on a CPU: GPUs and DeepSpeed bring threads.
        """
        unused = needless(spec)
        if self._given_up or not CAN_FORK or spec.device != "cpu" or "deepspeed" not in unused:
            return None
        if self._parent is None and spec.stage == LAST_STAGE:
            return None
        like = (list(command), dict(env), unused)
        if self._parent is None or like != self._like:
            self.close()
            self._parent = WarmParent(command, spec_path, env, spec_path.with_name("warm.log"))
            self._like = like
        return self._parent

    def give_up(self) -> None:
        """Have no warm parent any more, in this run."""
        self.close()
        self._given_up = True

    def close(self) -> None:
        """End the warm parent, if there is one."""
        if self._parent is not None:
            self._parent.close()
        self._parent = None


class Fork:
    """A child of a warm parent; as much of `subprocess.Popen` as waiting for one needs."""

    def __init__(self, parent: WarmParent, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._parent = parent

    def poll(self) -> int | None:
        """The exit code, as Popen has it; None before it is told, and where it never will be."""
        with contextlib.suppress(WarmParentError, subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """The exit code; subprocess.TimeoutExpired, or WarmParentError where it won't be told."""
        if self.returncode is None:
            told = self._parent.read(timeout)
            if not told:
                raise subprocess.TimeoutExpired(self._parent.command, timeout)
            self.returncode = int(told["returncode"])
        return self.returncode

    def tree(self) -> set[psutil.Process]:
        """Its descendants, itself and those whose own parents have ended: the warm parent's."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return set(psutil.Process(self._parent.pid).children(recursive=True))
        return set()
