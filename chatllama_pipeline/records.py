"""The records that cross borders: messages, specs, and what a step hands back."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

TABLE_FILE = "data.parquet"
THUMBS_FILE = "thumbs.parquet"
CURVES_FILE = "curves.json"
SAMPLES_FILE = "samples.jsonl"


@dataclass(frozen=True)
class Finding:
    """One thing looked at; a `fault` stands in the way of runs, a `warning` may."""

    level: Literal["ok", "warning", "fault"]
    what: str
    told: str

    def __str__(self) -> str:
        return f"{self.level:<8} {self.what}: {self.told}"


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


Prompt = list[Message]


def user_prompt(text: str) -> Prompt:
    """A prompt of a single user turn."""
    return [Message("user", text)]


@dataclass(frozen=True)
class Check:
    """What a check found: its number beside the limit it was held against.

    A failed `blocking` check keeps the version from being published.
    """

    name: str
    passed: bool
    blocking: bool
    value: float
    limit: float
    description: str


@dataclass(frozen=True)
class Curve:
    """A figure over training steps, as `(step, value)` points."""

    name: str
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Outcome:
    """What making something gave, beside the files it wrote.

    `metrics` may hold speeds and seconds: they go to the manifest, never into payload files,
    since a version is the hash of its payload.
    """

    rows: int | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True))

    @classmethod
    def read(cls, path: Path) -> Self:
        raw = json.loads(path.read_text())
        return cls(
            rows=raw["rows"],
            metrics=raw["metrics"],
            checks=[Check(**check) for check in raw["checks"]],
            curves=[Curve(c["name"], [(x, y) for x, y in c["points"]]) for c in raw["curves"]],
            warnings=raw["warnings"],
        )


@dataclass(frozen=True)
class StageSpec:
    """All that a child process needs, as `spec.json`.

    `settings` is the assistant's whole settings as plain data; `inputs` maps an asset's name to
    its verified version folder; `output` is an empty folder for payload files; `run_folder` is
    where the state of an unfinished training outlives a kill; the outcome goes to `result`;
    trackers write to `logs`, and there are none without it. `threads` are each process's; 0: its
    share of the cores where it runs.
    `unpromoted_overrides` are the dotted keys a run changed without `promote`: they hold a
    release back. `made_from` holds the code version and the settings that count, by which states
    are told apart; `readable` are the dotted keys that the stage may read, None all of them.
    """

    stage: str
    assistant: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    output: str
    run_folder: str
    result: str
    device: str = "cpu"
    threads: int = 2
    unpromoted_overrides: list[str] = field(default_factory=list)
    logs: str = ""
    made_from: dict[str, Any] = field(default_factory=dict)
    readable: list[str] | None = None

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True))

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls(**json.loads(path.read_text()))
