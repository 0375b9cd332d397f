"""An LLM as writer: from a few examples to thousands of rows that differ from them and each other.

Conversations are written in one of three ways: `self_instruct` (Wang et al. 2022: new pairs from
drawn examples, some of them written before), `question_answer` (questions first, then a reply to
each), `personas` (a person and the assistant talk for some turns; a row per reply). All goes in
rounds: each call's examples and seed follow from its number and from what the rounds before gave,
so that a killed run asks the same again and is answered from the cache.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from chatllama_pipeline.llm.client.requests import Answer, LlmClient, LlmFailure, LlmReply
from chatllama_pipeline.llm.judge.questions import name_of
from chatllama_pipeline.llm.writer.novelty import LIKE_ANOTHER, Pool, fault_of, tokens
from chatllama_pipeline.llm.writer.replies import read_items, read_text
from chatllama_pipeline.llm.writer.requests import (
    PAIR_FIELDS,
    QUESTION_FIELDS,
    Asked,
    WriterRequests,
)
from chatllama_pipeline.llm.writer.texts import QUALITIES, Example
from chatllama_pipeline.models.chat.thoughts import spoken
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Message, Prompt, user_prompt

_FIRST_ROUND, _LARGEST_ROUND, _SMALLEST_ROUND = 8, 256, 4
# A round is barren below this share of the rows that its calls could give; two end it all.
_BARREN_SHARE, _BARREN_ROUNDS = 0.05, 2
_SAID_CHARACTERS = 200
_FEWEST_QUESTION_TOKENS = 2
# Two replies to one prompt share more than two questions do.
_MOST_SIMILAR_REPLIES = 0.9

UNREADABLE = "unreadable"
REFUSED = "refused"
CUT_OFF = "cut_off"
ECHO = "echo"
_MARK = re.compile(r"\[[\w ]{1,40} [0-9a-f]{12}\]")


@dataclass(frozen=True)
class WrittenRow:
    """A row and what it came from: way, template's hash, and the labels of the examples shown."""

    prompt: Prompt
    completion: str
    way: str
    template: str
    examples: tuple[str, ...]
    quality: str = ""


@dataclass
class Batch:
    """What a writer wrote: rows, how many texts were refused by reason, and why it stopped early.

    `said` is the last reply that gave no row, for people to look at.
    """

    rows: list[WrittenRow] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    stopped: str = ""
    said: str = ""

    def refuse(self, reason: str, said: str) -> None:
        self.refused[reason] += 1
        self.said = said[:_SAID_CHARACTERS]


