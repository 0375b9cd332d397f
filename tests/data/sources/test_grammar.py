"""The source grammar: varied, deterministic, labelled by its rubric, and short enough to learn."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys

import pyarrow as pa
import pytest

from chatllama_pipeline.data.checks import LengthWins
from chatllama_pipeline.data.grammar import rows as grammar
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
)
from chatllama_pipeline.schemas import PAIR_SCHEMA

PAIRS = list(grammar.grammar_pairs())
ITEMS = [item for domain in DOMAINS for item in domain.items]
BASIL = grammar.Question(DOMAINS[1], "basil", "How do I grow basil?")


def test_there_are_enough_pairs_prompts_items_and_phrasings() -> None:
    assert len(PAIRS) == 4096
    assert len({pair["prompt"][0]["content"] for pair in PAIRS}) == 2048
    assert len(DOMAINS) == 8
    assert len({item.casefold() for item in ITEMS}) == len(ITEMS) == 256
    assert all(1 <= len(item.split()) <= 2 for item in ITEMS)
    assert len(set(QUESTIONS)) == 10


def test_the_chosen_reply_always_has_strictly_more_points() -> None:
    for pair in PAIRS:
        question = grammar.read_question(pair["prompt"][0]["content"])
        assert question is not None
        chosen = grammar.read_quality(question, pair["chosen"]).rubric
        rejected = grammar.read_quality(question, pair["rejected"]).rubric
        assert chosen > rejected
        assert pair["strength"] == chosen - rejected


def test_every_quality_is_present_about_half_the_time() -> None:
    qualities = []
    for pair in PAIRS:
        question = grammar.read_question(pair["prompt"][0]["content"])
        assert question is not None
        qualities += [grammar.read_quality(question, pair[side]) for side in ("chosen", "rejected")]
    for present in (
        [q.polite for q in qualities],
        [q.topic == "asked" for q in qualities],
        [q.helpful for q in qualities],
        [q.ended for q in qualities],
    ):
        assert 0.4 < sum(present) / len(present) < 0.65


def test_length_alone_does_not_tell_the_better_reply() -> None:
    lengths = LengthWins()
    lengths.look_at(pa.Table.from_pylist(PAIRS, schema=PAIR_SCHEMA))
    assert 0.45 < lengths.accuracy < 0.55


def test_replies_are_short() -> None:
    lengths = [len(pair[side].split()) for pair in PAIRS for side in ("chosen", "rejected")]
    assert (min(lengths), max(lengths)) == (19, 28)


def test_no_phrase_and_no_other_item_holds_an_item() -> None:
    phrases = [
        *QUESTIONS,
        *POLITE_OPENINGS,
        *RUDE_OPENINGS,
        *TOPICS,
        *VAGUE_TOPICS,
        *EMPTY_ADVICE,
        *CLOSINGS,
        *TRAILING_OFF,
        *(tip for domain in DOMAINS for tip in domain.tips),
        *(domain.verb for domain in DOMAINS),
    ]
    assert [phrase for phrase in phrases if grammar.items_named(phrase)] == []
    assert [item for item in ITEMS if grammar.items_named(item) != {item.casefold()}] == []


@pytest.mark.parametrize("topic", ["asked", "vague", "other"])
@pytest.mark.parametrize("polite", [True, False])
@pytest.mark.parametrize("helpful", [True, False])
@pytest.mark.parametrize("ended", [True, False])
def test_a_written_quality_is_read_back(
    topic: grammar.Topic, polite: bool, helpful: bool, ended: bool
) -> None:
    quality = grammar.Quality(polite=polite, topic=topic, helpful=helpful, ended=ended)
    for seed in range(20):
        reply = grammar.write_reply(BASIL, quality, random.Random(seed))
        assert grammar.read_quality(BASIL, reply) == quality


def test_the_writer_has_questions_that_the_source_does_not_ask() -> None:
    used = {question.text for question in grammar.source_questions()}
    fresh = {question.text for question in grammar.fresh_questions()}
    assert (len(used), len(fresh), len(used & fresh)) == (2048, 512, 0)


def test_the_pairs_do_not_depend_on_python_s_hash_seed() -> None:
    program = (
        "import hashlib, json; from chatllama_pipeline.data.grammar.rows import grammar_pairs; "
        "print(hashlib.sha256(json.dumps(list(grammar_pairs())).encode()).hexdigest())"
    )
    here = hashlib.sha256(json.dumps(PAIRS).encode()).hexdigest()
    elsewhere = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONHASHSEED": "12345", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert elsewhere.stdout.strip() == here


def test_a_text_outside_of_the_grammar_is_no_question() -> None:
    assert grammar.read_question("How do I grow uranium?") is None
    assert grammar.read_question("  how do I GROW   basil? ") == BASIL
