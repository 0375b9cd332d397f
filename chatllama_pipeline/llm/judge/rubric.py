"""The provider `rubric`: a judge that adds up points by the patterns in config.yaml.

No language model: it says the same each time, costs nothing, and knows no more than it was told.
A reply that meets every criterion is worth 5, one that meets none 0. What an LLM judges by, in
words, stands in `llm.templates`; what the quickstart's judge adds up, in `llm.rules`.
"""

from __future__ import annotations

from collections.abc import Sequence

import regex

from chatllama_pipeline.errors import ProviderError
from chatllama_pipeline.llm.client.requests import OnProgress
from chatllama_pipeline.llm.judge.questions import Judgement
from chatllama_pipeline.records import Prompt
from chatllama_pipeline.settings.llm.rubric import Criterion

BEST = 5.0
# Shorter words say little of what a text is about.
SHORTEST_WORD = 4
# A pattern that takes longer on one reply backtracks without end.
SECONDS = 2.0
_WORD = regex.compile(r"[\p{L}\p{N}\p{M}]+")


class RubricJudge:
    """Scores a reply 0..5: five times the share of the points that it earns."""

    name = "rubric"

    def __init__(self, criteria: Sequence[Criterion]) -> None:
        self.criteria = criteria
        self._points = sum(criterion.points for criterion in criteria)

    def score(self, prompt: Prompt, reply: str) -> float:
        """The score of a reply, however garbled.

        Raises ProviderError where a pattern takes longer than `SECONDS`.
        """
        earned = sum(one.points for one in self.criteria if _holds(one, prompt, reply))
        return BEST * earned / self._points

    def score_all(
        self,
        rows: Sequence[tuple[Prompt, str]],
        samples: int = 1,
        progress: OnProgress | None = None,
    ) -> list[Judgement]:
        """The score of every row; a rubric says the same each time, so one sample is enough."""
        return [Judgement(points, (points,)) for points in (self.score(*row) for row in rows)]


def _holds(criterion: Criterion, prompt: Prompt, reply: str) -> bool:
    if criterion.says is not None:
        return _found(criterion.name, criterion.says, reply)
    if criterion.avoids is not None:
        return not _found(criterion.name, criterion.avoids, reply)
    words = _WORD.findall(reply.casefold())
    if criterion.words is not None:
        fewest, most = criterion.words
        return fewest <= len(words) <= most
    asked = next((turn.content for turn in reversed(prompt) if turn.role == "user"), "")
    long = {word for word in _WORD.findall(asked.casefold()) if len(word) >= SHORTEST_WORD}
    return len(long.intersection(words)) >= (criterion.words_of_the_question or 0)


def _found(name: str, pattern: str, text: str) -> bool:
    try:
        return regex.search(pattern, text, timeout=SECONDS) is not None
    except TimeoutError as error:
        raise ProviderError(
            f"rubric: the pattern of {name!r}, {pattern!r}, takes longer than {SECONDS:g} s on a "
            f"reply of {len(text)} characters: write it without repetitions in repetitions"
        ) from error
