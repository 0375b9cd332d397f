"""Words as rows of the tables that trainings read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from chatllama_pipeline.data.feedback.ratings import Edit, Preference, Thumb
from chatllama_pipeline.data.feedback.words import Word
from chatllama_pipeline.data.hashes import text_hash
from chatllama_pipeline.data.near_duplicates import TextIndex, evened, place_of
from chatllama_pipeline.data.own.rows import THUMB_SCORES, THUMBS
from chatllama_pipeline.data.splits import Messages, Row
from chatllama_pipeline.data.tables import SplitRows
from chatllama_pipeline.records import TABLE_FILE, Split
from chatllama_pipeline.schemas import ACTOR_SCHEMA, PREFERENCE_SCHEMA, PROMPT_SCHEMA, REWARD_SCHEMA
from chatllama_pipeline.settings import DataSettings

SOURCE = "feedback"
PAIRS_FILE, ACTOR_FILE = "pairs.parquet", "actor.parquet"
SCORED_FILE, THUMBS_FILE = "scored.parquet", "thumbs.parquet"
SCHEMAS = {
    TABLE_FILE: PROMPT_SCHEMA,
    PAIRS_FILE: PREFERENCE_SCHEMA,
    ACTOR_FILE: ACTOR_SCHEMA,
    SCORED_FILE: REWARD_SCHEMA,
    THUMBS_FILE: THUMBS.append(pa.field("split", pa.string(), nullable=False)),
}


class Placed(NamedTuple):
    word: Word
    split: Split


def placed(words: Sequence[Word], data: DataSettings, test_share: float) -> list[Placed | None]:
    """Each word with the side of its prompt; None where it would be trained on and its first user
    turn is nearly one that is held out."""
    turns = [_first_turn(word.prompt) for word in words]
    sides = [_side(turn, data, test_share) for turn in turns]
    index = TextIndex()
    raw = np.array([text_hash(turn) for turn in turns], np.uint64)
    labels = index.labels(index.add(raw, turns.__getitem__)).tolist()
    held = {label for label, side in zip(labels, sides, strict=True) if side != "train"}
    return [
        None if side == "train" and label in held else Placed(word, side)
        for word, side, label in zip(words, sides, labels, strict=True)
    ]


def _first_turn(prompt: Messages) -> str:
    return next(turn["content"] for turn in prompt if turn["role"] == "user")


def _side(first_turn: str, data: DataSettings, test_share: float) -> Split:
    """As all tables are split, but for the larger share that is held out for tests."""
    place = place_of(evened(first_turn))
    if place < max(test_share, data.test_share):
        return "test"
    return "validation" if place < data.test_share + data.validation_share else "train"


def tables_of(words: Sequence[Placed]) -> dict[str, list[Row]]:
    """File -> rows.

    Every prompt becomes a row of PPO's, a comparison a pair, an edit a pair, a thumb a scored
    reply; neither of two replies is a thumb down for both. Of the thumbs on one prompt those up and
    those down make pairs, too. What people liked is imitated: see `_Talk._liked`.
    """
    talks: dict[str, _Talk] = {}
    for word, split in words:
        talks.setdefault(json.dumps(word.prompt), _Talk(word.prompt, split)).add(word)
    tables: dict[str, list[Row]] = {file: [] for file in SCHEMAS}
    for talk in talks.values():
        for file, rows in talk.rows().items():
            tables[file] += rows
    return tables


class _Talk:
    """All that was said of the replies to one prompt."""

    def __init__(self, prompt: Messages, split: Split) -> None:
        self._shared = {"prompt": prompt, "source": SOURCE, "split": split}
        # A pair's texts, alphabetically -> (chosen, rejected); what comes first stands.
        self._pairs: dict[tuple[str, ...], tuple[str, str]] = {}
        self._thumbs: dict[str, bool] = {}
        self._neither: list[str] = []
        self._edited: list[tuple[str, str]] = []

    def add(self, word: Word) -> None:
        rating = word.rating
        if isinstance(rating, Thumb):
            self._thumbs[rating.reply.text] = rating.good
        elif isinstance(rating, Edit):
            self._edited.append((rating.edited, rating.reply.text))
        elif rating.better == "neither":
            self._neither += [rating.left.text, rating.right.text]
        elif rating.better != "tie":
            self._prefer(*_ordered(rating))

    def _prefer(self, chosen: str, rejected: str) -> None:
        if chosen.strip() != rejected.strip():
            self._pairs.setdefault(tuple(sorted((chosen, rejected))), (chosen, rejected))

    def rows(self) -> dict[str, list[Row]]:
        for edited, reply in self._edited:
            self._prefer(edited, reply)
        thumbs = dict.fromkeys(self._neither, False) | self._thumbs
        up, down = (
            [text for text, good in thumbs.items() if good is wanted] for wanted in (True, False)
        )
        for chosen, rejected in zip(up, down, strict=False):
            self._prefer(chosen, rejected)
        pair = {"strength": 1.0, "domain": "", **self._shared}
        liked = self._liked(thumbs)
        return {
            TABLE_FILE: [self._shared],
            PAIRS_FILE: [
                {**pair, "chosen": chosen, "rejected": rejected}
                for chosen, rejected in self._pairs.values()
            ],
            ACTOR_FILE: [{**self._shared, "completion": text} for text in liked],
            SCORED_FILE: [
                {**self._shared, "completion": text, "score": THUMB_SCORES[good]}
                for text, good in thumbs.items()
            ],
            THUMBS_FILE: [
                {**self._shared, "completion": text, "label": good} for text, good in thumbs.items()
            ],
        }

    def _liked(self, thumbs: Mapping[str, bool]) -> list[str]:
        """What people wrote, chose or found good, and nobody liked less than another."""
        written = [edited for edited, _ in self._edited]
        chosen = [chosen for chosen, _ in self._pairs.values()]
        up = [text for text, good in thumbs.items() if good]
        disliked = {rejected for _, rejected in self._pairs.values()}
        disliked |= {text for text, good in thumbs.items() if not good}
        return [text for text in dict.fromkeys([*written, *chosen, *up]) if text not in disliked]


def heeded(rows: SplitRows, weight: int) -> Iterator[tuple[Row, int]]:
    """A table's rows, each with how often a training reads it.

    What came of ratings it reads `weight` times, since that is about the replies that this
    assistant gives, and little. Where it isn't so little it is read less often, so that it doesn't
    become more than all else.
    """
    rated = rows.of_source(SOURCE)
    often = max(1, min(weight, (len(rows) - rated) // rated)) if rated else 1
    for row in rows:
        yield row, often if row["source"] == SOURCE else 1


def _ordered(rating: Preference) -> tuple[str, str]:
    """The better reply and the other."""
    left, right = rating.left.text, rating.right.text
    return (left, right) if rating.better == "left" else (right, left)
