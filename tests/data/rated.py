"""Ratings as the log holds them, and a version of `feedback` made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chatllama_pipeline.data.feedback.build import build_feedback
from chatllama_pipeline.data.feedback.importing import entry_of
from chatllama_pipeline.data.tables import read_rows
from chatllama_pipeline.records import Outcome
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.store.feedback import Entry

VISIT = "visit-00000000000"


def turn(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def shown(text: str, version: str = "v1") -> dict[str, str]:
    return {"text": text, "version": version}


def thumb(prompt: str, reply: str, good: bool, **more: Any) -> dict[str, Any]:
    return {
        "kind": "thumb",
        "prompt": turn(prompt),
        "reply": shown(reply, more.pop("version", "v1")),
        "good": good,
        **more,
    }


def choice(prompt: str, left: str, right: str, better: str, **more: Any) -> dict[str, Any]:
    sides = {"left": shown(left), "right": shown(right, "v2")}
    return {"kind": "preference", "prompt": turn(prompt), "better": better, **sides, **more}


def edit(prompt: str, reply: str, edited: str, **more: Any) -> dict[str, Any]:
    shared = {"prompt": turn(prompt), "reply": shown(reply)}
    return {"kind": "edit", "edited": edited, **shared, **more}


def entries(*ratings: dict[str, Any]) -> list[Entry]:
    """Entries of the log, each of a visit of its own unless it brings one ("" is nobody's)."""
    return [
        entry_of({"visit": f"{VISIT}{number}", **rating}, f"rating-{number:011}", "now")
        for number, rating in enumerate(ratings)
    ]


def made(
    output: Path, ratings: Sequence[dict[str, Any]], **sections: Any
) -> tuple[dict[str, list[dict[str, Any]]], Outcome]:
    """The rows of the tables by file, and what was told."""
    output.mkdir()
    outcome = build_feedback(entries(*ratings), AssistantSettings.model_validate(sections), output)
    files = sorted(file.name for file in output.glob("*.parquet"))
    return {file.removesuffix(".parquet"): read_rows(output, file) for file in files}, outcome
