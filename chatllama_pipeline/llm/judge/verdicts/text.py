"""A judge's reply made ready for reading: plain digits and signs, nothing that others said.

What stands in quotation marks, in a quoted line or between the lines of a request's own marks is
somebody else's word and is taken out; so is Markdown's decoration.
"""

from __future__ import annotations

import ast
import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import regex

from chatllama_pipeline.llm.client.replies import clean
from chatllama_pipeline.llm.judge.verdicts import words

# How far before a statement its sentence is looked for.
LOOK_BACK = 400
# Stands for what was taken out: a sign that no pattern knows.
TAKEN_OUT = "\ufffc"
# No letter of an alphabet with spaces may touch a word; Chinese and Japanese have none.
_LETTERS = r"\p{Latin}\p{Cyrillic}\p{Arabic}\p{Devanagari}\p{M}_"
_SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}"
EDGE = rf"(?:(?=[{_SPACELESS}])|(?<![{_LETTERS}]))"
END = rf"(?:(?<=[{_SPACELESS}])|(?![{_LETTERS}]))"
DECORATION = (
    "*_`>\"'()[]{}|.!:;,= \t\n$\u201c\u201d\u2018\u2019\u00ab\u00bb\u3002\u0964\u2b50\ufffd"
)

_UNSEEN = regex.compile(r"[\ufe0e\ufe0f\u20e3\u200b-\u200f\u2060\ufeff]")
_SINGLE = regex.compile(r"[\u2018\u2019\u02bc]")
_QUOTED = regex.compile(
    r"\u201c[^\u201c\u201d]*\u201d|\u201e[^\u201c\u201d]*[\u201c\u201d]|\u00ab[^\u00bb]*\u00bb|"
    r"\u300c[^\u300d]*\u300d|\u300e[^\u300f]*\u300f|\u2039[^\u203a]*\u203a|"
    # A straight mark opens after a space or so and closes before one; one alone takes its line.
    r"(?<![0-9A-Za-z])\"(?=\S)[^\"]*(?:\"(?![0-9A-Za-z])|$)|(?<![\w'])'(?=[^\s'])[^'\n]*'(?!\w)",
    regex.MULTILINE,
)
# A number, or a label alone, is no quotation: Score: "4".
_UNQUOTABLE = regex.compile(rf"\d[\d.,/ ]*|(?:{words.LABELS}|[A-D])", regex.IGNORECASE)
_MARKED = regex.compile(r"\[([\w ]{1,40}) ([0-9a-f]{12})\].*?\[end \2\]", regex.DOTALL)
_QUOTED_LINE = regex.compile(r"^[ \t]*>.*$", regex.MULTILINE)
_FENCED = regex.compile(r"```(?:\w+\b)?(.*?)(?:```|\Z)", regex.DOTALL)
_TAG = regex.compile(r"<(score|rating|verdict|answer|better)>\s*(.*?)\s*</\1>", regex.I | regex.S)
_BOXED = regex.compile(r"\$*\\boxed\{(?:\\text\{)?([^{}]*)\}+\$*")
_MARKDOWN = regex.compile(r"\*+|__+|`|^[ \t]*#+[ \t]+|\[\[|\]\]", regex.MULTILINE)
_OBJECT = regex.compile(r"[\[\s]*\{\s*[\"'\w]")
_DECODER = json.JSONDecoder(strict=False)
_START = r"(?:^|[\n.!?;:,\u3002\u0964|(\u2022*\p{So}\u2013\u2014-]|\d[.)])\s*"
_STARTS = regex.compile(rf"{_START}$")
_LEADS = regex.compile(rf"{_START}(?:{words.LEADING})\s*$", regex.IGNORECASE)
_AROUND = "`[] \t"
_TOLD = regex.compile(
    rf"{EDGE}(?:{words.TOLD}|{words.HEDGES}|{words.DENIED}){END}", regex.IGNORECASE
)
_ANNOUNCED = regex.compile(rf"{EDGE}(?:{words.ANNOUNCED}){END}", regex.IGNORECASE)
_CLAUSE = regex.compile(
    r"[.!?;\n\u3002\u0964]|:(?=\s*\n)|"
    rf",\s*(?:and|but|so|yet|which|und|aber|et|mais|y|pero|и|но){END}|,(?=[但我所])",
    regex.IGNORECASE,
)
_SENTENCE = regex.compile(r"[.!?\u3002\u0964]")
_REFUSED = regex.compile("|".join(words.REFUSALS), regex.IGNORECASE | regex.MULTILINE)
_APOLOGY = regex.compile(rf"\W*(?:{words.APOLOGIES})", regex.IGNORECASE)
_DEEPEST = 5
# More objects than that are no verdict.
_MOST_OBJECTS, _LONGEST_LITERAL = 20, 20_000


def plain(reply: str) -> str:
    """Compatibility forms folded, any script's digits as 0..9, curly apostrophes straight; what
    was repeated of the request's marked texts is `TAKEN_OUT`."""
    text = clean(unicodedata.normalize("NFKC", reply))
    text = _SINGLE.sub("'", _UNSEEN.sub("", text))
    if not text.isascii():
        text = "".join(str(unicodedata.decimal(sign, sign)) for sign in text)
        text = text.replace("\u066b", ".").replace("\u066a", "%").replace("\u2212", "-")
    return _MARKED.sub(TAKEN_OUT, text).strip()


