"""Stages of the tests' own, as a job's nodes run them: `stages.py SPEC.json`."""

import os
import signal
import sys
import time
from pathlib import Path

from chatllama_pipeline.errors import DataError
from chatllama_pipeline.launch.stages import main
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Outcome, StageSpec
from chatllama_pipeline.training.stopping import StopSignals, stopped

COUNTED, WAITS_AFTER = 40, 30


def writes(spec: StageSpec, progress: Progress) -> Outcome:
    """Two lines with a pause between, a file, and what it found around it."""
    progress.say("begun")
    time.sleep(1)
    progress.say("done")
    node = os.environ.get("SLURMD_NODENAME") or os.environ.get("NODE", "no node")
    (Path(spec.output) / "made").write_text(node)
    job = os.environ.get("SLURM_JOB_ID")
    job = job or Path(os.environ.get("NODE_HOW", "no job")).name.split(".")[0]
    with (Path(spec.run_folder) / "starts").open("a") as starts:
        starts.write(f"{job}\n")
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return Outcome(rows=1, metrics={"threads": spec.threads, "devices": devices})


def refuses(spec: StageSpec, progress: Progress) -> Outcome:
    raise DataError("rows.json, row 3: prompt is empty: write one")


def counts(spec: StageSpec, progress: Progress) -> Outcome:
    """Counts to `COUNTED`, saves each tenth step, and goes on where a signal stopped it.

    In its first life it waits after step `WAITS_AFTER` for what shall befall it: a signal, or the
    file `go`.
    """
    folder = Path(spec.run_folder)
    state = folder / "state"
    done = int(state.read_text()) if state.exists() else 0
    first_life = done == 0
    patience = time.monotonic() + 300
    progress.say(f"goes on after step {done}")
    with StopSignals() as signals:
        while done < COUNTED:
            time.sleep(0.05)
            if signals.received:
                _save(state, done)
                raise stopped(signals, f"step {done}", saved=True)
            if done == WAITS_AFTER and first_life and not (folder / "go").exists():
                assert time.monotonic() < patience, "nothing befell it"
                continue
            done += 1
            progress.say(f"step {done}")
            if done % 10 == 0:
                _save(state, done)
    (Path(spec.output) / "made").write_text(str(done))
    return Outcome(rows=done)


def _save(state: Path, done: int) -> None:
    beside = state.with_suffix(".new")
    beside.write_text(str(done))
    beside.replace(state)


def dies(spec: StageSpec, progress: Progress) -> Outcome:
    progress.say("last words")
    os._exit(9)


def is_killed(spec: StageSpec, progress: Progress) -> Outcome:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def fills_a_disk(spec: StageSpec, progress: Progress) -> Outcome:
    """Writes more than a disk of the node has room for."""
    (Path(spec.run_folder) / "disk" / "file").write_bytes(bytes(2**21))
    raise AssertionError


TOLD_BY_NAME = (writes, refuses, counts, dies, is_killed, fills_a_disk)
STAGES = {function.__name__: f"__main__:{function.__name__}" for function in TOLD_BY_NAME}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], STAGES))
