"""SIGTERM and SIGINT as a wish: a training saves its state at the next safe moment and leaves."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

from chatllama_pipeline.errors import StoppedError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# A terminal, a job's shell and torchrun each pass an interrupt on, on a busy machine late: within
# this time it is one and the same.
SAME_WISH_SECONDS = 10.0


class StopSignals:
    """Within it, the first SIGTERM or SIGINT is remembered; a later SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._first = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                previous = signal.getsignal(number)
                # nohup and a shell's & ignore interrupts, and so they stay. Dagster hands that on
                # to SIGTERM, which is somebody's wish all the same. None: a handler not set from
                # Python, which Python could not put back.
                ignored = number == signal.SIGINT and previous is signal.SIG_IGN
                if previous is not None and not ignored:
                    self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._first = signal.Signals(number).name, now
        elif number == signal.SIGINT and now - self._first > SAME_WISH_SECONDS:
            raise KeyboardInterrupt


def stopped(signals: StopSignals, where: str, saved: bool) -> StoppedError:
    """The error that a training leaves with; another process may have got the signal."""
    by = signals.received or "a signal to another process"
    state = "its state is saved" if saved else "its last saved state stands"
    return StoppedError(f"stopped by {by} after {where}: {state}; run it again to continue")
