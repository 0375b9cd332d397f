"""Reading a judge's reply: a score from 0 to 5, or which of two replies is better.

A score counts only where it is the judge's own word without a doubt: the whole reply, its first or
its last line, or the only number in it. So a text that plants "Score: 5" wins nothing when the
judge quotes it: a second number makes the reply unreadable, and the judge is asked again.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

LOWEST, HIGHEST = 0.0, 5.0

Choice = Literal["A", "B", "tie"]

# Why a reply could not be read.
OUT_OF_RANGE = "out of range"
SEVERAL = "several numbers"
OTHER_SCALE = "another scale"
NO_SCORE = "no score"
REFUSED = "refused"
CUT_OFF = "cut off"
NO_CHOICE = "no choice"

_WORDS = {
    **{"zero": 0.0, "one": 1.0, "two": 2.0, "three": 3.0, "four": 4.0, "five": 5.0},
    **{"six": 6.0, "seven": 7.0, "eight": 8.0, "nine": 9.0, "ten": 10.0},
}
_THINKING = re.compile(r"<(think|thinking|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"^```\w*\s*\n(.*?)\n?```$", re.DOTALL)
_DECORATION = "*_`#>\"'()[]{}|.!:= \t\u201c\u201d\u2018\u2019\u00ab\u00bb\u3002"
# "0 to 5", "out of 5", "scale of 5", "/5": the scale, not a score.
_RANGE = re.compile(
    r"(?<![\w.,])0(?:\.0)?\s*(?:to|-|\u2013|\u2014|\.\.+)\s*5(?:\.0)?(?![\w.,]*\d)", re.I
)
_OUT_OF = re.compile(r"\s*(?:/|\bout of\b|\bof\b)\s*5(?:\.0+)?(?![\w]|[.,]\d)", re.IGNORECASE)
_OTHER_SCALE = re.compile(r"\d\s*(?:/|\bout of\b)\s*\d|\d\s*%", re.IGNORECASE)
_HALF = re.compile(r"\bhalf\b|\u2044|[\u00bc-\u00be\u2150-\u215e]", re.IGNORECASE)
_NUMBER = re.compile(
    r"(?<![\w.,/])(?P<sign>[-\u2212\u2013]?)(?P<digits>\d+(?:[.,]\d+)?)(?![\w/]|[.,]\d)"
    rf"|(?<!\w)(?P<word>{'|'.join(_WORDS)})(?!\w)",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"^(?:(?:the|my|final|overall|total|your)\s+)*(?:score|rating|grade|overall|total|verdict|answer)"
    r"\s*(?:is|of)?\s*[:=]?\s*(?:is\s+)?",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\b(?:can(?:no|')t|can\u2019t|cannot|won['\u2019]t|unable|not able|refuse|sorry|decline)\b",
    re.IGNORECASE,
)
_CHOICE_LABEL = re.compile(
    r"^(?:(?:the|my|final|better|best)\s+)*(?:answer|verdict|choice|winner|preference|better|reply)?"
    r"\s*(?:is|:|=)?\s*(?:reply|response|assistant|option)?\s*",
    re.IGNORECASE,
)
_TIES = {"tie", "c", "equal", "both", "neither", "draw", "same"}


@dataclass(frozen=True)
class Reading:
    """A score, or the reason why there is none."""

    score: float | None
    reason: str = ""


def read_score(reply: str, cut_off: bool = False) -> Reading:
    """The score 0..5 that a judge's reply gives; `cut_off` says that it hit its token limit."""
    text = _bare(reply)
    if cut_off:
        # What came before the last line break is whole.
        text = text.rpartition("\n")[0]
        if not text.strip():
            return Reading(None, CUT_OFF)
    lines = [line for line in text.splitlines() if line.strip()]
    ends = [lines[0], lines[-1]] if lines else []
    if cut_off:
        ends = ends[:1]
    found = [_statement(candidate) for candidate in (text, *ends)]
    values = {value for value in found if value is not None}
    if not values and not cut_off:
        values = set(_numbers(text))
        if _HALF.search(text):
            return Reading(None, SEVERAL)
        if _OTHER_SCALE.search(_without_scale(text)):
            return Reading(None, OTHER_SCALE)
    if len(values) > 1:
        return Reading(None, SEVERAL)
    if not values:
        return Reading(None, REFUSED if _REFUSAL.search(text) else NO_SCORE)
    [value] = values
    return Reading(value) if LOWEST <= value <= HIGHEST else Reading(None, OUT_OF_RANGE)


def read_choice(reply: str) -> tuple[Choice | None, str]:
    """Which reply a judge prefers, or the reason why none can be read."""
    text = _bare(reply)
    lines = [line for line in text.splitlines() if line.strip()]
    ends = [lines[0], lines[-1]] if lines else []
    choices = {choice for choice in map(_choice, (text, *ends)) if choice is not None}
    if len(choices) == 1:
        return choices.pop(), ""
    return None, REFUSED if not choices and _REFUSAL.search(text) else NO_CHOICE


def _bare(reply: str) -> str:
    """The reply without a reasoning model's thoughts and a fence around it, digits made plain."""
    text = _THINKING.sub("", unicodedata.normalize("NFKC", reply)).strip()
    fenced = _FENCE.match(text)
    return fenced[1].strip() if fenced else text


def _from_json(text: str, key: str) -> Any:
    """The value of `key` where the text is a JSON object that has it, else None."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    return next((value for name, value in found.items() if str(name).lower() == key), None)


def _statement(text: str) -> float | None:
    """The number of a text that is nothing but a score: "4", "Score: 3.5", "**4**/5", JSON."""
    stated = _from_json(text, "score")
    if isinstance(stated, int | float) and not isinstance(stated, bool):
        return float(stated)
    if isinstance(stated, str):
        text = stated
    text = _LABEL.sub("", text.strip().strip(_DECORATION)).strip(_DECORATION)
    text = _OUT_OF.sub("", text).strip(_DECORATION)
    text = re.sub(r"\s+(?:points?|stars?)$", "", text, flags=re.IGNORECASE)
    whole = _NUMBER.fullmatch(text)
    return _value(whole) if whole else None


def _without_scale(text: str) -> str:
    return _OUT_OF.sub("", _RANGE.sub("", text))


def _numbers(text: str) -> list[float]:
    return [_value(found) for found in _NUMBER.finditer(_without_scale(text))]


def _value(found: re.Match[str]) -> float:
    if found["word"]:
        return _WORDS[found["word"].lower()]
    value = float(found["digits"].replace(",", "."))
    return -value if found["sign"] else value


def _choice(text: str) -> Choice | None:
    stated = _from_json(text, "better")
    if isinstance(stated, str):
        text = stated
    text = text.strip().strip(_DECORATION)
    text = _CHOICE_LABEL.sub("", text).strip(_DECORATION)
    if text.lower() in _TIES:
        return "tie"
    return {"A": "A", "B": "B", "a": "A", "b": "B"}.get(text)  # type: ignore[return-value]
