"""Reading a judge's reply to a comparison: A, B or a tie, where the judge states it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import regex

from chatllama_pipeline.llm.judge.verdicts import words
from chatllama_pipeline.llm.judge.verdicts.reasons import CUT_OFF, NO_CHOICE, REFUSED
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

Choice = Literal["A", "B", "tie"]

_FLAGS = regex.IGNORECASE | regex.MULTILINE
# Cyrillic letters that look like them, or are second of their alphabet, among them.
_LETTER = (
    r"(?<![\p{Latin}\p{Cyrillic}\d])(?P<letter>(?-i:[AB\u0410\u0412\u0411]))"
    r"(?![\p{Latin}\p{Cyrillic}\p{M}\d'])"
)
_REPLY = rf"(?:(?:{words.REPLIES}){END}\s*)?"
_ARTICLE = r"(?:(?:the|la|die|der) )?"
_LINK = rf"(?:\s*{EDGE}(?:{words.LINKS}|the){END}|\s*[:=|>\u2192]){{0,4}}\s*"
_LABEL = (
    rf"{EDGE}(?:(?:{words.BEFORE_LABELS}){END}\s*){{0,4}}(?:{words.CHOICE_LABELS}){END}"
    rf"\s*{_REPLY}{_LINK}"
)
_BECAUSE = (
    rf"(?=\s*(?:$|[.,;:!)\u3002\u0964]|than{END}|als{END}|que{END}|\u0447\u0435\u043c{END}|"
    rf"(?:{words.GOES_ON}){END}))"
)
_ALONE = regex.compile(
    rf"(?P<label>{_LABEL})?(?:{_REPLY}{_LETTER}|(?P<tie>{words.TIES}))"
    rf"(?:\s*(?:{words.CLOSINGS})){{0,3}}",
    _FLAGS,
)
_SMALL = {"a": "A", "b": "B"}
_BETTER = regex.compile(rf"{_ARTICLE}{_REPLY}{_LETTER}\s*(?:{words.BETTER}){END}{_BECAUSE}", _FLAGS)
_PREFERRED = regex.compile(
    rf"{EDGE}(?:{words.PREFERS}){END}\s*{_ARTICLE}{_REPLY}{_LETTER}"
    rf"(?:\s*(?:{words.CHOSEN}))?{_BECAUSE}",
    _FLAGS,
)
_LABELLED = regex.compile(rf"^\W*{_LABEL}{_REPLY}{_LETTER}{_BECAUSE}", _FLAGS)
_KEYS = ("better", "winner", "choice", "preferred", "preference", "verdict", "answer", "best")


def read_choice(reply: str, cut_off: bool = False) -> tuple[Choice | None, str]:
    """Which reply a judge prefers, or the reason why none can be read; `cut_off` says that it hit
    its token limit."""
    spoken_reply = spoken(reply)
    if not spoken_reply.finished:
        return None, CUT_OFF
    text = plain(spoken_reply.reply)
    objects = standing_objects(text)
    if cut_off:
        return _of_cut_off(text, objects)
    stated = [c for found in objects for c in _of_object(found.value)]
    said = own_words(without(text, objects) if stated else text)
    if is_refusal(said):
        return None, REFUSED
    choice, reason = _only([*stated, *_choices(said)])
    return choice, REFUSED if reason and is_refusal(said, apologies=True) else reason


def _of_cut_off(text: str, objects: Sequence[Stated]) -> tuple[Choice | None, str]:
    """An object that begins or ends the reply, or a first line with a label: all else may be
    thoughts, or go on otherwise."""
    for found in whole_objects(text, objects):
        if stated := _of_object(found.value):
            return _only(stated)
    first, broken, _ = text.partition("\n")
    line = _ALONE.fullmatch(own_words(first).strip(DECORATION)) if broken else None
    if line is not None and line["label"]:
        return _choice(line), ""
    return None, CUT_OFF


def _of_object(value: Any) -> list[Choice | None]:
    """What a JSON object states, None for each that is no choice."""
    return [_alone(str(stated)) for _, stated in values_of(value, _KEYS)]


def _choices(text: str) -> list[Choice | None]:
    lines = list(own_lines(text))
    alone = [_alone(line) for line in dict.fromkeys([text, *lines[:1], *lines[-1:]])]
    found = [
        one
        for pattern in (_BETTER, _PREFERRED, _LABELLED)
        for one in pattern.finditer(text)
        if not is_told(text, one.start())
    ]
    # "Vitamin A is better" is about something else; "..., but B is better overall" is not, and
    # makes a second choice of the first.
    stands = any(begins(text, one.start()) or is_led_to(text, one.start()) for one in found)
    spoken = [_choice(one) for one in found] if stands else []
    return [choice for choice in [*alone, *spoken] if choice is not None]


def _only(choices: Sequence[Choice | None]) -> tuple[Choice | None, str]:
    distinct = set(choices)
    if len(distinct) == 1 and None not in distinct:
        return distinct.pop(), ""
    return None, NO_CHOICE


def _alone(text: str) -> Choice | None:
    """The choice of a text that is nothing else."""
    bare = text.strip(DECORATION)
    found = _ALONE.fullmatch(_SMALL.get(bare, bare))
    return _choice(found) if found else None


def _choice(found: regex.Match[str]) -> Choice:
    if found["letter"] is None:
        return "tie"
    return "A" if found["letter"] in "A\u0410" else "B"
