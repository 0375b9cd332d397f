"""`trainings.py SPEC.json`: stages that say when they are at work, on what, and beside whom."""

from __future__ import annotations

import json
import os
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from chatllama_pipeline.errors import DataError
from chatllama_pipeline.launch.stages import main
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Check, Outcome, StageSpec
from chatllama_pipeline.training import CHECK_NAMES

NAMES = ("reward_model", "actor_sft", "actor_ppo")
# Only what fails waits so long.
SECONDS = 300.0


def train(name: str, spec: StageSpec, progress: Progress) -> Outcome:
    """A training that ends at once, or as files in the folder TRIAL_FOLDER say.

    `meet`: once the other of the first two is at work, too; `NAME.fails`: that one then fails;
    `hang`: once it is interrupted.
    """
    folder, state = Path(os.environ["TRIAL_FOLDER"]), Path(spec.run_folder) / "state"
    at_work = folder / f"{name}.at_work"
    beside = sorted({path.stem for path in folder.glob("*.at_work")} - {name})
    at_work.write_text(os.environ["CUDA_VISIBLE_DEVICES"])
    try:
        if (folder / "meet").exists() and name != "actor_ppo":
            _wait_for_the_other(folder, name)
        if (folder / f"{name}.fails").exists():
            raise DataError(f"{name} can't be trained on this: mend the rows")
        while (folder / "hang").exists():
            time.sleep(0.05)
    except KeyboardInterrupt:
        state.write_text("half of it")
        raise
    finally:
        if not (folder / "meet").exists():
            at_work.unlink(missing_ok=True)  # which another rank may have done
    told = {"gpu": os.environ["CUDA_VISIBLE_DEVICES"], "beside": beside}
    told["continued"] = state.read_text() if state.exists() else ""
    (Path(spec.output) / "weights").write_text(json.dumps(told))
    checks = [Check(each, True, blocking, 1, 0, "") for each, blocking in CHECK_NAMES[name]]
    return Outcome(checks=checks)


def _wait_for_the_other(folder: Path, name: str) -> None:
    [other] = {"reward_model", "actor_sft"} - {name}
    deadline = time.monotonic() + SECONDS
    while not (folder / f"{other}.at_work").exists():
        if time.monotonic() > deadline:
            raise DataError(f"{other} isn't trained beside {name}")
        time.sleep(0.02)


STAGES = {name: f"{__name__}:{name}" for name in NAMES}
reward_model, actor_sft, actor_ppo = (partial(train, name) for name in NAMES)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], STAGES))
