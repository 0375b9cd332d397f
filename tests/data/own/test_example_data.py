"""The rows of examples/smollm: enough on every side, and nothing that the audit warns of."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from chatllama_pipeline.data.audit.build import build_data_audit
from chatllama_pipeline.data.own.personal import build_personal_data
from chatllama_pipeline.data.own.unread import unread_files
from chatllama_pipeline.data.prepare.datasets import (
    build_actor_training_data,
    build_rlhf_training_data,
)
from chatllama_pipeline.data.prepare.preferences import build_preference_data
from chatllama_pipeline.data.tables import read_split
from chatllama_pipeline.llm.judge.rubric import RubricJudge
from chatllama_pipeline.llm.scoring import build_reward_training_data
from chatllama_pipeline.records import SPLITS, Check, user_prompt
from chatllama_pipeline.schemas import ACTOR_SCHEMA, PROMPT_SCHEMA, REWARD_SCHEMA
from chatllama_pipeline.settings.folder import Assistant, load_assistant
from chatllama_pipeline.settings.known_questions import read_known_questions

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    # More bytes than any row has, so that no tokenizer need be fetched.
    return load_assistant("smollm", {"data.max_length": 4000}, EXAMPLES)


@pytest.fixture(scope="module")
def tables(
    assistant: Assistant, tmp_path_factory: pytest.TempPathFactory, write_table: Any
) -> dict[str, Path]:
    root, settings = tmp_path_factory.mktemp("smollm"), assistant.settings
    names = ("preference_data", "actor_training_data", "rlhf_training_data", "reward_training_data")
    folders = {name: root / name for name in names}
    personal, pairs = root / "personal", folders["preference_data"]
    none = [
        write_table(root / name, [], schema)
        for name, schema in (("c", ACTOR_SCHEMA), ("p", PROMPT_SCHEMA), ("r", REWARD_SCHEMA))
    ]
    for folder in (personal, *folders.values()):
        folder.mkdir()
    build_personal_data(assistant.folder, settings, personal)
    build_preference_data({}, personal, settings, pairs)
    build_actor_training_data(pairs, none[0], personal, settings, folders["actor_training_data"])
    build_rlhf_training_data(pairs, none[1], personal, settings, folders["rlhf_training_data"])
    build_reward_training_data(pairs, none[2], personal, settings, folders["reward_training_data"])
    return folders


def test_every_side_has_rows_enough_to_train_and_to_judge_by(tables: dict[str, Path]) -> None:
    rows = {name: Counter({s: len(read_split(f, s)) for s in SPLITS}) for name, f in tables.items()}
    assert rows["actor_training_data"]["train"] >= 300
    assert rows["preference_data"]["train"] >= 300 and rows["preference_data"]["test"] >= 90
    assert rows["rlhf_training_data"]["train"] >= 250 and rows["rlhf_training_data"]["test"] >= 80


def test_the_audit_warns_of_nothing(
    assistant: Assistant, tables: dict[str, Path], tmp_path: Path
) -> None:
    unread = unread_files(assistant.folder, assistant.settings)
    outcome = build_data_audit("smollm", tables, assistant.settings, tmp_path, unread)
    warned: list[Check] = [check for check in outcome.checks if not check.passed]
    assert warned == []


def test_no_question_with_a_known_answer_is_trained_on(
    assistant: Assistant, tables: dict[str, Path]
) -> None:
    questions = read_known_questions(Path(assistant.settings.evaluation.known_answers or ""), "key")
    asked = {known.question.casefold() for known in questions}
    for folder in tables.values():
        for row in (row for split in SPLITS for row in read_split(folder, split)):
            turns = {turn["content"].casefold() for turn in row["prompt"]}
            assert not turns & asked


def test_the_rubric_prefers_the_chosen_reply_by_more_than_its_length(
    assistant: Assistant, tables: dict[str, Path]
) -> None:
    judge = RubricJudge(assistant.settings.rubric)
    pairs = [row for split in SPLITS for row in read_split(tables["preference_data"], split)]
    wins = 0.0
    for row in pairs:
        prompt = user_prompt(row["prompt"][-1]["content"])
        chosen, rejected = (judge.score(prompt, row[side]) for side in ("chosen", "rejected"))
        wins += 0.5 if chosen == rejected else float(chosen > rejected)
    # It knows no fact: a reply in Wick's voice to another question looks right to it.
    assert 0.75 < wins / len(pairs) < 0.95
