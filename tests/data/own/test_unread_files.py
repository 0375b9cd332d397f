"""Files that look like rows and are read by nobody are named, with the reason and the cure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatllama_pipeline.data.own.unread import unread_files
from chatllama_pipeline.lineage.recipes import recipe_for
from chatllama_pipeline.lineage.status import status_lines
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.settings.folder import load_assistant
from chatllama_pipeline.store.versions import Store
from tests.data.own_files import ACTOR, RLHF, build, jsonl, paths, put

ROWS = jsonl([{"user_input": "Sing!", "completion": "La"}])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("datasets/actor_traning_data.json", f"did you mean {ACTOR}.json? rename it, or write its"),
        ("datasets/Actor_Training_Data.json", f"did you mean {ACTOR}.json? rename it, or write"),
        ("datasets/actor_dataset.json", f"did you mean {ACTOR}.json? rename it, or write its path"),
        ("datasets/rlhf-training-data.CSV", f"did you mean {RLHF}.csv? rename it, or write its p"),
        ("actor_training_data.json", f"its place is {ACTOR}.json; move it there, or write its p"),
        ("own/rlhf_training_data.csv", f"its place is {RLHF}.csv; move it there, or write its pa"),
        (
            f"{ACTOR}/sub/d.jsonl.gz",
            f"it lies in a folder of the folder; put it into {ACTOR}/, or write "
            f"{ACTOR}/**/*.jsonl.gz into actor_config.train_dataset_path",
        ),
        (f"{ACTOR}.xls", "its ending tells of no format that is read; save it as .xlsx or .csv"),
        (f"{ACTOR}.txt", "its ending tells of no format that is read; write its rows as .jsonl or"),
        (f"{ACTOR}.zip", "its ending tells of no format that is read; unpack it"),
        (f"{ACTOR}.parquet.gz", ".parquet is packed in itself: unpack it"),
        (f"{ACTOR}/notes", "its ending tells of no format that is read; name it with one of .js"),
        ("datasets/actor_training_data", "its ending tells of no format that is read; name it wi"),
        ("more.jsonl", "no setting names it; write its path into one of actor_config.train_datas"),
    ],
)
def test_a_file_that_nobody_reads_is_named_with_its_reason(
    folder: Path, name: str, told: str
) -> None:
    put(folder, name, ROWS)
    [found] = unread_files(folder, AssistantSettings())
    assert found.startswith(f"{name} is not read: {told}")
    _, outcome = build(folder)
    assert outcome.warnings == [found]


def test_a_default_file_that_a_setting_passes_over_is_named(folder: Path) -> None:
    put(folder, f"{ACTOR}.jsonl", ROWS)
    put(folder, "own/rows.jsonl", ROWS)
    assert unread_files(folder, paths(actor="own")) == [
        f"{ACTOR}.jsonl is not read: actor_config.train_dataset_path names own in its place"
    ]


def test_what_is_read_or_holds_no_rows_is_not_named(folder: Path) -> None:
    for name in (f"{ACTOR}.JSONL", f"{ACTOR}/part.NDJSON", f"{RLHF}.csv"):
        put(folder, name, ROWS if "csv" not in name else b"user_input\nSing!\n")
    for name in ("config.yaml", "templates.json", "ds_config.json", "notes.md", "my/own_ds.json"):
        put(folder, name, b"{}")
    for name in ("datasets/README.md", "datasets/LICENSE", "datasets/make.py", "datasets/.hidden"):
        put(folder, name, b"")
    for name in ("model/config.json", "model/tokenizer.json", "model/onnx/model.json"):
        put(folder, name, b"{}")
    settings = AssistantSettings.model_validate(
        {"actor_config": {"deepspeed_config_path": "my/own_ds.json"}}
    )
    assert unread_files(folder, settings) == []


def test_a_link_and_its_file_are_one_and_many_files_are_counted(folder: Path) -> None:
    put(folder, f"{ACTOR}.jsonl", ROWS)
    (folder / "datasets" / "alias.jsonl").symlink_to(folder / f"{ACTOR}.jsonl")
    assert unread_files(folder, AssistantSettings()) == []
    for number in range(30):
        put(folder, f"datasets/part{number:02}.jsonl", ROWS)
    told = unread_files(folder, AssistantSettings())
    assert (len(told), told[-1]) == (21, "and 10 more files are not read")


def test_an_unread_file_is_told_with_the_errors_of_others_in_status_and_makes_rows_stale(
    folder: Path, tmp_path: Path
) -> None:
    put(folder, "config.yaml", b"seed: 0\n")
    store = Store(tmp_path / "storage")
    assistant = load_assistant("poet", root=tmp_path)
    before = recipe_for("personal_data", assistant, {}, store, [])
    put(folder, "datasets/actor_dataset.json", json.dumps([]).encode())
    [told] = unread_files(folder, assistant.settings)
    assert f"warning: {told}" in list(status_lines(assistant, store))
    after = recipe_for("personal_data", assistant, {}, store, [])
    assert (before.inputs.get("unread"), after.inputs["unread"]) == (None, [told])
    assert recipe_for("data_audit", assistant, {}, store, []).inputs["unread"] == [told]
