"""Each family's folder, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatllama_pipeline.schemas import ACTOR_SCHEMA, PREFERENCE_SCHEMA, PROMPT_SCHEMA, REWARD_SCHEMA
from tests.families.kit import ACTORS, PRETRAINED_REWARDS, Family
from tests.families.vocabulary.tokenizer_kinds import WORDS

SPLITS = ["train"] * 8 + ["validation"] * 2 + ["test"] * 2
FAMILIES = {family.name: family for family in (*ACTORS, *PRETRAINED_REWARDS)}


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The hub folder of a family, by its name."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            family: Family = FAMILIES[name]
            made[name] = family.make(tmp_path_factory.mktemp(name))
        return made[name]

    return make


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory, write_table: Any) -> dict[str, Path]:
    """Twelve words to say after their asker; of two replies the one with `kilo` is liked."""
    root = tmp_path_factory.mktemp("tables")

    def rows(**columns: Callable[[str], Any]) -> list[dict[str, Any]]:
        return [
            {
                "prompt": [{"role": "user", "content": word}],
                "source": "test",
                "split": split,
                **{name: value(word) for name, value in columns.items()},
            }
            for word, split in zip(WORDS, SPLITS, strict=True)
        ]

    pairs = rows(
        chosen=lambda word: f"{word} kilo",
        rejected=lambda word: f"{word} lima",
        strength=lambda _: 1.0,
        domain=lambda _: "",
    )
    actor = rows(completion=lambda word: word)
    scored = rows(completion=lambda word: f"{word} kilo", score=lambda _: 5.0)
    return {
        "actor_training_data": write_table(root / "actor", actor, ACTOR_SCHEMA),
        "preference_data": write_table(root / "pairs", pairs, PREFERENCE_SCHEMA),
        "reward_training_data": write_table(root / "scores", scored, REWARD_SCHEMA),
        "rlhf_training_data": write_table(root / "prompts", rows(), PROMPT_SCHEMA),
    }
