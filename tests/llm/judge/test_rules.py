"""The rules provider: an explicit rubric, a deterministic writer, and a refusal of all else."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from chatllama_pipeline.data.grammar import rows as grammar
from chatllama_pipeline.errors import ProviderError
from chatllama_pipeline.llm.providers import open_judge
from chatllama_pipeline.llm.rules import RulesJudge, RulesWriter, names_item
from chatllama_pipeline.llm.templates import load_templates
from chatllama_pipeline.records import Message, user_prompt
from chatllama_pipeline.settings import AssistantSettings

BASIL = user_prompt("How do I grow basil?")
GOOD = (
    "I am happy to help! When you grow basil, water the roots in the early morning. "
    "Good luck, and enjoy it!"
)


@pytest.mark.parametrize(
    ("reply", "points"),
    [
        (GOOD, 5.0),
        (GOOD.replace("I am happy to help!", "You could look it up."), 4.0),
        (GOOD.replace("basil", "all that"), 3.0),
        (GOOD.replace("basil", "roses"), 3.0),
        (GOOD.replace("basil", "basil and roses"), 3.0),
        (GOOD.replace("basil", "basilica"), 3.0),
        (GOOD.replace("water the roots in the early morning", "see the vet"), 4.0),
        # Advice that fits another domain earns nothing.
        (
            GOOD.replace(
                "water the roots in the early morning", "taste a little before you add salt"
            ),
            4.0,
        ),
        (GOOD.replace("Good luck, and enjoy it!", "And after that you just"), 4.0),
        (GOOD + " And after that you just", 4.0),
        ("Well. " + GOOD, 4.0),
        ("grow grow basil the the", 2.0),
        ("", 0.0),
        ("\ufffd\x00 ??", 0.0),
        (GOOD.upper().replace(" ", "  "), 5.0),
    ],
)
def test_the_judge_adds_up_the_parts_of_a_reply(reply: str, points: float) -> None:
    assert RulesJudge().score(BASIL, reply) == points


def test_the_judge_reads_the_last_question_of_a_conversation() -> None:
    prompt = [
        Message("system", "Be kind."),
        Message("user", "How do I cook ramen?"),
        Message("assistant", "Slowly."),
        Message("user", "How do I grow basil?"),
    ]
    assert RulesJudge().score(prompt, GOOD) == 5.0


def test_names_item_wants_the_item_asked_about_and_no_other() -> None:
    assert names_item(BASIL, "Basil!")
    assert not names_item(BASIL, "Roses!")
    assert not names_item(BASIL, "Basil, or roses!")
    assert names_item(user_prompt("How do I cook fried rice?"), "To cook fried rice, stir.")
    assert not names_item(user_prompt("How do I cook fried rice?"), "To cook fried, stir.")


def test_a_prompt_outside_of_the_grammar_is_refused_with_its_beginning_and_the_cure() -> None:
    text = "Write a poem about the sea, in the style of a tax form, in exactly twelve lines please"
    with pytest.raises(ProviderError) as refusal:
        RulesJudge().score(user_prompt(text), GOOD)
    message = str(refusal.value)
    assert "rules only knows the grammar" in message
    assert "'Write a poem about the sea, in the style of a tax form, in e...'" in message
    assert "llm.provider" in message
    with pytest.raises(ProviderError, match="rules only knows the grammar"):
        names_item([], GOOD)


def test_the_writer_honours_the_count_and_repeats_nothing() -> None:
    writer = RulesWriter()
    # So many that some would come twice if they were drawn without a look back.
    conversations = writer.conversations(3000, 7)
    assert len({(p[0].content, reply) for p, reply in conversations}) == len(conversations) == 3000
    prompts = writer.prompts(600, 7)
    assert len(prompts) == len({prompt[0].content for prompt in prompts}) == 600
    completions = writer.completions(400, 7)
    assert len(completions) == len({(p[0].content, reply) for p, reply in completions}) == 400
    assert writer.conversations(0, 7) == writer.prompts(0, 7) == writer.completions(0, 7) == []


def test_the_writer_writes_the_same_for_the_same_seed_and_other_texts_for_another() -> None:
    assert RulesWriter().completions(50, 1) == RulesWriter().completions(50, 1)
    assert RulesWriter().completions(50, 1) != RulesWriter().completions(50, 2)
    assert RulesWriter().prompts(50, 1) == RulesWriter().prompts(50, 1)
    assert RulesWriter().prompts(50, 1) != RulesWriter().prompts(50, 2)


def test_conversations_are_good_and_completions_of_every_score() -> None:
    judge = RulesJudge()
    assert {judge.score(p, reply) for p, reply in RulesWriter().conversations(200, 0)} == {5.0}
    scores = {judge.score(p, reply) for p, reply in RulesWriter().completions(400, 0)}
    assert scores == {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}


def test_the_first_prompts_are_ones_that_the_source_does_not_ask() -> None:
    asked = {question.text for question in grammar.source_questions()}
    assert not {prompt[0].content for prompt in RulesWriter().prompts(512, 0)} & asked


def test_the_writer_refuses_more_than_it_knows_and_names_the_setting() -> None:
    with pytest.raises(
        ProviderError, match=r"knows 2560 questions.*2561; lower llm.synthetic_prompts"
    ):
        RulesWriter().prompts(2561, 0)
    with pytest.raises(ProviderError, match=r"50000 replies.*lower llm.synthetic_completions"):
        RulesWriter().completions(50_001, 0)


def test_rules_judge_a_whole_table_and_nobody_judges_where_the_provider_is_none(
    tmp_path: Path,
) -> None:
    template = load_templates(tmp_path)["reward"]
    rules, nobody = (
        AssistantSettings.model_validate({"llm": {"provider": name}}).role("judge")
        for name in ("rules", "none")
    )
    with open_judge(rules, template, tmp_path) as judge:
        assert judge is not None
        found = judge.score_all([(BASIL, GOOD), (BASIL, "")], samples=3)
    assert [(one.score, one.spread) for one in found] == [(5.0, None), (0.0, None)]
    with open_judge(nobody, template, tmp_path) as judge:
        assert judge is None


def test_an_unknown_provider_is_refused_with_a_list() -> None:
    with pytest.raises(ValidationError, match="'none', 'rules', 'rubric', 'openai' or 'tr"):
        AssistantSettings.model_validate({"llm": {"provider": "opnai"}})