class LlmWriter:
    """Writes through a client; the same seed and the same answers write the same rows.

    `known` are the examples that nothing written may repeat; those that are shown may be fewer.
    Where rounds are slow (`one_round`, for the Batch API) all calls that are missing go at once.
    """

    def __init__(
        self,
        client: LlmClient,
        requests: WriterRequests,
        known: Sequence[Example],
        progress: Progress | None = None,
        one_round: bool = False,
    ) -> None:
        self.name = name_of(client)
        self._client = client
        self._requests = requests
        self._known = known
        self._progress = progress
        self._one_round = one_round

    def conversations(self, count: int, way: str, turns: int) -> Batch:
        """`count` prompts with a good reply each; fewer where the writer only repeats itself."""
        ways: dict[str, Callable[[range, _Desk], None]] = {
            "self_instruct": self._write_pairs,
            "question_answer": self._write_answered_questions,
            "personas": lambda numbers, desk: self._write_talks(numbers, desk, turns),
        }
        per_call = turns if way == "personas" else self._requests.rows_per_call
        return self._grow(count, per_call, _Desk(self._known, way), ways[way])

    def prompts(self, count: int, key: str = "rlhf") -> Batch:
        """`count` new things that people write, by the template of that key."""

        def write(numbers: range, desk: _Desk) -> None:
            desk.batch.rows += self._write_questions(numbers, desk, key)

        desk = _Desk(self._known, "questions")
        return self._grow(count, self._requests.rows_per_call, desk, write)

    def completions(self, count: int) -> Batch:
        """`count` replies of all `QUALITIES`, to the examples' prompts and to new ones."""
        needed = math.ceil(count / len(QUALITIES))
        shown = self._requests.examples
        own = list({repr(example.prompt): example.prompt for example in shown}.values())
        fresh = self.prompts(max(0, needed - len(own)), "actor")
        prompts = [*own, *(row.prompt for row in fresh.rows)][:needed]
        tasks = [(prompt, quality) for prompt in prompts for quality in QUALITIES]
        desk = _Desk(self._known, "graded")
        desk.batch = Batch(refused=fresh.refused, calls=fresh.calls, said=fresh.said)
        if not tasks:
            return desk.batch
        return self._grow(count, 1, desk, lambda ns, desk: self._write_graded(ns, desk, tasks))

    def _grow(
        self, count: int, per_call: int, desk: _Desk, write: Callable[[range, _Desk], None]
    ) -> Batch:
        """Let `write` work in rounds of calls until there are `count` rows, or no new ones."""
        batch, size, number, barren = desk.batch, _FIRST_ROUND, 0, 0
        while len(batch.rows) < count and barren < _BARREN_ROUNDS:
            before = len(batch.rows)
            missing = max(_SMALLEST_ROUND, math.ceil((count - before) / per_call))
            calls = missing if self._one_round else min(size, missing)
            write(range(number, number + calls), desk)
            number += calls
            gained = len(batch.rows) - before
            if gained < _BARREN_SHARE * calls * per_call:
                barren += 1
            else:
                barren, size = 0, min(2 * size, _LARGEST_ROUND)
            if self._progress:
                refused = batch.refused.total()
                self._progress.step(min(count, len(batch.rows)), count, refused=refused)
        if len(batch.rows) < count:
            batch.stopped = (
                f"stopped at {len(batch.rows)} of {count} rows, since {_BARREN_ROUNDS} rounds "
                f"brought nothing new; refused: {listed(batch.refused)}"
            )
        del batch.rows[count:]
        return batch

    def _ask(self, asked: Sequence[Asked], desk: _Desk) -> list[LlmReply | None]:
        """What was answered to each; None, counted, where there is no answer."""
        answers = self._client.answer([one.request for one in asked])
        desk.batch.calls += len(asked)
        return [desk.hear(answer) for answer in answers]

    def _ask_texts(self, asked: Sequence[Asked], desk: _Desk) -> list[str | None]:
        """The same, where each answer is one text, which must be fit and whole."""
        return [desk.text(reply) for reply in self._ask(asked, desk)]

    def _write_pairs(self, numbers: range, desk: _Desk) -> None:
        written = _as_examples(desk.batch.rows)
        asked = [self._requests.pairs(number, written) for number in numbers]
        for one, said in zip(asked, self._ask(asked, desk), strict=True):
            for item in desk.items(said, PAIR_FIELDS):
                desk.keep_pair(one, user_prompt(item["user_input"]), item["completion"])

    def _write_questions(self, numbers: range, desk: _Desk, key: str) -> list[WrittenRow]:
        written = _as_examples(desk.batch.rows)
        asked = [self._requests.questions(number, written, key) for number in numbers]
        rows = []
        for one, said in zip(asked, self._ask(asked, desk), strict=True):
            for item in desk.items(said, QUESTION_FIELDS):
                if desk.is_new(item["user_input"]):
                    rows.append(desk.row(one, user_prompt(item["user_input"]), ""))
        return rows

    def _write_answered_questions(self, numbers: range, desk: _Desk) -> None:
        questions = self._write_questions(numbers, desk, "actor")
        first = numbers[0] * self._requests.rows_per_call
        asked = [
            self._requests.reply(first + n, question.prompt) for n, question in enumerate(questions)
        ]
        for question, one, text in zip(questions, asked, self._ask_texts(asked, desk), strict=True):
            if text is not None:
                desk.keep_reply(one, question.prompt, text)

    def _write_talks(self, numbers: range, desk: _Desk, turns: int) -> None:
        """A talk per number, all a turn further at a time; a talk ends where a text is unfit."""
        talks: dict[int, Prompt] = {number: [] for number in numbers}
        for turn in range(turns):
            asked = [self._requests.person(number, talk) for number, talk in talks.items()]
            heard = self._ask_texts(asked, desk)
            talks = {
                number: [*talk, Message("user", text)]
                for (number, talk), text in zip(talks.items(), heard, strict=True)
                if text is not None and (turn > 0 or desk.is_new(text))
            }
            asked = [self._requests.reply(number, talk) for number, talk in talks.items()]
            heard = self._ask_texts(asked, desk)
            answered = {}
            for (number, talk), one, text in zip(talks.items(), asked, heard, strict=True):
                if text is not None and desk.keep_reply(one, talk, text):
                    answered[number] = [*talk, Message("assistant", text)]
            talks = answered

    def _write_graded(
        self, numbers: range, desk: _Desk, tasks: Sequence[tuple[Prompt, str]]
    ) -> None:
        chosen = [tasks[number % len(tasks)] for number in numbers]
        asked = [
            self._requests.graded(number, *task)
            for number, task in zip(numbers, chosen, strict=True)
        ]
        for (prompt, quality), one, text in zip(
            chosen, asked, self._ask_texts(asked, desk), strict=True
        ):
            if text is not None:
                desk.keep_reply(one, prompt, text, quality)


