"""What Slurm is asked for, and what it runs on each node."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chatllama_pipeline.launch import shim
from chatllama_pipeline.launch.child import THREAD_VARIABLES, child_environment

# Slurm looks at time limits about once a minute, and may send the signal that much earlier.
LEAST_WARNING_SECONDS = 60
# A port of the job's own among these: two jobs on one node must not meet.
FIRST_PORT, PORTS = 20_000, 12_000


@dataclass(frozen=True)
class Wanted:
    """What a job asks of Slurm: `nodes` with `processes` and `threads` on each of them.

    No threads: as many as Slurm gives. `gpus` are those of a node; `memory` and `time_limit` are
    in Slurm's own notation, and like the rest its default where empty. `arguments` go to sbatch as
    they are. A job that waits for `queue_seconds` is taken back.
    """

    nodes: int = 1
    processes: int = 1
    threads: int = 0
    gpus: int = 0
    partition: str = ""
    account: str = ""
    time_limit: str = ""
    memory: str = ""
    queue_seconds: float = 86_400.0
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
    task.write_text(_task(command, wanted, spec))
    # Where a rank fails, those on other nodes would wait for it.
    batch.write_text(
        "#!/bin/bash\n"
        f"exec srun --ntasks-per-node=1 --kill-on-bad-exit=1 bash {shlex.quote(str(task))}\n"
    )
    return batch


def _task(command: Sequence[str], wanted: Wanted, spec: Path) -> str:
    python, seen = shlex.quote(sys.executable), shlex.quote(str(spec))
    environment = child_environment(max(1, wanted.threads // wanted.processes), {})
    if not wanted.threads:  # the stage counts the cores that Slurm gave it
        environment = {k: v for k, v in environment.items() if k not in THREAD_VARIABLES}
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    return "\n".join(
        [
            f'[ -x {python} ] || {{ echo "error: $(hostname) has no "{python}": install the '
            'project at the same path on every node" >&2; exit 127; }',
            f'[ -r {seen} ] || {{ echo "error: $(hostname) does not see "{seen}": the store '
            'must be a folder that all nodes see at the same path" >&2; exit 66; }',
            *exports,
            f"export {shim.PARENT_VARIABLE}=$PPID",
            f"exec {_line(command, wanted)}",
            "",
        ]
    )


def _line(command: Sequence[str], wanted: Wanted) -> str:
    through_shim = [sys.executable, "-I", "-S", str(Path(shim.__file__).resolve())]
    if wanted.nodes * wanted.processes == 1:
        return shlex.join([*through_shim, *command])
    # The batch script runs on the first node, whose address Slurm tells the others: a rendezvous
    # that doesn't hang on what host names mean where.
    ranks = [
        *through_shim,
        *(sys.executable, "-m", "torch.distributed.run", "--no-python"),
        f"--nnodes={wanted.nodes}",
        f"--nproc-per-node={wanted.processes}",
    ]
    meeting = (
        "--node-rank=$SLURM_NODEID --master-addr=$SLURM_LAUNCH_NODE_IPADDR "
        f"--master-port=$(({FIRST_PORT} + SLURM_JOB_ID % {PORTS}))"
    )
    return f"{shlex.join(ranks)} {meeting} {shlex.join([*through_shim, *command])}"
