"""Inside of a warm parent: a process that has imported what stages import, and forks each stage.

It runs `COMMAND --warm DESCRIPTOR SPEC.json`, as what else runs stages does. A fork is what a
process of its own would be: a session, environment, folder and output of its own, tied to its
parent by the kernel. Only a process of one thread is copied whole, so nothing is forked while there
are more: locks that other threads held would stay locked for good.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from chatllama_pipeline.launch import shim

WARM = "--warm"
TASKS, OWN_LIBRARIES = Path("/proc/self/task"), Path("/proc/self/maps")
# For the warm parent alone: Arrow's allocator would start a thread of its own.
WITHOUT_THREADS = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
_PR_SET_CHILD_SUBREAPER = 36


def stage_to_run(descriptor: int) -> list[str]:
    """Fork for each request that comes through the pipe `descriptor`; ends with the pipe.

    Returns in the forked children alone, with what would stand behind COMMAND.
    """
    connection = Connection(descriptor)
    # What a stage leaves behind becomes a child of this process, by which the launcher finds it.
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    # Collections in children would copy every page that they count references on.
    gc.collect()
    gc.freeze()
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except EOFError:
            sys.exit(0)
        _reap()
        if _is_child_after_fork(request, connection):
            return list(request["arguments"])


def _is_child_after_fork(request: dict[str, Any], connection: Connection) -> bool:
    """Fork; True in the child, ready to run, False once the launcher was told how it ended."""
    _end_idle_threads()
    warm = os.getpid()
    try:
        if (threads := len(list(TASKS.iterdir()))) > 1:
            raise OSError(f"{threads} threads are at work in it")
        pid = os.fork()
    except OSError as error:
        connection.send_bytes(json.dumps({"refused": str(error)}).encode())
        return False
    if pid == 0:
        connection.close()
        _become(request, warm)
        return True
    connection.send_bytes(json.dumps({"pid": pid}).encode())
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    connection.send_bytes(json.dumps({"returncode": code}).encode())
    return False


def _become(request: dict[str, Any], warm: int) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(request["env"])
    shim.tie_to(warm)
    os.environ[shim.PARENT_VARIABLE] = str(os.getpid())
    os.chdir(request["cwd"])
    # Standard input is empty already, and shared.
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(log, standard)
    os.close(log)
    sys.argv[1:] = request["arguments"]


def _end_idle_threads() -> None:
    """End those with which numpy's OpenBLAS waits for products; it starts others when it has one.

    By what it does itself before a fork, which would be too late to count them.
    """
    lines = OWN_LIBRARIES.read_text().splitlines()
    for path in {line.split(maxsplit=5)[-1] for line in lines if "openblas" in line}:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(path).blas_thread_shutdown_()


def _reap() -> None:
    """Forget what earlier stages left behind, once it was ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
