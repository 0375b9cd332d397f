"""Reading a judge's reply: the score from 0 to 5 that it states.

A score counts only where the judge states one: in JSON, as its whole reply or a whole line of it,
behind a label ("Score: 4"), as a share ("4/5", "4 out of 5"), or behind its own act of
giving ("I give it a 4"). A number in prose, in a quotation, in a name or beside a refusal is none,
nor is one of which the judge isn't sure. What can't be read is asked again (`judge.py`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import regex

from chatllama_pipeline.llm.judge.verdicts import words
from chatllama_pipeline.llm.judge.verdicts.reasons import (
    CUT_OFF,
    NO_SCORE,
    OTHER_SCALE,
    OUT_OF_RANGE,
    REFUSED,
    SEVERAL,
    UNSURE,
)
from chatllama_pipeline.llm.judge.verdicts.scales import declares_another, has_another, in_one_form
from chatllama_pipeline.llm.judge.verdicts.text import (
    DECORATION,
    EDGE,
    END,
    Stated,
    begins,
    is_led_to,
    is_refusal,
    is_told,
    own_lines,
    own_words,
    plain,
    standing_objects,
    values_of,
    whole_objects,
    without,
)
from chatllama_pipeline.models.chat.thoughts import spoken

LOWEST, HIGHEST = 0.0, 5.0

_FLAGS = regex.IGNORECASE | regex.MULTILINE
_SIGN = r"(?:(?<![\w.)])(?P<sign>-)(?=\d)|(?<![\d.,/#\p{Latin}\p{Cyrillic}-]))"
_DIGITS = r"(?P<digits>\d{1,4}(?:[.,]\d{1,2})?)(?!\d|[.,]\d|-?[\p{Latin}\p{Cyrillic}])"
_SCALE = r"\s*/\s*5(?:[.,]0+)?(?![\d%]|[.,]\d)"
_UNIT = rf"(?:\s*(?:{words.UNITS}){END})"
_OR = rf"\s*(?:{words.OR})\s*(?:(?:an?|eine?|une?|un)\s+)?\d"
_STOP = r"[.,;:!\u2026\uff0c\u3001\u3002\u2013\u2014-]"
_TAKEN_BACK = rf"(?:\s|{_STOP})*{EDGE}(?:(?:{words.TAKES_BACK}){END}\s*)+{_STOP}[^\n]{{0,30}}\d"
_FIRM = (
    rf"(?!\s*(?:[/%?]|{words.HEDGES_AFTER})|{_OR}|{_TAKEN_BACK}|\s+\d/\d|"
    rf"\s*[,;(]?\s*{EDGE}(?:{words.HEDGES}){END})"
)
_NUMBER = rf"{_SIGN}{_DIGITS}(?P<scale>{_SCALE})?{_UNIT}?{_FIRM}"
_WORD = rf"(?P<word>{'|'.join(words.NUMBER_WORDS)}){END}(?:{_SCALE})?{_UNIT}?"
# "4 because ..." is a score, "4 flaws" is none.
_ENDS = (
    rf"(?=\s*(?:$|[.;:!)\],\u3002\u0964\u2013\u2014(|\p{{So}}]|-\s|(?:{words.GOES_ON}){END})|"
    r"\s+(?-i:\p{Lu}))"
)
_CLOSINGS = rf"(?:\s*(?:{words.CLOSINGS})){{0,3}}"
_IN_BRACKETS = r"(?:\s*\([^()\n\d]{0,30}\))?"
_LABEL = (
    rf"{EDGE}(?:(?:{words.BEFORE_LABELS}){END}\s*){{0,4}}(?:{words.LABELS}){END}"
    rf"(?:\s*(?:{words.AFTER_LABELS}){END})?{_IN_BRACKETS}"
)
_LINK = (
    rf"(?:\s*{EDGE}(?:{words.LINKS}){END}|\s*(?:[:=|\u2192]|[-=]*>)|\s+[-\u2013\u2014](?=\s)){{0,4}}"
    r"\s*[\[(]?"
)
_WEAK_LABEL = (
    rf"(?<=^\W{{0,12}}|[.!?\u3002]\s{{0,3}})(?:(?:{words.BEFORE_LABELS}){END}\s*){{0,4}}"
    rf"(?:{words.WEAK_LABELS}){END}"
    rf"(?:\s*(?:{words.AFTER_LABELS}){END})?{_IN_BRACKETS}\s*[:=|]\s*"
)
_ANY_LABEL = rf"(?:(?P<label>{_LABEL}){_LINK}|(?P<weak>{_WEAK_LABEL}))"

_ALONE = regex.compile(
    rf"(?:{_ANY_LABEL}?{_NUMBER}|(?:(?:{_LABEL})\s*[:=]\s*)?{_WORD}){_CLOSINGS}", _FLAGS
)
_LABELLED = regex.compile(rf"(?P<label>{_LABEL}){_LINK}{_NUMBER}{_CLOSINGS}{_ENDS}", _FLAGS)
_WEAKLY = regex.compile(
    rf"(?P<label>{_WEAK_LABEL}){_NUMBER}\s*(?=$|[.(!\u3002]|[,;\u2013\u2014-]\s)", _FLAGS
)
_ANY_SHARE = rf"{_SIGN}{_DIGITS}(?P<scale>{_SCALE}){_UNIT}?{_FIRM}{_ENDS}"
_SHARES = regex.compile(_ANY_SHARE, _FLAGS)
# One that is meant begins a line or sentence, or stands in brackets behind a label: "Rating: good
# (4/5)"; "a film rated 4/5" is about something else.
_SHARE = regex.compile(
    rf"(?:(?<=^\W{{0,6}}|[.!?\u3002]\s{{0,3}})|(?P<label>{_LABEL})[^\n\d]{{0,30}}\(){_ANY_SHARE}",
    _FLAGS,
)
_GIVEN = regex.compile(
    rf"{EDGE}(?:{words.GIVES}){END}(?:\s*{EDGE}(?:{words.GIVEN}){END}){{0,12}}\s*"
    rf"{_NUMBER}{_CLOSINGS}{_ENDS}",
    _FLAGS,
)
_GIVEN_AFTER = regex.compile(
    rf"{_SIGN}{_DIGITS}(?P<scale>{_SCALE})?{_UNIT}\s*(?:{words.GIVES_AFTER}){_ENDS}", _FLAGS
)
# More are no verdict, whatever they say.
_MOST_FOUND = 50
_FINAL = regex.compile(rf"{EDGE}(?:{words.FINAL})", _FLAGS)
_SEVERAL = regex.compile(
    rf"\d{_OR}|\d{_TAKEN_BACK}|\d\s*(?:{words.HEDGES_AFTER})|\bhalf\b|\u2044", _FLAGS
)
_HEDGED = regex.compile(rf"{EDGE}(?:{words.HEDGES}){END}|\d\s*\?", _FLAGS)
_KEYS = tuple(
    first + key
    for first in ("", "final_", "overall_", "total_")
    for key in ("score", "rating", "评分", "得分", "スコア", "点数", "स्कोर", "الدرجة", "оценка")
)
_SCALE_KEYS = ("max", "max_score", "maximum", "out_of", "scale")
# An object whose beginning is whole and whose end isn't.
_HEAD = regex.compile(
    r"\s*(?:```\w*\s*)?\{\s*[\"']?(?:final_|overall_|total_)?(?:score|rating)[\"']?\s*:\s*"
    r"(?:\"([^\"\n]*)\"|'([^'\n]*)'|(-?\d+(?:\.\d+)?))\s*[,}]",
    regex.IGNORECASE,
)


@dataclass(frozen=True)
class Reading:
    """A score, or the reason why there is none."""

    score: float | None
    reason: str = ""


@dataclass(frozen=True)
class _Found:
    value: float
    label: str = ""
    has_scale: bool = False
    begins: bool = False
    is_led_to: bool = False

    @property
    def is_final(self) -> bool:
        return _FINAL.search(self.label) is not None


def read_score(reply: str, cut_off: bool = False) -> Reading:
    """The score 0..5 that a judge's reply states; `cut_off` says that it hit its token limit."""
    spoken_reply = spoken(reply)
    if not spoken_reply.finished:
        return Reading(None, CUT_OFF)
    text = plain(spoken_reply.reply)
    objects = standing_objects(text)
    if cut_off:
        return _of_cut_off(text, objects)
    stated = [r for found in objects if (r := _of_object(found.value)) is not None]
    if not stated and (head := _HEAD.match(text)):
        return _of_value(head[1] or head[2] or head[3])
    said = own_words(without(text, objects) if stated else text)
    if is_refusal(said):
        return Reading(None, REFUSED)
    spoken_of = _of_words(said)
    if stated:
        # What it says beside its object may be another score.
        return _only([*stated, spoken_of] if spoken_of.score is not None else stated)
    return spoken_of


