"""What a judge is told: an LLM scores replies 0..5, and compares two of them in both orders.

What cannot be read is asked again with the reason, and set aside if that doesn't help: a row
without a readable score trains nothing. Comparisons follow Zheng et al. 2023, "Judging
LLM-as-a-Judge": each pair is asked in both orders, since judges prefer what stands first, and
where the two answers disagree it is a tie.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Generic, TypeVar

from chatllama_pipeline.llm.client.requests import (
    Answer,
    LlmClient,
    LlmFailure,
    LlmReply,
    LlmRequest,
    OnProgress,
)
from chatllama_pipeline.llm.judge.verdicts.reasons import REFUSED
from chatllama_pipeline.llm.marks import Marks
from chatllama_pipeline.llm.templates import Template
from chatllama_pipeline.models.chat.thoughts import spoken
from chatllama_pipeline.records import Message, Prompt

if TYPE_CHECKING:
    from chatllama_pipeline.llm.judge.verdicts.choices import Choice

T = TypeVar("T")

# How often a question is asked before its row is set aside.
ATTEMPTS = 3
# A raw reply is kept for people to look at, not as an archive.
_RAW_CHARACTERS = 2000
# Finish reasons of an answer that the provider or the model declined to give.
_DECLINED = ("content_filter", "refusal")


def _schema(key: str, kind: dict[str, object]) -> str:
    return json.dumps(
        {
            "type": "object",
            "properties": {key: kind},
            "required": [key],
            "additionalProperties": False,
        },
        sort_keys=True,
    )


_SCORE_SCHEMA = _schema("score", {"type": "number"})
_CHOICE_SCHEMA = _schema("better", {"type": "string", "enum": ["A", "B", "tie"]})


@dataclass(frozen=True)
class Judgement:
    """The mean of the scores that could be read, or why there are none and what was answered."""

    score: float | None
    samples: tuple[float, ...] = ()
    reason: str = ""
    raw: str = ""

    @property
    def spread(self) -> float | None:
        """Standard deviation over the samples; None where there are fewer than two."""
        return statistics.pstdev(self.samples) if len(self.samples) > 1 else None


@dataclass(frozen=True)
class Preference:
    """Which of two replies is better: 1 the second, 0 the first, .5 a tie; None if unreadable.

    `flipped` says that the judge answered otherwise when the replies changed places.
    """

    second_wins: float | None
    flipped: bool = False
    reason: str = ""
    raw: str = ""


@dataclass(frozen=True)
class _Heard(Generic[T]):
    value: T | None
    reason: str = ""
    raw: str = ""
    answered: bool = True


class LlmJudge:
    """Judges by a template through a client."""

    def __init__(
        self, client: LlmClient, template: Template, *, temperature: float, max_tokens: int
    ) -> None:
        self.client = client
        self.template = template
        self.name = name_of(client)
        self._temperature = temperature
        self._max_tokens = max_tokens

    def score_all(
        self,
        rows: Sequence[tuple[Prompt, str]],
        samples: int = 1,
        progress: OnProgress | None = None,
    ) -> list[Judgement]:
        """A judgement of each reply to its prompt, from `samples` questions each."""
        requests = self.score_requests(rows, samples)
        heard = self._ask(requests, _read_score, progress)
        return [
            _judgement(heard[start : start + samples]) for start in range(0, len(heard), samples)
        ]

    def compare(
        self, pairs: Sequence[tuple[Prompt, str, str]], progress: OnProgress | None = None
    ) -> list[Preference]:
        """Which of two replies to a prompt is better, each pair asked in both orders."""
        heard: list[_Heard[Choice]] = self._ask(
            self.compare_requests(pairs), _read_choice, progress
        )
        return [
            _preference(plain, swapped)
            for plain, swapped in zip(heard[::2], heard[1::2], strict=True)
        ]

    def score_requests(
        self, rows: Sequence[tuple[Prompt, str]], samples: int = 1
    ) -> list[LlmRequest]:
        """What `score_all` asks first, the samples of a row side by side."""
        asked = [self._request(self._score_text(*row), _SCORE_SCHEMA) for row in rows]
        return [replace(request, sample=n) for request in asked for n in range(samples)]

    def compare_requests(self, pairs: Sequence[tuple[Prompt, str, str]]) -> list[LlmRequest]:
        """What `compare` asks first: each pair as it is, then with its replies swapped."""
        return [
            self._request(self._compare_text(prompt, *order), _CHOICE_SCHEMA)
            for prompt, first, second in pairs
            for order in ((first, second), (second, first))
        ]

    def _score_text(self, prompt: Prompt, reply: str) -> str:
        marks = Marks(self.template.text, prompt, reply)
        sections = {
            "user_input": marks.section("user_input", prompt),
            "completion": marks.section("completion", reply),
        }
        form = "the number alone, from 0 to 5"
        if self.client.json_schema_supported:
            form = 'JSON alone: {"score": a number from 0 to 5}'
        filled = self.template.fill(sections)
        return f"{marks.guard}\n\n{filled}\n\nWhat is the score? Answer with {form}."

    def _compare_text(self, prompt: Prompt, first: str, second: str) -> str:
        marks = Marks(self.template.text, prompt, first, second)
        form = "A, B or tie alone"
        if self.client.json_schema_supported:
            form = 'JSON alone: {"better": "A", "B" or "tie"}'
        parts = [
            marks.guard,
            f"By these rules a single reply is judged:\n{self.template.spoken}",
            f"Compare two replies by them.\n\nThe user's input:\n{marks.section('input', prompt)}",
            f"Reply A:\n{marks.section('A', first)}",
            f"Reply B:\n{marks.section('B', second)}",
            "Which reply is better? Neither order nor length alone makes one better. "
            f"Answer with {form}.",
        ]
        return "\n\n".join(parts)

    def _request(self, text: str, schema: str) -> LlmRequest:
        return LlmRequest(
            messages=(Message("user", text),),
            temperature=self._temperature,
            max_tokens=self._max_tokens,
            json_schema=schema,
        )

    def _ask(
        self,
        requests: Sequence[LlmRequest],
        read: Callable[[LlmReply], tuple[T | None, str]],
        progress: OnProgress | None,
    ) -> list[_Heard[T]]:
        asked = list(requests)
        heard = [_hear(answer, read) for answer in self.client.answer(asked, progress)]
        for _ in range(ATTEMPTS - 1):
            again = [n for n, one in enumerate(heard) if one.value is None and one.answered]
            if not again:
                break
            for n in again:
                asked[n] = _asked_again(asked[n], heard[n])
            answers = self.client.answer([asked[n] for n in again])
            for n, answer in zip(again, answers, strict=True):
                heard[n] = _hear(answer, read)
        return heard


def name_of(client: LlmClient) -> str:
    """Provider and model; of a local folder its name alone, since versions hold no paths."""
    model = PurePath(client.model)
    return f"{client.provider}:{model.name if model.is_absolute() else client.model}"


def _hear(answer: Answer, read: Callable[[LlmReply], tuple[T | None, str]]) -> _Heard[T]:
    if isinstance(answer, LlmFailure):
        return _Heard(None, answer.reason, answer.detail[:_RAW_CHARACTERS], answered=False)
    value, reason = read(answer)
    if value is None and answer.finish_reason in _DECLINED:
        reason = REFUSED
    return _Heard(value, reason, answer.text[:_RAW_CHARACTERS])


def _read_score(reply: LlmReply) -> tuple[float | None, str]:
    # Their patterns take a while to compile; whoever loads the definitions doesn't wait for them.
    from chatllama_pipeline.llm.judge.verdicts.scores import read_score

    reading = read_score(reply.text, cut_off=reply.finish_reason == "length")
    return reading.score, reading.reason


def _read_choice(reply: LlmReply) -> tuple[Choice | None, str]:
    from chatllama_pipeline.llm.judge.verdicts.choices import read_choice

    return read_choice(reply.text, cut_off=reply.finish_reason == "length")


def _asked_again(request: LlmRequest, heard: _Heard[T]) -> LlmRequest:
    """The question, the answer that could not be read, and why it could not."""
    wanted = "one number from 0 to 5" if request.json_schema == _SCORE_SCHEMA else "A, B or tie"
    told = Message(
        "user", f"That could not be read: {heard.reason}. Answer with {wanted} and nothing else."
    )
    said = Message("assistant", spoken(heard.raw).reply.strip() or "(nothing)")
    return replace(request, messages=(*request.messages, said, told))


def _judgement(heard: Sequence[_Heard[float]]) -> Judgement:
    samples = tuple(one.value for one in heard if one.value is not None)
    if samples:
        return Judgement(statistics.fmean(samples), samples)
    return Judgement(None, (), heard[0].reason, heard[0].raw)


def _preference(plain: _Heard[Choice], swapped: _Heard[Choice]) -> Preference:
    for one in (plain, swapped):
        if one.value is None:
            return Preference(None, False, one.reason, one.raw)
    wins = {"A": 0.0, "tie": 0.5, "B": 1.0}
    first, second = wins[plain.value or "tie"], 1 - wins[swapped.value or "tie"]
    return Preference(first if first == second else 0.5, first != second)
