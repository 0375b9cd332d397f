"""A corpus of what judges say in many languages: no score that wasn't meant, hardly one unread."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from chatllama_pipeline.llm.judge.verdicts.choices import NO_CHOICE, read_choice
from chatllama_pipeline.llm.judge.verdicts.scores import CUT_OFF, REFUSED, read_score
from tests.growth import grows_in_proportion

# language, asked (score or choice), said, finish (stop or length), and the right reading: a number,
# A, B, tie, or why there is none (refused, cut off, nothing).
VERDICTS = [
    json.loads(line)
    for line in (Path(__file__).parent / "verdicts.jsonl").read_text("utf-8").splitlines()
]
UNREAD = ("refused", "cut off", "nothing")


def reading(verdict: dict[str, Any]) -> tuple[Any, str]:
    cut_off = verdict["finish"] == "length"
    if verdict["asked"] == "choice":
        return read_choice(verdict["said"], cut_off)
    found = read_score(verdict["said"], cut_off)
    return found.score, found.reason


def test_the_corpus_is_large_and_speaks_many_languages() -> None:
    spoken = Counter(verdict["language"] for verdict in VERDICTS)
    assert len(VERDICTS) >= 300
    assert all(spoken[name] >= 30 for name in ("en", "de", "fr", "es", "ru"))
    assert all(spoken[name] >= 30 for name in ("zh", "ja", "hi", "ar"))
    assert {verdict["asked"] for verdict in VERDICTS} == {"score", "choice"}
    assert len({json.dumps(verdict) for verdict in VERDICTS}) == len(VERDICTS)


def test_no_verdict_is_read_as_another() -> None:
    wrong = [
        (verdict["said"], found)
        for verdict in VERDICTS
        if (found := reading(verdict)[0]) is not None and found != verdict["right"]
    ]
    assert wrong == []


def test_hardly_a_verdict_that_states_one_is_unread() -> None:
    readable = [verdict for verdict in VERDICTS if verdict["right"] not in UNREAD]
    unread = [verdict["said"] for verdict in readable if reading(verdict)[0] is None]
    assert len(unread) <= 0.02 * len(readable), unread


def test_refusals_and_what_was_cut_off_are_told_as_such() -> None:
    expected = {"refused": REFUSED, "cut off": CUT_OFF}
    told = [
        (verdict["said"], reading(verdict)[1])
        for verdict in VERDICTS
        if verdict["right"] in expected and reading(verdict)[1] != expected[verdict["right"]]
    ]
    assert told == []


@pytest.mark.parametrize(
    ("part", "end", "times"),
    [
        ("the my final ", "", 1000),
        ("I give it the ", "", 1000),
        ('{"a":', "", 20_000),
        ("“", "", 5000),
        ("\n", "so", 50_000),
        ("I can't ", "", 1000),
        ("1 or ", "", 3000),
    ],
)
def test_a_long_and_odd_reply_takes_time_in_proportion_to_its_length(
    part: str, end: str, times: int
) -> None:
    def text(size: int) -> str:
        return part * size + end

    assert read_score(text(times)).reason != ""
    assert read_choice(text(times)) in {(None, NO_CHOICE), (None, REFUSED)}
    assert grows_in_proportion(read_score, text, times)
    assert grows_in_proportion(read_choice, text, times)
