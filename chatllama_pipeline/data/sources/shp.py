"""The source `shp`: the Stanford Human Preferences, replies to Reddit posts ranked by votes.

Ethayarajh et al. 2022, "Understanding Dataset Difficulty with V-usable Information".
"""

from __future__ import annotations

import math
from typing import Any

from chatllama_pipeline.data.sources.places import Home
from chatllama_pipeline.data.sources.raw import text_defect
from chatllama_pipeline.data.splits import Row

HOME = Home("stanfordnlp/SHP", "CHATLLAMA_SHP", "see the dataset's page (Reddit's terms)")
NEEDED = ("history", "human_ref_A", "human_ref_B", "labels")
USED = (*NEEDED, "domain", "score_ratio", "score_A", "score_B")
# Its files say in the domain which of its own splits a row is of; ours follow the post.
_OWN_SPLITS = ("_train", "_validation", "_test")


def convert(row: dict[str, Any], domain: str = "") -> Row | str:
    """A pair in `schemas.PAIR_SCHEMA`, or the defect for which the row is dropped.

    `labels` 1 means that A was preferred; `score_ratio` (votes of the better over the worse, >= 1)
    is the pair's strength. `domain` is that of the file, for rows that don't name theirs.
    """
    post, reply_a, reply_b = (row.get(name) for name in NEEDED[:3])
    defect = text_defect(post) or text_defect(reply_a) or text_defect(reply_b)
    if defect:
        return defect
    prompt, first, second = (str(text).strip() for text in (post, reply_a, reply_b))
    if not prompt:
        return "empty_prompt"
    if not first or not second:
        return "empty_reply"
    if first == second:
        return "identical_replies"
    label = row.get("labels")
    if label not in (0, 1):
        return "no_label"
    strength = _strength(row)
    if strength is None:
        return "no_score_ratio"
    named = row.get("domain")
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "chosen": first if label else second,
        "rejected": second if label else first,
        "strength": strength,
        "source": "shp",
        "domain": _plain_domain(named) if isinstance(named, str) and named else domain,
    }


def _strength(row: dict[str, Any]) -> float | None:
    """The score ratio, from the scores where it isn't given; None for what is no ratio."""
    ratio = row.get("score_ratio")
    if ratio is not None:
        number = _number(ratio)
        return None if number is None else max(1.0, number)
    a, b = _number(row.get("score_A")), _number(row.get("score_B"))
    if a is None or b is None or min(a, b) <= 0:
        return 1.0
    return max(a, b) / min(a, b)


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def _plain_domain(domain: str) -> str:
    for ending in _OWN_SPLITS:
        domain = domain.removesuffix(ending)
    return domain
