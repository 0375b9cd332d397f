"""The README tells what is: its parts, paths, commands and keys are held against the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from assets.readme import with_generated_parts
from chatllama_pipeline.cli.main import cli
from chatllama_pipeline.definitions import definitions
from chatllama_pipeline.errors import SettingsError, UnknownAssistantError
from chatllama_pipeline.settings import AssistantSettings
from tests.store.test_assistants import ORIGINAL_CONFIG

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()
QUOTED = sorted(set(re.findall(r"`([^`\n]+)`", README)))
# Folders that runs make.
MADE = ("storage/", "dagster_home/")


def test_the_generated_parts_are_those_of_the_code() -> None:
    assert with_generated_parts(README, definitions) == README, "run `make readme`"
    assert "preference_data --> reward_model" in README
    assert "| `actor_config` | `min_tokens` |" in README


def test_every_path_that_it_names_exists() -> None:
    paths = [text for text in QUOTED if re.fullmatch(r"[\w.-]+(/[\w.-]+)+/?", text)]
    paths = [path for path in paths if not path.startswith(("datasets/", *MADE))]
    assert len(paths) > 10
    missing = [path for path in paths if not (REPOSITORY / path).exists()]
    assert missing == []


def test_every_command_of_ours_exists() -> None:
    asked = set(re.findall(r"\bchatllama ([a-z]+)", README))
    assert asked == set(cli.commands)
    targets = set(re.findall(r"(?:^|`)make (\w+)", README, re.MULTILINE))
    made = set(re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert {"quickstart", "test", "ui", "chat", "check", "format", "lock"} <= targets
    assert targets <= made


def test_every_section_and_every_key_of_the_original_is_told() -> None:
    for section in AssistantSettings.model_fields:
        assert f"`{section}`" in README, section
    keys = re.findall(r"(\w+):(?= )", ORIGINAL_CONFIG)
    assert len(keys) > 50
    assert [key for key in keys if f"`{key}`" not in README] == []


@pytest.mark.parametrize("file", sorted(REPOSITORY.glob("chatllama_pipeline/*.py")), ids=str)
def test_the_file_tree_knows_every_module(file: Path) -> None:
    if file.name != "__init__.py":
        assert file.name in README


def test_the_first_errors_that_it_tells_of_read_as_it_says() -> None:
    from chatllama_pipeline.assistants import load_assistant

    with pytest.raises(UnknownAssistantError, match="unknown assistant"):
        load_assistant("nobody", root=REPOSITORY / "assistants")
    with pytest.raises(SettingsError, match="unknown key"):
        load_assistant("quickstart", {"sed": 1}, root=REPOSITORY / "assistants")
