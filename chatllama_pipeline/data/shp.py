"""The source `shp`: the Stanford Human Preferences, replies to Reddit posts ranked by votes.

Ethayarajh et al. 2022, "Understanding Dataset Difficulty with V-usable Information".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chatllama_pipeline.data.hub import location_of, stream_rows
from chatllama_pipeline.data.splits import Row

VARIABLE = "CHATLLAMA_SHP"
HUB_ID = "stanfordnlp/SHP"

_TEXTS = ("history", "human_ref_A", "human_ref_B")


def convert(row: dict[str, Any]) -> Row | str:
    """A pair in `records.PAIR_SCHEMA`, or the defect for which the row is dropped.

    `labels` 1 means that A was preferred; `score_ratio` (votes of the better over the worse, >= 1)
    is the pair's strength.
    """
    post, reply_a, reply_b = (row.get(name) for name in _TEXTS)
    if not (isinstance(post, str) and isinstance(reply_a, str) and isinstance(reply_b, str)):
        return "not_text"
    if not post.strip():
        return "empty_prompt"
    if not reply_a.strip() or not reply_b.strip():
        return "empty_reply"
    if reply_a.strip() == reply_b.strip():
        return "identical_replies"
    if row.get("labels") not in (0, 1):
        return "no_label"
    chosen, rejected = (reply_a, reply_b) if row["labels"] == 1 else (reply_b, reply_a)
    return {
        "prompt": [{"role": "user", "content": post.strip()}],
        "chosen": chosen.strip(),
        "rejected": rejected.strip(),
        "strength": max(1.0, float(row.get("score_ratio") or 1.0)),
        "source": "shp",
        "domain": str(row.get("domain") or ""),
    }


def rows() -> Iterator[Row | str]:
    """Every row at CHATLLAMA_SHP, else on the hub, as a pair or as its defect."""
    return map(convert, stream_rows(location_of(VARIABLE, HUB_ID), VARIABLE))
