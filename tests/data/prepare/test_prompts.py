"""The prompts that PPO answers: distinct, in the original's format, readable by the judge."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from chatllama_pipeline.data import CHECK_NAMES
from chatllama_pipeline.data.own.personal import TABLES
from chatllama_pipeline.data.prepare.datasets import build_rlhf_training_data
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.schemas import PROMPT_SCHEMA
from tests.data.small_tables import (
    PAIRS,
    messages,
    names,
    pair,
    prefer,
    settings,
    table,
)


def test_prompts_are_distinct_and_written_in_the_original_s_format(
    tmp_path: Path, personal: Path
) -> None:
    talk = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Sing!"},
    ]
    sung = [{**pair("x", chosen=reply), "prompt": talk} for reply in ("La", "Lo")]
    _, _, preference = prefer(tmp_path, personal, sung)
    prompt = {"prompt": messages("Fresh, é?"), "source": "synthetic_rules"}
    written = table(tmp_path / "prompts", [prompt], TABLES["rlhf"])
    output = tmp_path / "rlhf"
    output.mkdir()
    outcome = build_rlhf_training_data(preference, written, personal, settings(), output)
    assert pq.read_schema(output / "data.parquet").equals(PROMPT_SCHEMA)
    assert names(outcome) == CHECK_NAMES["rlhf_training_data"]
    assert outcome.rows == 2
    assert outcome.metrics["dropped"]["duplicate"] == 1
    listed = json.loads((output / "rlhf_training_data.json").read_text(encoding="utf-8"))
    assert sorted(row["user_input"] for row in listed) == [
        "Fresh, é?",
        "Human: Hi\n\nAssistant: Hello.\n\nHuman: Sing!",
    ]
    assert all(list(row) == ["user_input"] for row in listed)


def test_prompts_that_the_judge_rules_cannot_read_are_refused_before_anything_is_trained(
    tmp_path: Path, personal: Path
) -> None:
    prefer(tmp_path, personal, PAIRS)
    written = table(tmp_path / "prompts", [], TABLES["rlhf"])
    output = tmp_path / "rlhf"
    output.mkdir()
    judged = settings(evaluation={"judge": "rules"})
    with pytest.raises(DataError, match=r"60 prompts are outside of the grammar.*judge: none"):
        build_rlhf_training_data(tmp_path / "preference_a", written, personal, judged, output)
