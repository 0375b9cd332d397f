"""Every example of own data that its page shows is read as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from chatllama_pipeline.data.own.personal import build_personal_data
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.settings import AssistantSettings
from tests.docs.pages import PAGES

PAGE = PAGES["docs/making/own_data.md"]
EXAMPLES = re.findall(
    r"`(datasets/\w+\.\w+)`(?:(?!```).)*?```(json|jsonl|csv|python)\n(.*?)```", PAGE, re.DOTALL
)
# The tables that each makes, and their rows: a conversation of two answers makes two.
EXPECTED = {
    ("datasets/actor_training_data.json", "json"): {"actor": 1},
    ("datasets/reward_training_data.json", "json"): {"reward": 2},
    ("datasets/rlhf_training_data.csv", "csv"): {"rlhf": 1},
    ("datasets/reward_training_data.jsonl", "jsonl"): {"pairs": 1},
    ("datasets/actor_training_data.jsonl", "jsonl"): {"actor": 2},
    ("datasets/rlhf_training_data.parquet", "python"): {"rlhf": 2},
}


def test_every_format_has_an_example() -> None:
    assert len(re.findall(r"```(?!yaml|text|bash)\w+\n", PAGE)) == len(EXAMPLES) == 6
    endings = {Path(name).suffix for name, _, _ in EXAMPLES}
    assert endings == {".json", ".jsonl", ".csv", ".parquet"}


@pytest.mark.parametrize(("name", "language", "text"), EXAMPLES)
def test_an_example_of_the_page_is_read(
    tmp_path: Path, name: str, language: str, text: str
) -> None:
    (tmp_path / "poet" / "datasets").mkdir(parents=True)
    (tmp_path / "version").mkdir()
    if language == "python":
        subprocess.run([sys.executable, "-c", text], cwd=tmp_path / "poet", check=True)
    else:
        (tmp_path / "poet" / name).write_text(text, encoding="utf-8")
    build_personal_data(tmp_path / "poet", AssistantSettings(), tmp_path / "version")
    rows = {file.stem: pq.read_table(file).num_rows for file in (tmp_path / "version").iterdir()}
    assert {table: count for table, count in rows.items() if count} == EXPECTED[name, language]


def test_the_columns_that_the_page_shows_are_read(tmp_path: Path) -> None:
    [shown] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    datasets = tmp_path / "poet" / "datasets"
    datasets.mkdir(parents=True)
    (datasets / "actor_training_data.csv").write_text("question,answer\nWho?,A poet\n")
    (datasets / "rlhf_training_data.csv").write_text("text\nSing!\n")
    settings = AssistantSettings.model_validate(yaml.safe_load(shown))
    outcome = build_personal_data(tmp_path / "poet", settings, tmp_path)
    assert outcome.metrics["rows"] == {"actor": 1, "reward": 0, "rlhf": 1, "pairs": 0}


def test_the_errors_that_the_page_shows_read_so(tmp_path: Path) -> None:
    [shown] = re.findall(r"```text\n(the files of .*?)\n```", PAGE, re.DOTALL)
    datasets = tmp_path / "poet" / "datasets"
    datasets.mkdir(parents=True)
    (datasets / "actor_training_data.csv").write_text("user_input\nSing!\nHum!\n")
    scored = '{"user_input": "Sing!", "completion": "La", "score": %d}\n'
    (datasets / "reward_training_data.jsonl").write_text("".join(scored % n for n in (4, 5, 7)))
    prompt = '{"messages": [{"role": "%s", "content": "Sing!"}]}\n'
    rows = [prompt % "user"] * 11 + [prompt % "human"]
    (datasets / "rlhf_training_data.jsonl").write_text("".join(rows))
    with pytest.raises(DataError) as failure:
        build_personal_data(tmp_path / "poet", AssistantSettings(), tmp_path)
    assert str(failure.value) == shown