class _Desk:
    """What is being written: the batch, and what new texts are held against."""

    def __init__(self, examples: Sequence[Example], way: str) -> None:
        self.batch = Batch()
        self._way = way
        self._pool = Pool(first_turn(example.prompt) for example in examples)
        self._examples = examples
        self._replies: set[tuple[str, ...]] = set()
        self._replies_to: dict[str, Pool] = {}

    def hear(self, answer: Answer) -> LlmReply | None:
        """What was answered without its thoughts, if it came to an answer."""
        if isinstance(answer, LlmFailure):
            self.batch.refuse(answer.reason, answer.detail)
        elif answer.finish_reason in ("content_filter", "refusal"):
            self.batch.refuse(REFUSED, answer.text)
        else:
            found = spoken(answer.text)
            if found.finished:
                return dataclasses.replace(answer, text=found.reply)
            self.batch.refuse(CUT_OFF, answer.text)
        return None

    def items(self, reply: LlmReply | None, fields: tuple[str, ...]) -> list[dict[str, str]]:
        """The rows of a reply whose every text is fit."""
        if reply is None:
            return []
        cut_off = reply.finish_reason == "length"
        found = read_items(reply.text, fields, cut_off)
        if cut_off:
            self.batch.refuse(CUT_OFF, reply.text)
        elif not found:
            self.batch.refuse(UNREADABLE, reply.text)
        return [item for item in found if all(self._is_fit(item[field]) for field in fields)]

    def text(self, reply: LlmReply | None) -> str | None:
        """The one text of a reply, if it is whole and fit."""
        if reply is None:
            return None
        if reply.finish_reason == "length":
            self.batch.refuse(CUT_OFF, reply.text)
            return None
        text = read_text(reply.text)
        return text if self._is_fit(text) else None

    def is_new(self, question: str) -> bool:
        """Whether a question is unlike the examples and all before; it is then one of these."""
        fault = fault_of(question, _FEWEST_QUESTION_TOKENS) or self._pool.add(question)
        if fault:
            self.batch.refuse(fault, question)
        return fault is None

    def keep_pair(self, asked: Asked, prompt: Prompt, completion: str) -> None:
        if self.is_new(prompt[-1].content):
            self.keep_reply(asked, prompt, completion)

    def keep_reply(self, asked: Asked, prompt: Prompt, completion: str, quality: str = "") -> bool:
        """Take a row, unless its reply repeats its question, another row's reply to the letter, or
        nearly one to the same prompt."""
        fault = self._repetition(prompt, completion)
        if fault:
            self.batch.refuse(fault, completion)
            return False
        self.batch.rows.append(self.row(asked, prompt, completion, quality))
        return True

    def _repetition(self, prompt: Prompt, completion: str) -> str | None:
        said = tuple(tokens(completion))
        if said == tuple(tokens(prompt[-1].content)):
            return ECHO
        if said in self._replies:
            return LIKE_ANOTHER
        known = (example.completion for example in self._examples if example.prompt == prompt)
        key = repr(prompt)
        if key not in self._replies_to:
            self._replies_to[key] = Pool(filter(None, known), _MOST_SIMILAR_REPLIES)
        fault = self._replies_to[key].add(completion)
        if fault is None:
            self._replies.add(said)
        return fault

    def row(self, asked: Asked, prompt: Prompt, completion: str, quality: str = "") -> WrittenRow:
        return WrittenRow(prompt, completion, self._way, asked.template, asked.examples, quality)

    def _is_fit(self, text: str) -> bool:
        fault = ECHO if _MARK.search(text) else fault_of(text)
        if fault:
            self.batch.refuse(fault, text)
        return fault is None


def first_turn(prompt: Prompt) -> str:
    """The first thing that the user writes."""
    return next((turn.content for turn in prompt if turn.role == "user"), "")


def listed(refused: Counter[str]) -> str:
    """Counts by reason, the most frequent first."""
    return ", ".join(f"{reason} {count}" for reason, count in refused.most_common()) or "none"


def _as_examples(rows: Sequence[WrittenRow]) -> list[Example]:
    return [
        Example(f"written:{number}", row.prompt, row.completion)
        for number, row in enumerate(rows, start=1)
    ]
