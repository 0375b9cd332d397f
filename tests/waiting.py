"""Waiting for what comes by itself, on machines that are slow or have much else to do."""

from __future__ import annotations

import time
from collections.abc import Callable

# Seconds. Only what fails waits so long.
PATIENCE = 600.0


def wait_until(holds: Callable[[], object], what: Callable[[], str] = lambda: "") -> None:
    """Look until it holds; fails, saying `what`, where it never does."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"waited {PATIENCE:g} s in vain {what()}"
        time.sleep(0.02)
