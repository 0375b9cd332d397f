"""Personal data in texts: found by patterns, shown masked, replaced by placeholders.

Patterns miss some and take some that are none; these are drawn so that prices, dates, years, ISBNs
and numbers of other kinds stay. A card's number must pass Luhn's check and an IBAN its own
(python-stdnum). Phone numbers are found with a country code, or as North America and Europe write
them within a country.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from stdnum import iban, luhn

from chatllama_pipeline.data.splits import Row
from chatllama_pipeline.settings import PERSONAL_KINDS, PersonalKind

# Personal data as it was found: (kind, match).
Seen = list[tuple[PersonalKind, str]]
# Columns of our tables that hold what people and models wrote.
TEXT_COLUMNS = ("prompt", "completion", "chosen", "rejected")


@dataclass(frozen=True)
class Pattern:
    """One kind of personal data: every match of `wanted` that `holds` says yes to.

    Every match has a match of `trigger` in it, which is quick to look for: no look-around (RE2
    knows none), and no word of everyday prose.
    """

    kind: PersonalKind
    trigger: re.Pattern[str]
    wanted: re.Pattern[str]
    holds: Callable[[str], bool]


def _always(text: str) -> bool:
    return True


def _has_phone_digits(text: str) -> bool:
    # E.164 allows 15 digits. Without anything between them, eight may be any number with a sign.
    digits = sum(character.isdigit() for character in text)
    return (10 if text[1:].isdigit() else 8) <= digits <= 15


def _is_card(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    return 13 <= len(digits) <= 19 and bool(luhn.is_valid(digits))


def _is_iban(text: str) -> bool:
    return bool(iban.is_valid(text))


_KEYS = r"""
    -----BEGIN[A-Z ]{0,30}PRIVATE\ KEY-----[\s\S]*?(?:-----END[A-Z ]{0,30}PRIVATE\ KEY-----|\Z)
  | (?<![\w-])sk-(?=[\w-]{0,200}\d)[\w-]{20,200}
  | \b(?:AKIA|ASIA)[0-9A-Z]{16}\b
  | \b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_\w{22,255})
  | \bglpat-[\w-]{20,255}
  | \bhf_[A-Za-z0-9]{30,255}
  | \bxox[abeoprs]-[A-Za-z0-9-]{10,255}
  | \bAIza[\w-]{35}
  | \b[prs]k_(?:live|test)_[A-Za-z0-9]{16,255}
  | \beyJ[\w-]{10,2000}\.eyJ[\w-]{10,4000}\.[\w-]{10,2000}
"""
_PHONES = r"""
    (?<![\w+])\+[1-9](?:[ .\-/]?\(?\d{1,4}\)?){2,8}(?!\w)
  | (?<![\w+.-])00[1-9]\d{0,2}[ \-/](?:\(0\))?\d{1,4}(?:[ \-/]?\d{2,8}){1,4}(?![\w-])
  | (?<![\w+.-])(?:1[ .-])?\([2-9]\d{2}\)[ -]?[2-9]\d{2}[ .-]\d{4}(?![\w-])
  | (?<![\w+.-])(?:1[ .-])?[2-9]\d{2}([.-])[2-9]\d{2}\1\d{4}(?![\w-])
  | (?<![\w+.,-])0\d{2,4}[ /-]\d{3,4}[ -]?\d{3,4}(?![\w-])
  | (?<![\w+.,-])0[1-9](?:[ .]\d{2}){4}(?![\w.-])
