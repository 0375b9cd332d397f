"""An assistant's tables, and the server that judges and writes for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from chatllama_pipeline.data.own.personal import TABLES
from chatllama_pipeline.llm.scoring import build_reward_training_data
from chatllama_pipeline.llm.synthetic import build_synthetic
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Check, Outcome
from chatllama_pipeline.schemas import PREFERENCE_SCHEMA
from chatllama_pipeline.settings import AssistantSettings
from tests.llm.loopback.server import MODEL, Body, OpenAiServer, prompt_text
from tests.llm.loopback.small_talk import reply

Rows = list[dict[str, Any]]


class Desk:
    """An assistant's tables, its settings, and the server that judges and writes for it."""

    def __init__(self, root: Path, server: OpenAiServer) -> None:
        self.root, self.server = root, server
        self.said: list[str] = []
        self.llm: dict[str, Any] = {
            **{"provider": "openai", "model": MODEL, "base_url": server.url},
            **{"api_key_env": "OPENAI_API_KEY", "price": {"input": 1.0, "output": 2.0}},
        }
        server.behaviour.reply = reply
        for name, schema in TABLES.items():
            self.put(name, [], schema, "personal", name)
        self.put("data", [], TABLES["actor"], "completions")
        self.put("data", [], PREFERENCE_SCHEMA, "pairs")

    def put(self, name: str, rows: Rows, schema: pa.Schema, folder: str, table: str = "") -> None:
        (self.root / folder).mkdir(exist_ok=True)
        path = self.root / folder / f"{table or name}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)

    def own(self, table: str, rows: Rows) -> None:
        named = [{"source": "personal", **row} for row in rows]
        self.put(table, named, TABLES[table], "personal", table)

    def settings(self, **llm: Any) -> AssistantSettings:
        return AssistantSettings.model_validate({"llm": {**self.llm, **llm}})

    def score(self, take: str = "out", **llm: Any) -> tuple[Outcome, Path]:
        folders = (self.root / name for name in ("pairs", "completions", "personal"))
        output = self.root / take
        output.mkdir()
        outcome = build_reward_training_data(
            *folders,
            self.settings(**llm),
            output,
            self.root / "runs" / "reward",
            Progress("reward_training_data", self.said.append),
        )
        return outcome, output

    def write(self, kind: str, take: str = "out", **llm: Any) -> tuple[Outcome, Rows]:
        output = self.root / take
        output.mkdir()
        outcome = build_synthetic(
            f"synthetic_{kind}",
            self.root / "personal",
            self.settings(**llm),
            output,
            self.root / "runs" / kind,
            Progress(kind, self.said.append),
        )
        return outcome, pq.read_table(output / "data.parquet").to_pylist()


def row(prompt: str, completion: str = "Well, yes.", score: float | None = None) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    return {"prompt": messages, "completion": completion, "score": score}


def pair(number: int, chosen: str, rejected: str) -> dict[str, Any]:
    shared = {"strength": 1.0, "source": "hh_rlhf", "domain": "", "split": "train"}
    prompt = [{"role": "user", "content": f"question {number}"}]
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **shared}


def lines(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text().splitlines()]


def check(outcome: Outcome, name: str) -> Check:
    [found] = [one for one in outcome.checks if one.name == name]
    return found


def scores(output: Path) -> dict[str, float]:
    rows = pq.read_table(output / "data.parquet").to_pylist()
    return {one["prompt"][0]["content"]: one["score"] for one in rows}


def answering(replies: dict[str, str], otherwise: str = '{"score": 3}') -> Callable[[Body], str]:
    """A judge who answers by a word of the request."""
    return lambda body: next(
        (said for word, said in replies.items() if word in prompt_text(body)), otherwise
    )
