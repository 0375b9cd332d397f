"""How judges say their scale, brought into one form: "4 out of 5" and its like become "4/5"."""

from __future__ import annotations

import regex

from chatllama_pipeline.llm.judge.verdicts import words
from chatllama_pipeline.llm.judge.verdicts.text import EDGE, END

_FLAGS = regex.IGNORECASE | regex.MULTILINE
# "from 0 to 5"
_RANGE = regex.compile(
    rf"(?<![\d.,])[01](?:[.,]0)?\s*(?:{words.UNTIL})\s*5(?:[.,]0)?(?!\d|[.,]\d|\s*/)", _FLAGS
)
_WHOLE_IS_FIVE = regex.compile(
    r"[(]?满分\s*(?:为|是)?\s*5\s*分[)]?|(?<!\d)5\s*分(?:满分|制)|"
    r"(?<!\d)5\s*点(?:満点)?(?:中|で|のうち)|(?<!\d)5\s*点満点|満点\s*5\s*点中?|"
    rf"\(\s*(?:/|{words.SCALE_LINKS})\s*5\s*\)|\b(?:{words.SCALE_LINKS})\s*5(?=\s*[:=])|"
    r"(?<!\d)5\s*में से|"
    r"\b5-?(?:points?|punkte)?[- ](?:scale|skala)|five-point scale",
    _FLAGS,
)
_OUT_OF_FIVE = regex.compile(rf"\s*{EDGE}(?:{words.OF_FIVE}){END}", _FLAGS)
_OUT_OF = regex.compile(
    rf"(\d{{1,4}}(?:[.,]\d{{1,2}})?)(?:\s*(?:{words.UNITS}){END})?\s*[(]?{EDGE}"
    rf"(?:{words.SCALE_LINKS}){END}\s*(?:a possible )?(\d{{1,3}}(?:[.,]0)?)(?![\d.,]*\d)[)]?",
    _FLAGS,
)
_NOT_FIVE = r"(?!5(?:[.,]0)?(?![\d.,]*\d))\d+"
_DECLARED_OTHER = regex.compile(
    rf"{EDGE}(?:{words.SCALES}){END}\D{{0,16}}\d+\D{{1,8}}{_NOT_FIVE}|"
    rf"(?:满分|満点)\D{{0,3}}{_NOT_FIVE}|(?<!\d){_NOT_FIVE}\s*(?:点満点|分满分|分制)|"
    rf"\(\s*[01]\s*(?:{words.UNTIL})\s*{_NOT_FIVE}\s*\)|\bout of {_NOT_FIVE}|"
    rf"\b{_NOT_FIVE}-?(?:points?|punkte)?[- ](?:scale|skala)",
    _FLAGS,
)
_FRACTION = regex.compile(r"\d\s*/\s*(?!5(?!\d))\d|\d\s*%|\d\s*में से\D{0,8}\d", _FLAGS)


def in_one_form(text: str) -> str:
    """Judge's words in which "0 to 5" and "of 5" are gone, and a score of five is "4/5"."""
    text = _WHOLE_IS_FIVE.sub(" ", _RANGE.sub(" ", _OUT_OF_FIVE.sub("/5", text)))
    return _OUT_OF.sub(r"\1/\2", text)


def declares_another(text: str) -> bool:
    """Whether the judge says that it scores on another scale, such as one from 1 to 10."""
    return _DECLARED_OTHER.search(text) is not None


def has_another(text: str) -> bool:
    """Whether a number stands on another scale: "8/10", "80 %"."""
    return declares_another(text) or _FRACTION.search(text) is not None
