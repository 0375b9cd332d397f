"""The functions of an assistant's `rewards.py`, run by a process of their own.

What a person's code prints, breaks or never ends stays there: the training hears of values alone,
or of what is wrong and where.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from chatllama_pipeline.errors import ChatllamaError, DataError, SettingsError
from chatllama_pipeline.launch import shim
from chatllama_pipeline.records import Prompt
from chatllama_pipeline.settings import RewardsSettings
from chatllama_pipeline.training.terms import worker

_SHOWN_CHARACTERS = 80
_READ_BYTES = 2**16
# How often it is looked whether the process is there still.
_LOOK_SECONDS = 0.5
_END_SECONDS = 5.0
ENDED = b""

_At = tuple[str, int | None]


class Functions:
    """The running functions; use it as a context manager.

    Raises SettingsError where the file doesn't import or lacks a function.
    """

    def __init__(self, rewards: RewardsSettings) -> None:
        self.names = rewards.functions
        self.silence_seconds = rewards.silence_seconds
        self._file = rewards.file
        self._unread = b""
        self._asked: tuple[Sequence[Prompt], Sequence[str]] = ((), ())
        self._process = self._started()
        try:
            self._heard()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def begin(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> None:
        """Ask for the values of replies to `prompts`; `finish` waits for them."""
        self._asked = prompts, replies
        messages = [[dataclasses.asdict(turn) for turn in prompt] for prompt in prompts]
        line = json.dumps({"prompts": messages, "replies": list(replies)}) + "\n"
        # One that has ended is told by `finish`.
        with contextlib.suppress(BrokenPipeError):
            _write(self._to, line.encode())

    def finish(self) -> dict[str, list[float]]:
        """Each function's values, in the order of the replies.

        Raises DataError with function, row, prompt and reply for an exception, for what is no
        finite number, for `rewards.silence_seconds` of silence, and for an end of the process.
        """
        values: dict[str, list[float]] = self._heard()["values"]
        return values

    def close(self) -> None:
        """End the process, and all that came of it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for end in (self._to, self._from):
            with contextlib.suppress(OSError):
                os.close(end)

    def _started(self) -> subprocess.Popen[bytes]:
        receive, self._to = os.pipe()
        self._from, send = os.pipe()
        # -P: no module beside the worker may stand in for one that the functions import.
        command = [sys.executable, "-P", str(Path(worker.__file__).resolve())]
        arguments = [self._file, str(receive), str(send), *self.names]
        try:
            return subprocess.Popen(
                shim.through_shim([*command, *arguments]),
                env={**os.environ, shim.PARENT_VARIABLE: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=(receive, send),
                start_new_session=True,
            )
        finally:
            os.close(receive)
            os.close(send)

    def _heard(self) -> dict[str, Any]:
        """What the process says in the end; raises where it refuses, ends, or falls silent."""
        at_work: dict[_At, None] = {}
        event: dict[str, Any]
        heard_at = time.monotonic()
        while True:
            line, longest = self._line(), next(iter(at_work), None)
            if line == ENDED:
                raise self._error(f"ended the process ({self._end()})", longest)
            if line is None:
                if (seconds := self.silence_seconds) < time.monotonic() - heard_at:
                    what = f"said nothing for {seconds:g} seconds (rewards.silence_seconds)"
                    raise self._error(what, longest)
                continue
            heard_at = time.monotonic()
            event = json.loads(line)
            if "refused" in event:
                at = (event["name"], event["row"]) if event["name"] else None
                raise self._error(event["refused"], at)
            if "began" in event:
                at_work[event["began"], event["row"]] = None
            elif "ended" in event:
                at_work.pop((event["ended"], event["row"]))
            else:
                return event

    def _line(self) -> bytes | None:
        """The next line; `ENDED` where the process has, None where there is none yet."""
        while b"\n" not in self._unread:
            ready, _, _ = select.select([self._from], [], [], _LOOK_SECONDS)
            # What a process that has ended left behind is read before.
            if not ready:
                return ENDED if self._process.poll() is not None else None
            new = os.read(self._from, _READ_BYTES)
            if not new:
                return ENDED
            self._unread += new
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _end(self) -> str:
        """How the process ended, which it may not have where it closed what it speaks through."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return f"exit code {self._process.wait(_END_SECONDS)}"
        return "for the training, by closing its files"

    def _error(self, what: str, at: _At | None) -> ChatllamaError:
        if at is None:
            return SettingsError(f"{self._file}: {what}; correct the file (rewards.file)")
        name, row = at
        prompts, replies = self._asked
        if not replies:
            return SettingsError(f"{self._file}: {name} {what}; correct the file (rewards.file)")
        where = f"all {len(replies)} rows at once"
        if row is not None:
            prompt = prompts[row][-1].content if prompts[row] else ""
            where = f"row {row + 1} of {len(replies)}, prompt {_shown(prompt)}, reply "
            where += _shown(replies[row])
        return DataError(f"{self._file}: {name}, {where}: {what}; correct the function")


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + " ...")


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
