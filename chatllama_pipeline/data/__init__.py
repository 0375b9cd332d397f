"""Rows: public sources, the person's own, the datasets made of them, their audit.

Loose here is what several of its rooms share; this module names checks without importing numpy.
"""

from __future__ import annotations

_SCHEMA, _NOT_EMPTY, _LEAK = ("schema", True), ("not_empty", True), ("no_split_leak", True)
_SOURCE = [_SCHEMA, _NOT_EMPTY]
_DATASET = [_SCHEMA, _NOT_EMPTY, _LEAK, ("enough_rows", False)]

# asset: (check, blocking); a builder returns exactly these, in this order.
CHECK_NAMES: dict[str, list[tuple[str, bool]]] = {
    "shp": _SOURCE,
    "hh_rlhf": _SOURCE,
    "grammar": _SOURCE,
    "personal_data": [],
    "feedback": [("position_bias", False)],
    "preference_data": [
        _SCHEMA,
        _NOT_EMPTY,
        ("identical_pairs", True),
        _LEAK,
        ("length_only_accuracy", False),
    ],
    "synthetic_conversations": [],
    "synthetic_prompts": [],
    "synthetic_completions": [],
    "actor_training_data": _DATASET,
    "rlhf_training_data": _DATASET,
    "reward_training_data": [
        _SCHEMA,
        ("enough_rows", True),
        _LEAK,
        ("judge_agreement", False),
        ("judge_readable", True),
    ],
    "data_audit": [
        ("split_overlap", False),
        ("near_duplicates", False),
        ("alike_pairs", False),
        ("length_only_held_out", False),
        ("personal_data", False),
        ("unread_files", False),
    ],
}
