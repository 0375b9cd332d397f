"""The user's own files: read, checked with all errors at once, never written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from chatllama_pipeline.data.own.personal import build_personal_data, personal_fingerprint
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.settings import AssistantSettings

SETTINGS = AssistantSettings()
REWARD = "datasets/reward_training_data.json"
ACTOR = "datasets/actor_training_data.json"
RLHF = "datasets/rlhf_training_data.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An assistant with good rows in every file."""
    folder = tmp_path / "poet"
    (folder / "datasets").mkdir(parents=True)
    write(folder, ACTOR, [{"user_input": "Hi", "completion": "Hello"}])
    write(
        folder,
        REWARD,
        [
            {"user_input": "Hi", "completion": "Hello", "score": 0},
            {"user_input": "Hi", "completion": "Go away", "score": None},
            {"user_input": "Hi", "completion": "Good day", "score": 4.5, "note": "mine"},
        ],
    )
    write(folder, RLHF, [{"user_input": "Who are you?"}, {"user_input": "Sing!"}])
    return folder


def write(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))


def build(folder: Path, settings: AssistantSettings = SETTINGS) -> Path:
    output = folder.parent / "version"
    output.mkdir()
    build_personal_data(folder, settings, output)
    return output


def errors_of(folder: Path, settings: AssistantSettings = SETTINGS) -> str:
    with pytest.raises(DataError) as failure:
        build(folder, settings)
    assert list((folder.parent / "version").iterdir()) == []
    return str(failure.value)


def test_rows_become_role_messages_and_a_score_of_zero_stays(folder: Path) -> None:
    before = {file: file.read_bytes() for file in folder.rglob("*.json")}
    output = build(folder)
    assert pq.read_table(output / "reward.parquet").to_pylist() == [
        {
            "prompt": [{"role": "user", "content": "Hi"}],
            "completion": completion,
            "score": score,
            "source": "personal",
        }
        for completion, score in (("Hello", 0.0), ("Go away", None), ("Good day", 4.5))
    ]
    assert pq.read_table(output / "actor.parquet").num_rows == 1
    assert pq.read_table(output / "rlhf.parquet").num_rows == 2
    assert {file: file.read_bytes() for file in folder.rglob("*.json")} == before


def test_missing_default_files_give_empty_tables(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    output = build(empty)
    assert sorted(file.name for file in output.iterdir()) == [
        "actor.parquet",
        "pairs.parquet",
        "reward.parquet",
        "rlhf.parquet",
    ]
    assert pq.read_table(output / "reward.parquet").num_rows == 0


def test_a_default_path_spelled_out_may_be_missing_another_may_not(folder: Path) -> None:
    (folder / ACTOR).unlink()
    spelled = AssistantSettings.model_validate(
        {"actor_config": {"train_dataset_path": f"./{ACTOR}"}}
    )
    personal_fingerprint(folder, spelled)
    output = build(folder, spelled)
    assert pq.read_table(output / "actor.parquet").num_rows == 0
    output.rename(folder.parent / "done")
    moved = AssistantSettings.model_validate(
        {"trainer_config": {"examples_path": "own/prompts.json"}}
    )
    told = errors_of(folder, moved)
    assert "own/prompts.json: there is no such file in poet/" in told
    assert "trainer_config.examples_path" in told


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            REWARD,
            '[\n {"user_input": "a", "completion": "b", "score": None}\n]',
            f"{REWARD}: no JSON at line 2, column 50; None is Python's word: write null",
        ),
        (ACTOR, "[{'user_input': 'a'}]", f"{ACTOR}: no JSON at line 1, column 3; write it as JSON"),
        (RLHF, {"user_input": "a"}, f"{RLHF}: holds no list; write [ before"),
        (RLHF, ["a"], f"{RLHF}, row 1: 'a' is no object; write {{\"prompt\": ...}}"),
        (
            ACTOR,
            [{"user_input": "a", "completion": "b"}, {"user_input": "a"}],
            f"{ACTOR}, row 2: the field completion is missing; those there are: user_input; add it",
        ),
        (RLHF, [{"user_input": " \n"}], f"{RLHF}, row 1, field user_input: is empty"),
        (RLHF, [{"user_input": 3}], f"{RLHF}, row 1, field user_input: 3 is a number and no text"),
        (RLHF, [{"user_input": None}], f"{RLHF}, row 1, field user_input: is null; write a text"),
        ("templates.json", ["a"], "templates.json: holds no object"),
        ("templates.json", {"rewards": "a"}, "unknown key 'rewards'; did you mean reward?"),
        ("templates.json", {"actor": 1}, "templates.json, key actor: 1 is a number and no text"),
        ("templates.json", {"rlhf": ""}, "templates.json, key rlhf: is empty"),
        ("templates.json", "{", "templates.json: no JSON at line 1, column 2"),
    ],
)
def test_bad_input_is_told_with_its_place_and_cure(
    folder: Path, name: str, content: Any, told: str
) -> None:
    write(folder, name, content)
    assert told in errors_of(folder)


@pytest.mark.parametrize("score", [7, -0.5, "good", "3", True, [3], float("nan"), float("inf")])
def test_a_score_that_is_no_number_from_0_to_5_is_refused(folder: Path, score: Any) -> None:
    good = {"user_input": "a", "completion": "b", "score": 5}
    write(folder, REWARD, [good, {**good, "score": score}])
    assert (
        f"{REWARD}, row 2, field score: {score!r} is no score; "
        "write a number from 0 to 5, or null to have it scored"
    ) in errors_of(folder)


def test_a_file_that_is_not_utf8_is_told(folder: Path) -> None:
    (folder / RLHF).write_bytes(b'[{"user_input": "caf\xe9"}]')
    assert f"{RLHF}: byte 20 is not UTF-8" in errors_of(folder)


def test_all_errors_are_told_at_once_up_to_twenty(folder: Path) -> None:
    write(folder, ACTOR, "[")
    write(folder, RLHF, [{"user_input": ""}] * 30)
    lines = errors_of(folder).splitlines()
    assert lines[0] == "the files of poet need a correction:"
    assert lines[1].startswith(f"  {ACTOR}: no JSON")
    assert lines[2].startswith(f"  {RLHF}, row 1,")
    assert lines[-1] == "  and 11 more"
    assert len(lines) == 1 + 20 + 1


def test_templates_are_kept(folder: Path) -> None:
    write(folder, "templates.json", {"rlhf": "Write a question.", "actor": "Écris."})
    output = build(folder)
    assert json.loads((output / "templates.json").read_text(encoding="utf-8")) == {
        "actor": "Écris.",
        "rlhf": "Write a question.",
    }


def test_the_fingerprint_is_each_file_s_hash_under_its_table_and_name(folder: Path) -> None:
    write(folder, "templates.json", {"actor": "x"})
    (folder / ACTOR).unlink()
    assert personal_fingerprint(folder, SETTINGS) == {
        key: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for key, name in (
            (f"reward: {REWARD}", REWARD),
            (f"rlhf: {RLHF}", RLHF),
            ("templates.json", "templates.json"),
        )
    }