def own_words(text: str) -> str:
    """What the judge itself says in `plain` text, undecorated; quotations are `TAKEN_OUT`."""
    text = _BOXED.sub(r"\nscore: \1\n", _TAG.sub(r"\n\1: \2\n", text))
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1:
        text = _QUOTED_LINE.sub(TAKEN_OUT, text)
    text = _MARKDOWN.sub("", _FENCED.sub(_unfenced, text)).strip()
    if whole := _QUOTED.fullmatch(text):
        return whole[0][1:-1]
    return _QUOTED.sub(_without_quotation, text)


def _unfenced(found: regex.Match[str]) -> str:
    """What stands in a fence, where it is all, or the last word behind an announcement."""
    before, after = found.string[: found.start()].strip(), found.string[found.end() :].strip()
    return found[1] if not after and (not before or before.endswith(":")) else TAKEN_OUT


def _without_quotation(found: regex.Match[str]) -> str:
    inner = found[0][1:-1]
    return inner if _UNQUOTABLE.fullmatch(inner.strip()) else TAKEN_OUT


def own_lines(text: str) -> Iterator[str]:
    """The lines of own words, without those that an announcement before them gives to others."""
    at = 0
    for line in text.splitlines(keepends=True):
        if line.strip() and not is_told(text, at + len(line) - len(line.lstrip())):
            yield line
        at += len(line)


def is_told(text: str, start: int) -> bool:
    """Whether what begins there is told of others, wanted by them, a condition, unsure, or denied.

    The words before it in its clause say so, or those of a line before it that ends in a colon and
    announces no verdict.
    """
    before = text[max(0, start - LOOK_BACK) : start]
    ends = [found.end() for found in _CLAUSE.finditer(before)]
    clause = before[ends[-1] if ends else 0 :]
    if not clause.strip(DECORATION):
        line = before.rstrip().rpartition("\n")[2]
        clause = _SENTENCE.split(line.rstrip(":"))[-1] if line.endswith(":") else ""
        if clause.strip(DECORATION) and not _ANNOUNCED.search(clause):
            return True
    return _TOLD.search(clause) is not None


def begins(text: str, start: int) -> bool:
    """Whether what stands there begins a line or a sentence."""
    return _STARTS.search(text[max(0, start - LOOK_BACK) : start]) is not None


def is_led_to(text: str, start: int) -> bool:
    """Whether nothing stands before it in its sentence but "I think that" or its like."""
    return _LEADS.search(text[max(0, start - LOOK_BACK) : start]) is not None


def is_refusal(text: str, apologies: bool = False) -> bool:
    """Whether the judge declines to judge; with `apologies`, also where it begins with one."""
    if _REFUSED.search(text):
        return True
    return apologies and _APOLOGY.match(text) is not None


@dataclass(frozen=True)
class Stated:
    """A JSON object in a reply, and where it stands."""

    value: dict[str, Any]
    start: int
    end: int


def standing_objects(text: str) -> list[Stated]:
    """The JSON objects of a text that are the judge's statement: nothing but an announcement
    stands beside them in their lines."""
    return [found for found in _objects(text) if _stands(text, found)]


def whole_objects(text: str, objects: Sequence[Stated]) -> list[Stated]:
    """Of a text that was cut off: the objects that begin it, or that nothing follows."""
    first = [found for found in objects if not text[: found.start].strip("` \njson")]
    return first + [found for found in objects if not text[found.end :].strip("` \n")]


def without(text: str, objects: Sequence[Stated]) -> str:
    """The text around the objects."""
    for found in reversed(objects):
        text = text[: found.start] + "\n" + text[found.end :]
    return text


def values_of(value: Any, keys: Sequence[str]) -> list[tuple[dict[str, Any], Any]]:
    """The values of any of `keys` at the outermost level that has one, each with its object."""
    level = [value]
    for _ in range(_DEEPEST):
        objects = [one for one in level if isinstance(one, dict)]
        found = [
            (one, inner)
            for one in objects
            for key, inner in one.items()
            if str(key).strip().lower().replace(" ", "_") in keys
        ]
        if found:
            return found
        level = [inner for one in objects for inner in one.values()]
        level += [inner for one in level if isinstance(one, list) for inner in one]
    return []


def _stands(text: str, found: Stated) -> bool:
    before = text[: found.start].rpartition("\n")[2].strip(_AROUND)
    before = before.removesuffix("json").strip(_AROUND)
    after = text[found.end :].partition("\n")[0].strip(_AROUND + ".,;")
    if after or (before and not before.endswith(":")):
        return False
    return not is_told(text.replace("`", " "), found.start)


def _objects(text: str) -> Iterator[Stated]:
    """The outermost JSON objects of a text, with Python's quotes and raw line breaks allowed."""
    at = 0
    for _ in range(_MOST_OBJECTS):
        found = _OBJECT.search(text, at)
        if found is None:
            return
        start = text.index("{", found.start())
        value, at = _decoded(text, start)
        if isinstance(value, dict):
            yield Stated(value, start, at)


def _decoded(text: str, start: int) -> tuple[Any, int]:
    """The object at `start` and its end; None, and the place to go on from, where there is none."""
    try:
        return _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        end = text.rfind("}", start) + 1
        if not 0 < end - start < _LONGEST_LITERAL:
            return None, start + 1
    try:
        return ast.literal_eval(text[start:end]), end
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None, start + 1
