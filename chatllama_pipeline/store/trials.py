"""Blind trials: the replies of two versions to the same prompts, for people to compare.

    <store>/_trials/<assistant>/<trial>.json       readable by its owner alone

All replies are written before anybody sees one, so that every rater has the same pairs, and a
version that is pruned meanwhile takes nothing along. The votes stand in the feedback's log.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatllama_pipeline.records import Message, Prompt
from chatllama_pipeline.store.manifests import Version, utc_now, write_atomically

TRIALS = "_trials"
_ID_LETTERS = 32


@dataclass(frozen=True)
class Side:
    """A version under trial: of which asset, and its id."""

    asset: str
    version: str

    def __str__(self) -> str:
        return f"{self.asset} {self.version}"


@dataclass(frozen=True)
class Pair:
    """The replies of both sides to one prompt."""

    prompt: Prompt
    first: str
    second: str

    @property
    def differs(self) -> bool:
        """Whether there is anything to choose; equal replies are a tie that nobody is asked for."""
        return self.first.strip() != self.second.strip()


@dataclass(frozen=True)
class Trial:
    """A trial of `second` against `first`; its id is a hash of all but when it was `begun`."""

    id: str
    begun: str
    first: Side
    second: Side
    pairs: list[Pair]

    @property
    def open_pairs(self) -> list[int]:
        """The numbers of the pairs that people are asked about."""
        return [number for number, pair in enumerate(self.pairs) if pair.differs]

    def turned(self) -> Trial:
        """The same trial of `first` against `second`."""
        pairs = [Pair(pair.prompt, pair.second, pair.first) for pair in self.pairs]
        return Trial(self.id, self.begun, self.second, self.first, pairs)


def begin_trial(first: Version, second: Version, pairs: Sequence[Pair]) -> Trial:
    """A trial of two versions: the same whichever is named first."""
    one, other = (Side(version.manifest.asset, version.id) for version in (first, second))
    found = Trial("", utc_now(), one, other, list(pairs))
    if first.id > second.id:
        found = found.turned()
    content = {**dataclasses.asdict(found), "begun": ""}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return dataclasses.replace(found, id=digest[:_ID_LETTERS])


def keep_trial(store_root: Path, assistant: str, trial: Trial) -> None:
    """Write it down; one that stands already stays as it is."""
    path = _folder(store_root, assistant) / f"{trial.id}.json"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.is_file():
        write_atomically(path, dataclasses.asdict(trial))


def trials_of(store_root: Path, assistant: str) -> list[Trial]:
    """All trials of an assistant, the newest first."""
    files = _folder(store_root, assistant).glob("[!.]*.json")
    found = [_trial(json.loads(file.read_text("utf-8"))) for file in files]
    return sorted(found, key=lambda trial: trial.begun, reverse=True)


def find_trial(trials: Collection[Trial], first: str, second: str) -> Trial | None:
    """The newest trial of version `second` against `first`; None where there is none."""
    for trial in trials:
        if (trial.first.version, trial.second.version) == (first, second):
            return trial
        if (trial.first.version, trial.second.version) == (second, first):
            return trial.turned()
    return None


def _folder(store_root: Path, assistant: str) -> Path:
    return store_root / TRIALS / assistant


def _trial(raw: dict[str, Any]) -> Trial:
    pairs = [
        Pair([Message(**turn) for turn in pair["prompt"]], pair["first"], pair["second"])
        for pair in raw["pairs"]
    ]
    return Trial(raw["id"], raw["begun"], Side(**raw["first"]), Side(**raw["second"]), pairs)
