"""Small sources, own rows and pairs for the tests of the datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from chatllama_pipeline.data.own.personal import TABLES
from chatllama_pipeline.data.prepare.preferences import build_preference_data
from chatllama_pipeline.records import Check, Outcome
from chatllama_pipeline.schemas import PAIR_SCHEMA
from chatllama_pipeline.settings import AssistantSettings

SHARES = {"validation_share": 0.1, "test_share": 0.2}


def settings(**sections: Any) -> AssistantSettings:
    data = {"sources": ["grammar"], **SHARES, **sections.pop("data", {})}
    return AssistantSettings.model_validate({"data": data, **sections})


def messages(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def pair(text: str, chosen: str = "Yes, gladly.", rejected: str = "No, never.") -> dict[str, Any]:
    return {
        "prompt": messages(text),
        "chosen": chosen,
        "rejected": rejected,
        "strength": 1.0,
        "source": "grammar",
        "domain": "",
    }


PAIRS = [pair(f"question number {number}") for number in range(60)]


def table(folder: Path, rows: list[dict[str, Any]], schema: pa.Schema, name: str = "data") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / f"{name}.parquet")
    return folder


def own(personal: Path, name: str, rows: list[dict[str, Any]]) -> None:
    table(personal, [{**row, "source": "personal"} for row in rows], TABLES[name], name)


def prefer(
    tmp_path: Path,
    personal: Path,
    rows: list[dict[str, Any]],
    chosen_settings: AssistantSettings | None = None,
    take: str = "a",
) -> tuple[list[dict[str, Any]], Outcome, Path]:
    source = table(tmp_path / f"grammar_{take}", rows, PAIR_SCHEMA)
    output = tmp_path / f"preference_{take}"
    output.mkdir()
    outcome = build_preference_data(
        {"grammar": source}, personal, chosen_settings or settings(), output
    )
    return pq.read_table(output / "data.parquet").to_pylist(), outcome, output


def check(outcome: Outcome, name: str) -> Check:
    (found,) = (check for check in outcome.checks if check.name == name)
    return found


def names(outcome: Outcome) -> list[tuple[str, bool]]:
    return [(check.name, check.blocking) for check in outcome.checks]
