"""A process at work on a run, to be killed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import dagster as dg

from resources.signs_of_life import signs_folder

HOLDS = """
import signal, sys, time
from pathlib import Path
from resources.signs_of_life import sign_of_life
# Tests that a script runs by `&` ignore interrupts, and hand that on.
signal.signal(signal.SIGINT, signal.SIG_DFL)
with sign_of_life(Path(sys.argv[1]), sys.argv[2]):
    print("holds", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def another_process(instance: dg.DagsterInstance, run: str) -> Iterator[subprocess.Popen[str]]:
    """A process that is at work on a run, killed at the end."""
    command = [sys.executable, "-c", HOLDS, str(signs_folder(instance)), run]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "holds\n"
            yield process
        finally:
            process.kill()
