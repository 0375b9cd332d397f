"""The example assistants: valid, apart from the assistants that are made, and of one spirit."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatllama_pipeline.data.own.personal import build_personal_data
from chatllama_pipeline.lineage.preview import preview_lines
from chatllama_pipeline.llm.templates import load_templates
from chatllama_pipeline.settings.folder import assistant_names, load_assistant
from chatllama_pipeline.store.versions import Store

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"
FOLDERS = [path for path in sorted(EXAMPLES.iterdir()) if (path / "config.yaml").is_file()]


def test_there_are_examples_and_none_of_them_is_a_partition() -> None:
    assert "harbor_tea" in [folder.name for folder in FOLDERS]
    assert not {folder.name for folder in FOLDERS} & set(assistant_names(REPOSITORY / "assistants"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_an_example_is_a_valid_assistant(folder: Path, tmp_path: Path) -> None:
    assistant = load_assistant(folder.name, root=EXAMPLES)
    build_personal_data(assistant.folder, assistant.settings, tmp_path)
    assert len(load_templates(tmp_path)) == 3


def test_a_companys_values_tone_and_taboos_reach_writer_judge_and_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path))
    assistant = load_assistant("harbor_tea", root=EXAMPLES)
    shown = "\n".join(preview_lines(assistant, Store(tmp_path)))
    header, conversations, prompts, completions, scoring, evaluation = shown.split("-" * 78)
    assert header.count("templates.json") == 3
    for section in (conversations, completions):
        assert "respect for the growers; calm" in section  # values
        assert "warm, plain and brief" in section  # tone
        assert "no claims about health or healing" in section  # taboo
    for section in (completions, scoring, evaluation):
        assert "Harbor Tea stands for honesty before a sale" in section
        assert "claims tea heals" in section
    assert "Customers write to Harbor Tea" in prompts
    assert "annoyed" in prompts
