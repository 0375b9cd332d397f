"""What Slurm is asked for, and what it runs on each node."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chatllama_pipeline.launch.jobs.node_script import Meeting, node_script, processes_line
from chatllama_pipeline.launch.jobs.scheduler import Request
from chatllama_pipeline.launch.shim import through_shim

# Slurm looks at time limits about once a minute, and may send the signal that much earlier.
LEAST_WARNING_SECONDS = 60
# A port of the job's own among these: two jobs on one node must not meet.
FIRST_PORT, PORTS = 20_000, 12_000
# The batch script runs on the first node, whose address Slurm tells the others.
MEETING = Meeting(
    "$SLURM_NODEID",
    "$SLURM_LAUNCH_NODE_IPADDR",
    f"$(({FIRST_PORT} + SLURM_JOB_ID % {PORTS}))",
)


@dataclass(frozen=True)
class Wanted(Request):
    """What a job asks of Slurm.

    `memory` and `time_limit` are in Slurm's own notation, and like the rest its default where
    empty. `arguments` go to sbatch as they are.
    """

    partition: str = ""
    account: str = ""
    time_limit: str = ""
    memory: str = ""
    arguments: Sequence[str] = field(default=())


def sbatch_arguments(wanted: Wanted, name: str, log: Path, stop_seconds: float) -> list[str]:
    """The options of sbatch. A job that loses its node, or is preempted, waits again.

    `stop_seconds` before the time limit its tasks get SIGTERM, and save.
    """
    warning = max(LEAST_WARNING_SECONDS, math.ceil(stop_seconds))
    arguments = [
        f"--job-name={name}",
        f"--nodes={wanted.nodes}",
        "--ntasks-per-node=1",
        f"--output={log}",
        "--open-mode=append",
        "--requeue",
        f"--signal=TERM@{warning}",
    ]
    if wanted.threads:
        arguments.append(f"--cpus-per-task={wanted.threads}")
    if wanted.gpus:
        arguments.append(f"--gres=gpu:{wanted.gpus}")
    for option, value in (
        ("partition", wanted.partition),
        ("account", wanted.account),
        ("time", wanted.time_limit),
        ("mem", wanted.memory),
    ):
        if value:
            arguments.append(f"--{option}={value}")
    return [*arguments, *wanted.arguments]


def write_scripts(folder: Path, command: Sequence[str], wanted: Wanted, spec: Path) -> Path:
    """Write the batch script and each node's task into `folder`; returns the batch script."""
    task, batch = folder / "task.sh", folder / "job.sh"
    line = f"{shlex.join(through_shim([]))} {processes_line(command, wanted, MEETING)}"
    task.write_text(node_script(line, wanted.threads_each, spec))
    # Where a rank fails, those on other nodes would wait for it.
    batch.write_text(
        "#!/bin/bash\n"
        f"exec srun --ntasks-per-node=1 --kill-on-bad-exit=1 bash {shlex.quote(str(task))}\n"
    )
    return batch
