"""The control tokens of a tokenizer, found in texts and guarded there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from chatllama_pipeline.errors import DataError

# What added tokens look like that aren't flagged as special, and yet steer a model: <think>,
# <tool_call>, <<SYS>>, <|fim middle|>, [multimodal], [|user|]. Gemma adds HTML's tags and runs of
# white space as well.
MARK_LIKE = re.compile(
    r"<[^<>\s]+>|<<[^<>\s]+>>|<\|[^<>|]+\|>|\[/?[A-Za-z][\w ]*\]|\[\|[^\[\]|]+\|\]"
    r"|\u25c1\S+\u25b7"
)
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_HTML = re.compile(
    r"</?(?:a|b|big|blockquote|body|br|caption|center|code|dd|del|div|dl|dt|em|font|h[1-6]|head|hr"
    r"|html|i|img|ins|li|ol|p|pre|s|small|span|strong|sub|sup|table|tbody|td|tfoot|th|thead|title"
    r"|tr|u|ul)/?>"
)
# Planes 15 and 16 are for private use: no script, hardly an icon font.
_PRIVATE = [range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE)]


class Encoded(NamedTuple):
    """Ids, and for each the text of a pair that it belongs to: None for what stands around."""

    ids: list[int]
    sequence_ids: list[int | None]


class ControlTokens:
    """The marks of a tokenizer's control tokens, as people spell them and templates write them."""

    def __init__(self, added: Mapping[int, Any], normalizer: Any = None) -> None:
        """Of `added` tokens by their ids; `normalizer` is that of the `tokenizers` library."""
        self._controls = {
            number: token
            for number, token in sorted(added.items())
            if token.content.strip() and (token.special or steers(token.content))
        }
        marks = [token.content for token in self._controls.values()]
        self._marks = re.compile(_either(marks)) if marks else None
        # These are looked for in what the normalizer makes of a text, in lower case for example.
        normalized = [t.content for t in self._controls.values() if t.normalized]
        self._normalizer = normalizer
        self._normalized: Any = None
        if normalized and normalizer is not None:
            self._normalized = re.compile(_either(map(normalizer.normalize_str, normalized)))

    def spells_marks(self, text: str) -> bool:
        """Whether the tokenizer would read a control token in `text`."""
        if self._marks is None:
            return False
        if self._marks.search(text):
            return True
        return self._normalized is not None and bool(
            self._normalized.search(self._normalizer.normalize_str(text))
        )

    def unused(self, texts: Sequence[str]) -> str:
        """A character to guard marks with: one that stands in none of `texts`."""
        return chr(free_character(texts, 1))

    def guarded(self, text: str, guard: str, besides: Iterable[tuple[int, int]] = ()) -> str:
        """`text` with `guard` within every mark but those at `besides`, as (start, end)."""
        kept = set(besides)

        def guard_one(mark: re.Match[str]) -> str:
            return mark[0] if mark.span() in kept else f"{mark[0][0]}{guard}{mark[0][1:]}"

        return self._marks.sub(guard_one, text) if self._marks else text

    def controls(self) -> dict[int, Any]:
        """Id -> `tokenizers.AddedToken` of every control token."""
        return self._controls


def steers(token: str) -> bool:
    """Whether a token looks like a mark that steers a model, HTML's tags and bytes left out."""
    return bool(MARK_LIKE.fullmatch(token)) and not (_HTML.fullmatch(token) or _BYTE.match(token))


def free_character(texts: Sequence[str], count: int) -> int:
    """The first of `count` private characters in a row, none of which is in `texts`."""
    used = {ord(letter) for letter in set("".join(texts)) if ord(letter) >= _PRIVATE[0].start}
    for plane in _PRIVATE:
        for first in range(plane.start, plane.stop - count, count):
            if not used or used.isdisjoint(range(first, first + count)):
                return first
    raise DataError(
        "a text is full of characters for private use (planes 15 and 16) and spells a control "
        "token: the two could not be told apart; remove either from it"
    )


def _either(words: Iterable[str]) -> str:
    """A pattern for the longest of `words`; a tree of their letters, as they may be thousands."""
    tree: dict[str, Any] = {}
    for word in words:
        branch = tree
        for letter in word:
            branch = branch.setdefault(letter, {})
        branch[""] = {}
    return _pattern(tree)


def _pattern(tree: dict[str, Any]) -> str:
    # A run of letters without a fork is one literal: depth stays that of the forks.
    options = []
    for letter, branch in tree.items():
        if letter:
            literal = letter
            while len(branch) == 1 and "" not in branch:
                [(following, branch)] = branch.items()
                literal += following
            options.append(re.escape(literal) + ("" if branch == {"": {}} else _pattern(branch)))
    inner = options[0] if len(options) == 1 else f"(?:{'|'.join(options)})"
    return f"(?:{inner})?" if "" in tree else inner
