"""Own files of every shape for the tests: how they are written, read and refused."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatllama_pipeline.data.own.personal import build_personal_data
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.records import Outcome
from chatllama_pipeline.settings import AssistantSettings

ACTOR = "datasets/actor_training_data"
REWARD = "datasets/reward_training_data"
RLHF = "datasets/rlhf_training_data"
SINGING = [
    {"role": "system", "content": "You sing."},
    {"role": "user", "content": "Sing!"},
    {"role": "assistant", "content": "La"},
    {"role": "user", "content": "Again!"},
    {"role": "assistant", "content": "Lala"},
]


def jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def put(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def put_csv(folder: Path, name: str, header: list[str], rows: list[list[Any]]) -> None:
    with (folder / name).open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([header, *rows])


def put_parquet(folder: Path, name: str, columns: dict[str, Any]) -> None:
    pq.write_table(pa.table(columns), folder / name)


def paths(**sections: Any) -> AssistantSettings:
    keys = {
        "actor": ("actor_config", "train_dataset_path"),
        "reward": ("reward_config", "train_dataset_path"),
        "rlhf": ("trainer_config", "examples_path"),
    }
    return AssistantSettings.model_validate(
        {keys[table][0]: {keys[table][1]: value} for table, value in sections.items()}
    )


def build(
    folder: Path, settings: AssistantSettings | None = None
) -> tuple[dict[str, list[dict[str, Any]]], Outcome]:
    output = folder.parent / f"version_{len(list(folder.parent.iterdir()))}"
    output.mkdir()
    outcome = build_personal_data(folder, settings or AssistantSettings(), output)
    return {
        path.stem: pq.read_table(path).to_pylist() for path in output.glob("*.parquet")
    }, outcome


def errors_of(folder: Path, settings: AssistantSettings | None = None) -> str:
    with pytest.raises(DataError) as failure:
        build(folder, settings)
    return str(failure.value)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


SCORED = [("Sing!", "La", 0.0), ("Sing!", "Hm, no", None), ("Écris, 🐈!", "שלום עולם", 4.5)]
