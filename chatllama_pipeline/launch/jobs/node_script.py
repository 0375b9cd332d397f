"""The shell script that a job runs on each of its nodes."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chatllama_pipeline.launch import shim
from chatllama_pipeline.launch.child import THREAD_VARIABLES, child_environment
from chatllama_pipeline.launch.jobs.scheduler import Request

PYTHON = sys.executable


@dataclass(frozen=True)
class Meeting:
    """Where the processes of several nodes find each other, as words of a shell.

    The form is static: it doesn't hang on what host names mean where.
    """

    node_rank: str
    address: str
    port: str


def node_script(line: str, threads_each: int, spec: Path, before: Sequence[str] = ()) -> str:
    """A script that runs `line` where Python and `spec` are, and says so where they aren't.

    The lines `before` come first, once both were found.
    """
    python, seen = shlex.quote(PYTHON), shlex.quote(str(spec))
    environment = child_environment(max(1, threads_each), {})
    if not threads_each:  # the stage counts the cores that it was given
        environment = {k: v for k, v in environment.items() if k not in THREAD_VARIABLES}
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    return "\n".join(
        [
            f'[ -x {python} ] || {{ echo "error: $(hostname) has no "{python}": install the '
            'project at the same path on every node" >&2; exit 127; }',
            f'[ -r {seen} ] || {{ echo "error: $(hostname) does not see "{seen}": the store '
            'must be a folder that all nodes see at the same path" >&2; exit 66; }',
            f"cd {shlex.quote(os.getcwd())} 2>/dev/null",
            *exports,
            *before,
            f"export {shim.PARENT_VARIABLE}=$PPID",
            f"exec {line}",
            "",
        ]
    )


def processes_line(command: Sequence[str], request: Request, meeting: Meeting) -> str:
    """A shell's line for `command`, by torchrun where it has several processes."""
    if request.nodes * request.processes == 1:
        return shlex.join(command)
    ranks = [
        *(PYTHON, "-m", "torch.distributed.run", "--no-python"),
        f"--nnodes={request.nodes}",
        f"--nproc-per-node={request.processes}",
    ]
    where = (
        f"--node-rank={meeting.node_rank} --master-addr={meeting.address} "
        f"--master-port={meeting.port}"
    )
    return f"{shlex.join(ranks)} {where} {shlex.join(shim.through_shim(command))}"