def _of_cut_off(text: str, objects: Sequence[Stated]) -> Reading:
    """What is whole although the reply isn't: an object that begins or ends it, a labelled line.

    A bare number as the first line may be the beginning of thoughts.
    """
    for found in whole_objects(text, objects):
        if (reading := _of_object(found.value)) is not None:
            return reading
    if head := _HEAD.match(text):
        return _of_value(head[1] or head[2] or head[3])
    first, broken, _ = text.partition("\n")
    line = _alone(in_one_form(own_words(first))) if broken else None
    if line is not None and (line.label or line.has_scale):
        return _ranged(line.value)
    return Reading(None, CUT_OFF)


def _of_object(value: Any) -> Reading | None:
    """What a JSON object states; None where it speaks of no score."""
    found = values_of(value, _KEYS)
    if not found:
        return None
    holder = found[0][0]
    scale = next((str(holder[key]) for key in _SCALE_KEYS if key in holder), "5")
    if regex.findall(r"\d+(?:\.\d+)?", scale)[-1:] not in (["5"], ["5.0"]):
        return Reading(None, OTHER_SCALE)
    texts = [text for text in holder.values() if isinstance(text, str)]
    if any(is_refusal(own_words(plain(text))) for text in texts):
        return Reading(None, REFUSED)
    return _only([_of_value(stated) for _, stated in found])


