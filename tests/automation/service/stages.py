"""`stages.py SPEC.json`: stages that take long enough to be killed amid."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from chatllama_pipeline.launch.stages import main
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Check, Outcome, StageSpec
from chatllama_pipeline.training import CHECK_NAMES
from tests.automation.year.stages import evaluation as quick_evaluation
from tests.automation.year.stages import release as quick_release

SECONDS = 4.0


def actor_sft(spec: StageSpec, progress: Progress) -> Outcome:
    """Weights that follow from the settings, written by the first of two ranks."""
    time.sleep(SECONDS)
    if os.environ.get("RANK", "0") == "0":
        steps = spec.settings["actor_config"]["max_steps"]
        (Path(spec.output) / "weights").write_text(json.dumps({"steps": steps}))
    checks = CHECK_NAMES["actor_sft"]
    return Outcome(checks=[Check(name, True, blocking, 1, 0, "") for name, blocking in checks])


def evaluation(spec: StageSpec, progress: Progress) -> Outcome:
    return quick_evaluation(spec)


def release(spec: StageSpec, progress: Progress) -> Outcome:
    return quick_release(spec)


STAGES = {name: f"{__name__}:{name}" for name in ("actor_sft", "evaluation", "release")}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], STAGES))
