"""A reply's text while its tokens come, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from chatllama_pipeline.models.chat.replies import reply_of, written_text

# What the marks of thoughts, and of what replies are wrapped in, begin with.
_MARKS = "<[\u25c1"
# What an unfinished character decodes to.
_HALF = "\ufffd"


class Said(NamedTuple):
    """All that is said by now; `ended`: a stop text has ended it."""

    text: str
    ended: bool


class Speech:
    """What a reply's ids say; what may yet turn out to be a thought's mark or a stop stays unsaid.

    `plain` says all that is written; else a reply's thoughts stay unsaid. A text of `stop_texts`
    ends it and is none of it.
    """

    def __init__(
        self,
        tokenizer: Any,
        stops: Sequence[int],
        stop_texts: Sequence[str] = (),
        *,
        plain: bool = False,
    ) -> None:
        self._tokenizer, self._stops = tokenizer, stops
        self._stop_texts, self._plain = stop_texts, plain

    def said(self, ids: Sequence[int], *, finished: bool) -> Said:
        """What the reply's ids say so far; if `finished`, all of it."""
        text = written_text(self._tokenizer, ids, self._stops)
        if not finished:
            text = _settled(text, whole=self._plain)
        reply = text if self._plain else reply_of(self._tokenizer, text).reply
        found = [place for stop in self._stop_texts if (place := reply.find(stop)) >= 0]
        if found:
            return Said(reply[: min(found)], ended=True)
        if not finished:
            reply = reply[: len(reply) - self._begun_stop(reply)]
        return Said(reply, ended=False)

    def _begun_stop(self, reply: str) -> int:
        """How many characters at the reply's end may be the beginning of a stop text."""
        longest = max(map(len, self._stop_texts), default=1) - 1
        for length in range(min(longest, len(reply)), 0, -1):
            if any(stop.startswith(reply[-length:]) for stop in self._stop_texts):
                return length
        return 0


class Pieces:
    """Tells `say` what is new of a speech."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._told = say, 0

    def tell(self, text: str) -> None:
        """`text` is all that is said by now."""
        if len(text) > self._told:
            self._say(text[self._told :])
            self._told = len(text)


def _settled(text: str, *, whole: bool) -> str:
    """The part of a growing text that won't change its meaning: without a word that may be a mark.

    `whole`: marks mean nothing in it.
    """
    text = text.rstrip(_HALF)
    if whole:
        return text
    begun = len(text)
    while begun and not text[begun - 1].isspace():
        begun -= 1
    marks = [place for mark in _MARKS if (place := text.find(mark, begun)) >= 0]
    return text[: min(marks, default=len(text))]
