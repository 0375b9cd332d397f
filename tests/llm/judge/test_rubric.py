from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from chatllama_pipeline.errors import ProviderError
from chatllama_pipeline.llm.judge.rubric import RubricJudge
from chatllama_pipeline.records import Message, Prompt, user_prompt
from chatllama_pipeline.settings import AssistantSettings, Criterion

CRITERIA = [
    {"name": "greets", "points": 2, "says": r"(?i)^ahoy\b"},
    {"name": "short", "words": [3, 8]},
    {"name": "no machine", "avoids": "(?i)language model"},
    {"name": "on topic", "words_of_the_question": 1},
]


def judge(*criteria: dict[str, Any]) -> RubricJudge:
    return RubricJudge([Criterion.model_validate(one) for one in criteria or CRITERIA])


@pytest.mark.parametrize(
    ("reply", "points"),
    [
        ("Ahoy! Green tea wants cooler water.", 5),
        ("Green tea wants cooler water.", 3),
        ("Ahoy! I am a language model.", 3),
        ("As a language model I have read a great deal on many things.", 0),
        ("", 1),
    ],
)
def test_a_reply_earns_the_points_of_what_it_meets(reply: str, points: float) -> None:
    assert judge().score(user_prompt("How do I brew green tea?"), reply) == points


def test_points_count_by_their_weight_and_add_up_to_five() -> None:
    two = judge({"name": "a", "points": 3, "says": "a"}, {"name": "b", "says": "b"})
    assert two.score(user_prompt("?"), "a") == 3.75
    assert two.score(user_prompt("?"), "ab") == 5


def test_the_question_is_the_users_last_turn_and_its_short_words_say_nothing() -> None:
    talk: Prompt = [
        Message("user", "Tell me of ships."),
        Message("assistant", "They float."),
        Message("user", "And how is the tea?"),
    ]
    topic = judge({"name": "topic", "words_of_the_question": 1})
    assert topic.score(talk, "Ships float, and how!") == 0
    assert topic.score([*talk[:2], Message("user", "And चाय की दुकान?")], "दुकान खुली है।") == 5


def test_every_row_is_judged_once() -> None:
    found = judge().score_all([(user_prompt("tea?"), "Ahoy! Here is one."), (user_prompt("x"), "")])
    assert [(one.score, one.samples) for one in found] == [(4.0, (4.0,)), (1.0, (1.0,))]


def test_a_pattern_without_an_end_is_told_by_its_name() -> None:
    slow = judge({"name": "slow", "says": "^(.|a|aa)+$(?<=b)"})
    with pytest.raises(ProviderError, match=r"pattern of 'slow'.*longer than 2 s"):
        slow.score(user_prompt("?"), "a" * 4000)


@pytest.mark.parametrize(
    ("criterion", "told"),
    [
        ({"name": "x"}, "'x' has no condition; give it one of says, avoids, words"),
        ({"name": "x", "says": "a", "avoids": "b"}, "'x' has says, avoids; give it one of"),
        ({"name": "x", "says": "("}, r"'\(' is no regular expression \(missing \)"),
        ({"name": "x", "words": [9, 3]}, r"words \[9, 3\]: write \[fewest, most\]"),
        ({"name": "x", "says": "a", "points": 0}, "greater than 0"),
    ],
)
def test_a_criterion_that_asks_for_nothing_or_two_things_is_refused(
    criterion: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValidationError, match=told):
        AssistantSettings.model_validate({"rubric": [criterion]})


def test_a_judge_by_an_empty_rubric_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"evaluation\.judge\.provider: rubric judges by the"):
        AssistantSettings.model_validate({"evaluation": {"judge": "rubric"}})


def test_a_rubric_writes_nothing() -> None:
    config: dict[str, Any] = {"rubric": CRITERIA, "llm": {"provider": "rubric"}}
    assert AssistantSettings.model_validate(config).judge == "rubric"
    config["llm"]["synthetic_prompts"] = 3
    with pytest.raises(ValidationError, match=r"writes nothing, and 3 synthetic rows"):
        AssistantSettings.model_validate(config)
