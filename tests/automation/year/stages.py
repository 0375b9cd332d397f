"""Stages that end at once: the gate's verdict follows from the settings, a release is a file."""

from __future__ import annotations

import json
from pathlib import Path

from chatllama_pipeline.evaluation import CHECK_NAMES, EVALUATION_FILE
from chatllama_pipeline.records import Check, Outcome, StageSpec

WIN_RATE = 0.8


def evaluation(spec: StageSpec) -> Outcome:
    least = spec.settings["release"]["min_win_rate"]
    verdict = {"released": least < WIN_RATE, "reason": f"win rate {WIN_RATE} against {least}"}
    # The inputs, so that each evaluation is a version of its own.
    found = {**verdict, "inputs": versions(spec)}
    (Path(spec.output) / EVALUATION_FILE).write_text(json.dumps(found))
    names = CHECK_NAMES["evaluation"]
    return Outcome(checks=[Check(name, True, blocking, 1, 0, "") for name, blocking in names])


def versions(spec: StageSpec) -> dict[str, str]:
    """The inputs by their versions, wherever they stand."""
    return {name: Path(path).name for name, path in spec.inputs.items()}


def release(spec: StageSpec) -> Outcome:
    (Path(spec.output) / "weights").write_text(json.dumps(versions(spec)))
    return Outcome()


STAGES = {"evaluation": evaluation, "release": release}
