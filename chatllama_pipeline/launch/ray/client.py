"""A process that asks a Ray cluster for us, and what it answers."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.launch import shim
from chatllama_pipeline.launch.child import tail
from chatllama_pipeline.launch.jobs.scheduler import NoAnswerError

# A busy head answers within a minute or never; joining its cluster takes a few seconds more.
ANSWER_SECONDS = 60.0
JOIN_SECONDS = 120.0
END_SECONDS = 10.0


class Client:
    """Questions to the cluster at `address`; what Ray says besides goes to the file `log`.

    Its process ends with this one, and with `close`.
    """

    def __init__(self, address: str, log: Path) -> None:
        self._address, self._log = address, log
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""

    def ask(self, question: str, **about: Any) -> Any:
        """The answer; raises NoAnswerError where none comes, SettingsError where it is refused."""
        try:
            process = self._joined()
            assert process.stdin is not None
            process.stdin.write(json.dumps({"ask": question, **about}).encode() + b"\n")
            process.stdin.flush()
            return self._answer(process, ANSWER_SECONDS)
        except BrokenPipeError:
            self.close()
            raise NoAnswerError(self._silence()) from None
        except NoAnswerError:
            self.close()  # the next question starts another, which joins anew
            raise

    def join(self) -> None:
        """Join the cluster, unless that is done; raises NoAnswerError."""
        try:
            self._joined()
        except NoAnswerError:
            self.close()
            raise

    def close(self) -> None:
        """End the process; a later question starts another."""
        process, self._process, self._rest = self._process, None, b""
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _joined(self) -> subprocess.Popen[bytes]:
        if self._process is not None:
            return self._process
        module = "chatllama_pipeline.launch.ray.driver"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                shim.through_shim([sys.executable, "-m", module, self._address]),
                env={**os.environ, shim.PARENT_VARIABLE: str(os.getpid())},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                # An interrupt of the terminal is for us: we tell Ray what follows from it.
                start_new_session=True,
            )
        self._answer(self._process, JOIN_SECONDS)
        return self._process

    def _answer(self, process: subprocess.Popen[bytes], seconds: float) -> Any:
        told = json.loads(self._line(process, time.monotonic() + seconds))
        if "refused" in told:
            raise SettingsError(told["refused"])
        if "error" in told:
            raise NoAnswerError(told["error"])
        return told["answer"]

    def _line(self, process: subprocess.Popen[bytes], deadline: float) -> bytes:
        assert process.stdout is not None
        while b"\n" not in self._rest:
            ready, _, _ = select.select(
                [process.stdout], [], [], max(0.0, deadline - time.monotonic())
            )
            read = os.read(process.stdout.fileno(), 65_536) if ready else b""
            if not read:
                raise NoAnswerError(self._silence())
            self._rest += read
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _silence(self) -> str:
        return f"the Ray cluster at {self._address} doesn't answer; {self._log} ends:\n" + tail(
            self._log
        )
