"""What a training of two nodes must bear on every cluster, and end as if nothing had been."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chatllama_pipeline.launch.jobs.running import JOB_FILE
from chatllama_pipeline.launch.jobs.scheduler import Request
from chatllama_pipeline.records import StageSpec
from tests.cluster.held import Hold
from tests.cluster.losses import Alone, trial
from tests.cluster.place import Place, when
from tests.waiting import wait_until

# After which steps (PPO's iterations) it is cancelled, and loses a node; and from where it may at
# the least go on then, by its checkpoint_steps.
AMID = {"reward_model": (9, 16, 14), "actor_sft": (9, 16, 14), "actor_ppo": (2, 4, 3)}


def bears(
    alone: Alone,
    stage: str,
    folder: Path,
    request: Request,
    lose: Callable[[Place, str], object],
) -> None:
    """Cancel a training, kill the run that goes on with it, and `lose` a node of its job's.

    It must learn what one process learns, and leave nothing behind when it is cancelled. `lose`
    gets the place of the run after that, and the job.
    """
    spec = trial(stage).spec(alone.inputs, folder)
    hold = Hold(Path(spec.run_folder))
    cancelled, lost, least = AMID[stage]

    hold.after(cancelled)
    when(hold.waits, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        Place(folder).train_held(spec, request)
    assert not (folder / JOB_FILE).exists()
    assert newest_state(spec) == cancelled

    hold.after(lost)
    kill_the_run(spec, request, hold.waits)
    job, log = str(json.loads((folder / JOB_FILE).read_text())["id"]), folder / "spec.log"
    assert steps_gone_on_after(log) == [cancelled]

    place = Place(folder)

    def strike() -> None:
        lose(place, job)
        hold.release()

    when(lambda: place.heard(f"takes up job {job}"), strike)
    outcome, metrics = place.train_held(spec, request)
    launcher = next(key.removesuffix("_job") for key in metrics if key.endswith("_job"))
    # It goes on in the same job, or in another where the rank that was left ended the first.
    assert metrics[f"{launcher}_jobs"] + metrics[f"{launcher}_restarts"] >= 2
    assert least <= steps_gone_on_after(log)[-1] <= lost
    alone.assert_same(stage, outcome)


def newest_state(spec: StageSpec) -> int:
    """After how many steps the newest state was saved."""
    newest = max((Path(spec.run_folder) / "state").glob("*/counts.json"))
    counts = json.loads(newest.read_text())["counts"]
    return int(counts["step"] if "step" in counts else counts["iterations_done"])


def steps_gone_on_after(log: Path) -> list[int]:
    """After how many steps each life of a training went on, as it said."""
    found = re.findall(r"continues .*after (?:step|iteration) (\d+)", log.read_text())
    return [int(step) for step in found]


def kill_the_run(spec: StageSpec, request: Request, waits: Callable[[], bool]) -> None:
    """Start a training as a run of another process does, and kill that amid it."""
    folder = Path(spec.result).parent
    (folder / "asked").write_bytes(pickle.dumps((spec, request)))
    program = (
        "import pickle; from pathlib import Path; from tests.cluster.place import Place;"
        f"folder = Path({str(folder)!r});"
        "Place(folder).train_held(*pickle.loads((folder / 'asked').read_bytes()))"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as run:
        wait_until(lambda: waits() or run.poll() is not None)
        assert run.poll() is None
        run.kill()
