"""How much of what a judge said could be read, and what a person can do about the rest."""

from __future__ import annotations

from collections.abc import Mapping

from chatllama_pipeline.llm.judge.verdicts.reasons import CUT_OFF
from chatllama_pipeline.records import Check

_MOST = 0.5
# What helps against a reason that settings have a part in; {key} is the judge's.
_CURES = {
    CUT_OFF: "raise {key}.max_tokens",
    "prompt_too_long": "shorten the reply or the template, or judge by a model with more context",
}


def listed_reasons(reasons: Mapping[str, int]) -> str:
    """Counts by reason."""
    return ", ".join(f"{reason} {count}" for reason, count in reasons.items())


def cures(reasons: Mapping[str, int], key: str) -> str:
    """What to do about the reasons that have a cure, each behind a semicolon; "" for none."""
    known = [reason for reason in reasons if reason in _CURES]
    return "".join(f"; {reason}: {_CURES[reason].format(key=key)}" for reason in known)


def readable_check(asked: int, unread: Mapping[str, int], limit: float, key: str) -> Check:
    """A warning where more than `limit` of a judge's verdicts were set aside; where most were, what
    is left says little of the whole, and is not published."""
    count = sum(unread.values())
    share = count / asked if asked else 0.0
    passed = share <= limit
    told = "no language model judged" if not asked else f"all {asked} verdicts could be read"
    if count:
        told = (
            f"{count} of {asked} verdicts could not be read: {listed_reasons(unread)}"
            f"{cures(unread, key)}"
        )
    return Check("judge_readable", passed, passed or share > _MOST, share, limit, told)
