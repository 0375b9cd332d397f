"""The source `grammar`: questions about everyday things and replies of known quality.

For machines with nothing else. A reply has four parts (opening, topic with advice, ending), each
good or bad; `Quality` keeps which and adds them up to 0..5. The same lists read texts
back: `read_question` tells the item a question asks about. Deterministic: nothing here depends on
a machine, a clock or Python's hash seed.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from chatllama_pipeline.data.grammar.items import (
    CLOSINGS,
    DOMAINS,
    EMPTY_ADVICE,
    POLITE_OPENINGS,
    QUESTIONS,
    RUDE_OPENINGS,
    TOPICS,
    TRAILING_OFF,
    VAGUE_TOPICS,
    Domain,
)

PAIRS_PER_QUESTION = 2
# Of the ten ways to ask about an item, the source uses eight; the rest stay fresh for the writer.
QUESTIONS_PER_ITEM = 8
OPENING_POINTS, NAMING_POINTS, ADVICE_POINTS, ENDING_POINTS = 1, 2, 1, 1

Topic = Literal["asked", "vague", "other"]
_GOOD_SHARE = 0.58
# A reply mostly names what was asked about, or nothing at all; wrong names only blur the lesson of
# copying, which a small model learns late.
_TOPIC_WEIGHTS: dict[Topic, float] = {"asked": 0.48, "vague": 0.48, "other": 0.04}
_ADVICE_OF_ANOTHER_DOMAIN = 0.2


@dataclass(frozen=True)
class Question:
    """A question of the grammar: the item, its domain, and the text as asked."""

    domain: Domain
    item: str
    text: str


@dataclass(frozen=True)
class Quality:
    """Which parts of a reply are good."""

    polite: bool
    topic: Topic
    helpful: bool
    ended: bool

    @property
    def rubric(self) -> int:
        """0..5 points: for a polite opening, for naming the item that was asked about and no
        other, for advice that fits its domain, for a proper closing."""
        return (
            OPENING_POINTS * self.polite
            + NAMING_POINTS * (self.topic == "asked")
            + ADVICE_POINTS * self.helpful
            + ENDING_POINTS * self.ended
        )


GOOD = Quality(polite=True, topic="asked", helpful=True, ended=True)


def ask(domain: Domain, item: str, phrasing: int) -> Question:
    """The question about `item` in one of the `QUESTIONS` phrasings."""
    return Question(domain, item, QUESTIONS[phrasing].format(verb=domain.verb, item=item))


def source_questions() -> Iterator[Question]:
    """The questions that the source itself uses."""
    yield from _questions(fresh=False)


def fresh_questions() -> Iterator[Question]:
    """Questions of the grammar that the source leaves out."""
    yield from _questions(fresh=True)


def _questions(fresh: bool) -> Iterator[Question]:
    for domain in DOMAINS:
        for index, item in enumerate(domain.items):
            for phrasing in range(len(QUESTIONS)):
                # Rotated, so that every phrasing is used, and left out, equally often.
                if ((phrasing + index) % len(QUESTIONS) >= QUESTIONS_PER_ITEM) == fresh:
                    yield ask(domain, item, phrasing)


def draw_quality(rng: random.Random) -> Quality:
    """Each part good a little more often than not."""
    topics, weights = zip(*_TOPIC_WEIGHTS.items(), strict=True)
    return Quality(
        polite=rng.random() < _GOOD_SHARE,
        topic=rng.choices(topics, weights)[0],
        helpful=rng.random() < _GOOD_SHARE,
        ended=rng.random() < _GOOD_SHARE,
    )


def write_reply(question: Question, quality: Quality, rng: random.Random) -> str:
    """A reply of the given quality in one of its many wordings."""
    if quality.topic == "asked":
        topic = question.item
    elif quality.topic == "vague":
        topic = rng.choice(VAGUE_TOPICS)
    else:
        topic = rng.choice([item for item in question.domain.items if item != question.item])
    if quality.helpful:
        advice = rng.choice(question.domain.tips)
    elif rng.random() < _ADVICE_OF_ANOTHER_DOMAIN:
        advice = rng.choice(rng.choice([d for d in DOMAINS if d is not question.domain]).tips)
    else:
        advice = rng.choice(EMPTY_ADVICE)
    opening = rng.choice(POLITE_OPENINGS if quality.polite else RUDE_OPENINGS)
    ending = rng.choice(CLOSINGS if quality.ended else TRAILING_OFF)
    about = rng.choice(TOPICS).format(verb=question.domain.verb, topic=topic)
    return f"{opening} {about} {advice}. {ending}"


def grammar_pairs() -> Iterator[dict[str, Any]]:
    """Every pair of the source, as rows of `schemas.PAIR_SCHEMA`.

    `chosen` has strictly more points than `rejected`; `strength` is the difference (1..5).
    """
    for question in source_questions():
        for number in range(PAIRS_PER_QUESTION):
            rng = random.Random(f"grammar/{number}/{question.text}")
            first, second = draw_quality(rng), draw_quality(rng)
            while first.rubric == second.rubric:
                second = draw_quality(rng)
            better, worse = sorted((first, second), key=lambda q: q.rubric, reverse=True)
            yield {
                "prompt": [{"role": "user", "content": question.text}],
                "chosen": write_reply(question, better, rng),
                "rejected": write_reply(question, worse, rng),
                "strength": float(better.rubric - worse.rubric),
                "source": "grammar",
                "domain": question.domain.name,
            }


def read_question(text: str) -> Question | None:
    """The question that a text is, or None if the grammar doesn't know it."""
    return _all_questions().get(_plain(text))


@functools.cache
def _all_questions() -> dict[str, Question]:
    every = [*source_questions(), *fresh_questions()]
    return {_plain(question.text): question for question in every}


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


@functools.cache
def _item_pattern() -> re.Pattern[str]:
    items = sorted((item for d in DOMAINS for item in d.items), key=len, reverse=True)
    return re.compile(r"\b(?:" + "|".join(re.escape(item.casefold()) for item in items) + r")\b")


def items_named(reply: str) -> set[str]:
    """The items of the grammar that a reply names, in lower case."""
    return set(_item_pattern().findall(_plain(reply)))


def read_quality(question: Question, reply: str) -> Quality:
    """Which good parts a reply holds; words outside of the grammar earn nothing.

    Naming a second item spoils the naming, so listing items gains nothing.
    """
    plain, named = _plain(reply), items_named(reply)
    asked = named == {question.item.casefold()}
    return Quality(
        polite=plain.startswith(tuple(_plain(opening) for opening in POLITE_OPENINGS)),
        topic="asked" if asked else "other" if named else "vague",
        helpful=any(_plain(tip) in plain for tip in question.domain.tips),
        ended=plain.endswith(tuple(_plain(closing) for closing in CLOSINGS)),
    )
