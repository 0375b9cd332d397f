"""The names of assistants: which folders are one, and what is said of any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatllama_pipeline.errors import UnknownAssistantError
from chatllama_pipeline.settings.folder import assistant_names, load_assistant, misnamed_folders
from tests.settings.test_assistants import write


def test_an_unknown_assistant_is_answered_with_those_there_are(tmp_path: Path) -> None:
    write(tmp_path, "butler", "seed: 0")
    write(tmp_path, "cook", "seed: 0")
    with pytest.raises(UnknownAssistantError) as caught:
        load_assistant("buttler", root=tmp_path)
    assert "unknown assistant 'buttler' (did you mean 'butler'?)" in str(caught.value)
    assert "butler, cook" in str(caught.value)


@pytest.mark.parametrize("name", ["../outside", "Quickstart", "my-assistant", "my assistant", ""])
def test_a_name_that_cannot_be_one_is_refused_with_the_rule(tmp_path: Path, name: str) -> None:
    write(tmp_path / "outside", "x", "seed: 0")
    with pytest.raises(UnknownAssistantError, match="lower-case letters, digits and underscores"):
        load_assistant(name, root=tmp_path / "assistants")


def test_folders_with_other_names_are_no_partitions_but_are_told(tmp_path: Path) -> None:
    write(tmp_path, "good", "seed: 0")
    write(tmp_path, "My-Assistant", "seed: 0")
    assert assistant_names(tmp_path) == ["good"]
    assert misnamed_folders(tmp_path) == ["My-Assistant"]


def test_a_link_out_of_the_root_is_no_assistant(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", "real", "seed: 0")
    (tmp_path / "assistants").mkdir()
    (tmp_path / "assistants" / "linked").symlink_to(tmp_path / "elsewhere" / "real")
    assert assistant_names(tmp_path / "assistants") == []