"""
_CARDS = r"(?<![\w.-])[3-6]\d{3}(?:([\ -]?)\d{4}\1\d{4}\1\d{1,7}|[\ -]?\d{6}[\ -]?\d{5})(?![\w-])"
_IBANS = r"\b[A-Z]{2}\d{2}(?:\ ?[A-Z0-9]{4}){2,7}(?:\ ?[A-Z0-9]{1,3})?\b"
_EMAILS = r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b"

_KEY_TRIGGER = (
    r"PRIVATE KEY|sk-|A[KS]IA|gh[pousr]_|github_pat_|glpat-|hf_|xox[abeoprs]-|AIza|eyJ"
    r"|k_live_|k_test_"
)


def _pattern(
    kind: PersonalKind, trigger: str, wanted: str, holds: Callable[[str], bool] = _always
) -> Pattern:
    return Pattern(kind, re.compile(trigger), re.compile(wanted, re.VERBOSE), holds)


# In the order in which they are looked for: what one took, the next doesn't see.
PATTERNS = (
    _pattern("key", _KEY_TRIGGER, _KEYS),
    _pattern("email", "@", _EMAILS),
    _pattern("iban", r"[A-Z][A-Z][0-9][0-9] ?[A-Z0-9]{4}", _IBANS, _is_iban),
    _pattern("card", r"[0-9][0-9 -]{10,12}[0-9]", _CARDS, _is_card),
    _pattern("phone", r"[0-9][0-9 ().\-/]{6,9}[0-9]", _PHONES, _has_phone_digits),
)
_TRIGGER = "|".join(pattern.trigger.pattern for pattern in PATTERNS)


def placeholder(kind: str) -> str:
    """What stands in the place of personal data: `<email>`."""
    return f"<{kind}>"


def redact(text: str, kinds: Collection[str], seen: Seen | None = None) -> str:
    """`text` with placeholders for personal data of these kinds, which are added to `seen`.

    What is of another kind stays whole: no phone number is seen in an IBAN.
    """
    shielded: list[str] = []
    for pattern in PATTERNS if kinds else ():
        if pattern.trigger.search(text):
            kept = None if pattern.kind in kinds else shielded
            text = pattern.wanted.sub(partial(_replaced, pattern, seen, kept), text)
    # From the last one back: an earlier one may stand within a later one.
    for number in reversed(range(len(shielded))):
        text = text.replace(_shield(number), shielded[number])
    return text


def _shield(number: int) -> str:
    # Characters for private use, which no pattern takes for a part of anything.
    return f"\ue000{number}\ue001"


def _replaced(
    pattern: Pattern, seen: Seen | None, shielded: list[str] | None, match: re.Match[str]
) -> str:
    if not pattern.holds(match[0]):
        return match[0]
    if shielded is not None:
        shielded.append(match[0])
        return _shield(len(shielded) - 1)
    if seen is not None:
        seen.append((pattern.kind, match[0]))
    return placeholder(pattern.kind)


def find(text: str) -> Seen:
    """All personal data in `text`, as (kind, match)."""
    seen: Seen = []
    redact(text, PERSONAL_KINDS, seen)
    return seen


def mask(kind: str, match: str) -> str:
    """A match as a page may show it: enough to find it, too little to use it."""
    if kind == "email":
        name, _, domain = match.partition("@")
        return f"{name[:1]}***@{domain[:1]}***.{domain.rpartition('.')[2]}"
    if kind == "key":
        return f"{match[:4]}***"
    digits = re.sub(r"[^0-9A-Za-z+]", "", match)
    return f"{digits[:3]}***{digits[-2:]}"


def suspects(texts: pa.Array) -> pa.Array:
    """Which texts may hold personal data, as booleans: quick, and wrong to one side alone."""
    return pc.fill_null(pc.match_substring_regex(texts, _TRIGGER), False)


def redact_table(table: pa.Table, kinds: Collection[str]) -> tuple[pa.Table, Counter[str]]:
    """A table of rows with its prompts and replies redacted, and how many placeholders by kind."""
    seen: Seen = []
    for name in TEXT_COLUMNS if kinds else ():
        if name in table.column_names:
            column = table[name].combine_chunks()
            number = table.column_names.index(name)
            field = table.schema.field(name)
            table = table.set_column(number, field, _redact_column(column, kinds, seen))
    return table, Counter(kind for kind, _ in seen)


def redact_rows(
    rows: list[Row], schema: pa.Schema, kinds: Collection[str]
) -> tuple[list[Row], Counter[str]]:
    """`redact_table` for rows as plain values."""
    if not kinds:
        return rows, Counter()
    table, counts = redact_table(pa.Table.from_pylist(rows, schema=schema), kinds)
    redacted: list[Row] = table.to_pylist()
    return redacted, counts


def _redact_column(column: pa.Array, kinds: Collection[str], seen: Seen) -> pa.Array:
    if not pa.types.is_list(column.type):
        return _redact_texts(column, kinds, seen)
    turns = column.flatten()
    contents = _redact_texts(turns.field("content"), kinds, seen)
    fields = list(column.type.value_type)
    rebuilt = pa.StructArray.from_arrays([turns.field("role"), contents], fields=fields)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, rebuilt, type=column.type)


def _redact_texts(texts: pa.Array, kinds: Collection[str], seen: Seen) -> pa.Array:
    suspected = suspects(texts)
    redacted = [redact(text, kinds, seen) for text in texts.filter(suspected).to_pylist()]
    return pc.replace_with_mask(texts, suspected, pa.array(redacted, texts.type))
