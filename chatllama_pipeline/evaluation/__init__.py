"""What came before against what was made: replies, judging, figures, the gate, the report.

This module names the checks and the files of an evaluation, without importing what makes them.
"""

from __future__ import annotations

EVALUATION_FILE = "evaluation.json"
REPORT_FILE = "report.html"

# Asset -> (check, blocking): what Dagster must know before anything runs.
CHECK_NAMES: dict[str, list[tuple[str, bool]]] = {
    "evaluation": [
        ("release_gate", False),
        ("reward_accuracy", False),
        ("kl_per_reply", False),
        ("reply_length", False),
        ("known_answers", False),
        ("over_release", False),
        ("judge_readable", True),
    ]
}
