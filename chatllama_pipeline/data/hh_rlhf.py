"""The source `hh_rlhf`: Anthropic's human preferences about helpfulness and harmlessness.

Bai et al. 2022, "Training a Helpful and Harmless Assistant with RLHF" (MIT licence). A row holds
two transcripts that share all but the last reply.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from chatllama_pipeline.data.hub import location_of, stream_rows
from chatllama_pipeline.data.splits import Messages, Row

VARIABLE = "CHATLLAMA_HH_RLHF"
HUB_ID = "Anthropic/hh-rlhf"

_MARK = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def read_transcript(text: str) -> Messages:
    """The turns of a transcript, each stripped; empty if it doesn't start with a mark."""
    start, *pieces = _MARK.split(text)
    if start.strip():
        return []
    return [
        {"role": _ROLES[mark], "content": content.strip()}
        for mark, content in zip(pieces[::2], pieces[1::2], strict=True)
    ]


def convert(row: dict[str, Any]) -> Row | str:
    """A pair in `records.PAIR_SCHEMA`, or the defect for which the row is dropped."""
    texts = (row.get("chosen"), row.get("rejected"))
    if not all(isinstance(text, str) for text in texts):
        return "not_text"
    chosen, rejected = (read_transcript(str(text)) for text in texts)
    for turns in (chosen, rejected):
        defect = _defect(turns)
        if defect:
            return defect
    if chosen[:-1] != rejected[:-1]:
        return "prompts_differ"
    if chosen[-1] == rejected[-1]:
        return "identical_replies"
    return {
        "prompt": chosen[:-1],
        "chosen": chosen[-1]["content"],
        "rejected": rejected[-1]["content"],
        "strength": 1.0,
        "source": "hh_rlhf",
        "domain": "",
    }


def _defect(turns: Messages) -> str | None:
    if not turns:
        return "no_transcript"
    if turns[-1]["role"] == "user":
        return "ends_on_human_turn"
    if not turns[-1]["content"]:
        return "empty_reply"
    # Chat templates refuse what doesn't alternate from the user on.
    expected = ["user", "assistant"] * (len(turns) // 2)
    if [turn["role"] for turn in turns] != expected:
        return "turns_do_not_alternate"
    return None if all(turn["content"] for turn in turns) else "empty_turn"


def rows() -> Iterator[Row | str]:
    """Every row at CHATLLAMA_HH_RLHF, else on the hub, as a pair or as its defect."""
    return map(convert, stream_rows(location_of(VARIABLE, HUB_ID), VARIABLE))