def _of_value(stated: Any) -> Reading:
    if isinstance(stated, int | float) and not isinstance(stated, bool):
        return _ranged(float(stated)) if math.isfinite(stated) else Reading(None, NO_SCORE)
    if isinstance(stated, str):
        said = in_one_form(own_words(plain(stated)))
        line = _alone(said)
        return Reading(None, _why_none(said)) if line is None else _ranged(line.value)
    return Reading(None, NO_SCORE)


def _of_words(said: str) -> Reading:
    text = in_one_form(said)
    alone = [_alone(line) for line in dict.fromkeys([text, *own_lines(text)])]
    labelled = _labelled(text)
    final = [one for one in labelled if one.is_final and one.begins]
    begun = final or [one for one in labelled if one.begins]
    given = [one for pattern in (_GIVEN, _GIVEN_AFTER) for one in _search(pattern, text)]
    if any(True for _ in _search(_SHARE, text)):
        given += _search(_SHARES, text)
    for found in ([*filter(None, alone), *begun], [*labelled, *given]):
        if declares_another(text):
            found = [one for one in found if one.has_scale]
        if found:
            return _only([_ranged(one.value) for one in found])
    return Reading(None, _why_none(text))


def _why_none(text: str) -> str:
    if has_another(text):
        return OTHER_SCALE
    if _SEVERAL.search(text):
        return SEVERAL
    if _HEDGED.search(text):
        return UNSURE
    return REFUSED if is_refusal(text, apologies=True) else NO_SCORE


def _only(readings: Sequence[Reading]) -> Reading:
    """The one that all agree in; a reading without a score is the whole's."""
    distinct = list(dict.fromkeys(readings))
    unread = next((one for one in distinct if one.score is None), None)
    if unread is not None or len(distinct) == 1:
        return unread or distinct[0]
    return Reading(None, SEVERAL)


def _ranged(value: float) -> Reading:
    return Reading(value) if LOWEST <= value <= HIGHEST else Reading(None, OUT_OF_RANGE)


def _alone(text: str) -> _Found | None:
    """The score of a text that is nothing else."""
    found = _ALONE.fullmatch(text.strip(DECORATION))
    return _found(found) if found else None


def _labelled(text: str) -> list[_Found]:
    """Scores behind labels of the judge's own; "the team's score" is another one's."""
    return [
        one
        for pattern in (_LABELLED, _WEAKLY)
        for one in _search(pattern, text)
        if one.begins or one.is_led_to
    ]


def _search(pattern: regex.Pattern[str], text: str) -> Iterator[_Found]:
    """What the judge itself says, for sure, wherever it stands."""
    for found in itertools.islice(pattern.finditer(text), _MOST_FOUND):
        if not is_told(text, found.start()):
            place = found.start()
            yield replace(
                _found(found), begins=begins(text, place), is_led_to=is_led_to(text, place)
            )


def _found(found: regex.Match[str]) -> _Found:
    groups = found.groupdict()
    label = groups.get("label") or groups.get("weak") or ""
    if groups.get("word"):
        return _Found(words.NUMBER_WORDS[groups["word"].lower()], label)
    value = float(groups["digits"].replace(",", "."))
    value = -value if groups.get("sign") else value
    return _Found(value, label, bool(groups.get("scale")))
