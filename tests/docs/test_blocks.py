"""What the docs show of config.yaml, and of files, is read by those who read such."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.settings.folder import load_assistant
from chatllama_pipeline.settings.known_questions import read_known_questions
from chatllama_pipeline.settings.section import Section
from tests.docs.pages import ALL, PAGES, REPOSITORY, Block, blocks, section

LANGUAGES = {"bash", "text", "yaml", "json", "jsonl", "csv", "python", "mermaid"}
BLOCKS = [block for page in PAGES for block in blocks(page)]
YAML = [block for block in BLOCKS if block.language == "yaml"]
SECTIONS = "|".join(AssistantSettings.model_fields)
QUOTED = sorted(set(re.findall(r"`([^`\n]+)`", ALL)))
# `llm: {judge: ...}`, `llm.judge_samples: 3`, `llm.judge`.
MAPPINGS = [code for code in QUOTED if re.fullmatch(rf"({SECTIONS}): \{{.*\}}", code)]
SET = [code for code in QUOTED if re.fullmatch(rf"({SECTIONS})\.[\w.]+: [^.]+", code)]
KEYS = [code for code in QUOTED if re.fullmatch(rf"({SECTIONS})(\.(?!json|py$)\w+)+", code)]
# What a judge of that name needs, where the docs speak of it in a sentence.
RUBRIC = {"rubric": [{"name": "greets", "says": "ahoy"}]}


def read(folder: Path, config: dict[str, Any], **overrides: Any) -> AssistantSettings:
    """The settings that an assistant with such a config.yaml has."""
    (folder / "poet").mkdir()
    (folder / "poet" / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "poet" / "known_answers.json").write_text(
        '[{"question": "Who?", "accepted": ["a poet"]}]'
    )
    (folder / "poet" / "rewards.py").write_text("def brief(p, r): ...\ndef on_topic(p, r): ...\n")
    return load_assistant("poet", overrides, root=folder).settings


def is_a_key(dotted: str) -> bool:
    """Whether config.yaml has such a key; below one that holds names, any name will do."""
    kind: Any = AssistantSettings
    for part in dotted.split("."):
        if not (isinstance(kind, type) and issubclass(kind, Section)):
            return "dict" in str(kind)
        if part not in kind.model_fields:
            return False
        kind = kind.model_fields[part].annotation
    return True


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page: str) -> None:
    assert {block.language for block in blocks(page)} <= LANGUAGES
    assert PAGES[page].count("\n```") == 2 * len(blocks(page))


@pytest.mark.parametrize("block", YAML, ids=lambda block: block.place)
def test_an_example_of_config_yaml_is_valid(block: Block, tmp_path: Path) -> None:
    read(tmp_path, yaml.safe_load(block.text))


@pytest.mark.parametrize("code", [*MAPPINGS, *SET])
def test_a_setting_in_a_sentence_is_valid(code: str, tmp_path: Path) -> None:
    given = yaml.safe_load(code)
    if code in SET:
        read(tmp_path, RUBRIC, **given)
    else:
        read(tmp_path, {**RUBRIC, **given})


@pytest.mark.parametrize("code", KEYS)
def test_a_key_in_a_sentence_is_one_of_config_yaml(code: str) -> None:
    assert is_a_key(code), code


def test_examples_of_each_kind_are_found() -> None:
    assert len(YAML) > 8
    assert len(MAPPINGS) > 3
    assert len(SET) > 3
    assert len(KEYS) > 10


def test_a_setting_that_there_is_not_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="judges"):
        read(tmp_path, {"llm": {"judges": {}}})
    assert not is_a_key("llm.judges")
    assert is_a_key("llm.prices.any-model")
    assert not is_a_key("seed.any")


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.language in ("json", "jsonl", "python")],
    ids=lambda block: block.place,
)  # fmt: skip
def test_an_example_of_a_file_can_be_read(block: Block) -> None:
    if block.language == "python":
        compile(block.text, block.place, "exec")
    elif block.language == "jsonl":
        for line in block.text.splitlines():
            json.loads(line)
    else:
        json.loads(block.text)


def test_the_known_answers_that_the_docs_show_are_read(tmp_path: Path) -> None:
    below = section("docs/making/evaluation.md", "## Known answers")
    [shown] = re.findall(r"```json\n(.*?)```", below, re.DOTALL)
    (tmp_path / "known_answers.json").write_text(shown)
    [question] = read_known_questions(tmp_path / "known_answers.json", "known_answers")
    assert question.is_answered("It is Paris, friend.")


def test_every_variable_of_the_environment_is_one_that_the_code_reads() -> None:
    named = set(re.findall(r"\bCHATLLAMA_[A-Z_]+", ALL))
    folders = ("chatllama_pipeline", "assets", "resources", "tests/published", "benchmarks")
    files = [file for folder in folders for file in (REPOSITORY / folder).rglob("*.py")]
    code = "\n".join(file.read_text() for file in files)
    assert len(named) >= 4
    assert {name for name in named if f'"{name}"' not in code} == set()


def test_every_variable_that_the_engine_reads_is_on_the_page_of_settings() -> None:
    folders = ("chatllama_pipeline", "assets", "resources")
    files = [file for folder in folders for file in (REPOSITORY / folder).rglob("*.py")]
    read = {
        name for file in files for name in re.findall(r'"(CHATLLAMA_[A-Z_]+)"', file.read_text())
    }
    assert "CHATLLAMA_STORE" in read
    told = set(re.findall(r"`(CHATLLAMA_[A-Z_]+)`", PAGES["docs/settings.md"]))
    # Handed from a process of ours to its children, for nobody else to set.
    told |= {"CHATLLAMA_ASKED", "CHATLLAMA_PARENT_PID", "CHATLLAMA_SOURCE"}
    assert read - told == set(), "say under The environment in docs/settings.md what they set"
