"""The seed's getting-started is a valid assistant, and a tiny one of its kind runs its stages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from chatllama_pipeline.settings.folder import assistant_names, load_assistant
from tests.families.kit import ACTORS
from tests.pipeline.place import Place
from tests.waiting import PATIENCE

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"
HH_RLHF = [
    {
        "chosen": f"\n\nHuman: What is {word}?\n\nAssistant: {word} is a word.",
        "rejected": f"\n\nHuman: What is {word}?\n\nAssistant: No.",
    }
    for word in (f"word{number}" for number in range(60))
]


def test_it_has_the_seeds_models_data_and_size_and_is_no_partition() -> None:
    assistant = load_assistant("getting_started", root=EXAMPLES)
    settings = assistant.settings
    assert assistant.warnings == []
    assert settings.actor_config.model == "facebook/opt-1.3b"
    assert settings.reward_config.model == "facebook/opt-125m"
    assert list(settings.data.sources) == ["hh_rlhf"]
    assert settings.data.number_of_samples == 200
    assert "getting_started" not in assistant_names(REPOSITORY / "assistants")


@pytest.mark.slow
def test_the_copied_folder_runs_to_its_evaluation_with_tiny_models_of_its_kind(
    tmp_path: Path,
) -> None:
    """The example's own config.yaml; smaller by overrides of its models, lengths and steps."""
    place = Place(tmp_path)
    place.add_assistant("getting_started", (EXAMPLES / "getting_started/config.yaml").read_text())
    opt = next(family for family in ACTORS if family.name == "opt").make(tmp_path / "opt")
    source = tmp_path / "hh_rlhf"
    source.mkdir()
    (source / "train.jsonl").write_text("\n".join(json.dumps(row) for row in HH_RLHF))
    overrides = {
        "actor_config.model": str(opt),
        "reward_config.model": str(opt),
        "actor_config.max_tokens": 8,
        "actor_config.max_steps": 2,
        "reward_config.max_steps": 2,
        "trainer_config.num_episodes": 2,
        "evaluation.bootstrap_samples": 50,
    }
    command = place.command("getting_started", overrides=overrides, promote=True)
    environment = {**place.environment(), "CHATLLAMA_HH_RLHF": str(source)}
    ended = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "evaluation" in place.versions("getting_started")
    held = subprocess.run(
        [sys.executable, "-m", "chatllama_pipeline", "status", "getting_started"],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert "HELD BACK" in held.stdout  # nobody judges: a person's word is asked for


def test_the_examples_page_says_how_to_copy_it() -> None:
    assert "cp -r examples/getting_started assistants/" in (EXAMPLES / "README.md").read_text()
