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


def writes(spec: StageSpec, progress: Progress) -> Outcome:
    """Two lines with a pause between, a file, and what it found around it."""
    progress.say("begun")
    time.sleep(3)
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
    """A hundred steps of a fifth of a second, which go on where a signal stopped them."""
    state = Path(spec.run_folder) / "state"
    done = int(state.read_text()) if state.exists() else 0
    progress.say(f"goes on after step {done}")
    with StopSignals() as signals:
        while done < 100:
            time.sleep(0.2)
            done += 1
            progress.say(f"step {done}")
            if done % 10 == 0:
                state.write_text(str(done))
            if signals.received:
                state.write_text(str(done))
                raise stopped(signals, f"step {done}", saved=True)
    (Path(spec.output) / "made").write_text(str(done))
    return Outcome(rows=done)


def dies(spec: StageSpec, progress: Progress) -> Outcome:
    progress.say("last words")
    os._exit(9)


def is_killed(spec: StageSpec, progress: Progress) -> Outcome:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


TOLD_BY_NAME = (writes, refuses, counts, dies, is_killed)
STAGES = {function.__name__: f"__main__:{function.__name__}" for function in TOLD_BY_NAME}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], STAGES))
