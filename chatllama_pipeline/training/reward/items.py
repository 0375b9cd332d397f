"""The rows that a reward model learns from: preference pairs and scored replies, as token ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import torch

from chatllama_pipeline.data.feedback.rows import SOURCE, heeded
from chatllama_pipeline.data.own.rows import THUMB_SCORES
from chatllama_pipeline.data.spill.rows import SpilledRows
from chatllama_pipeline.data.tables import SplitRows, as_prompt
from chatllama_pipeline.models.chat.template import Example
from chatllama_pipeline.progress import counted
from chatllama_pipeline.records import Prompt, Split, StageSpec
from chatllama_pipeline.settings import RewardSettings
from chatllama_pipeline.training.reward.equations import shift_and_scale, strength_margin


@dataclass(frozen=True)
class Pair:
    """Two replies to one prompt, the end token included; the margin they should lie apart by."""

    chosen: Example
    rejected: Example
    margin: float
    source: str = ""


@dataclass(frozen=True)
class Scored:
    """A reply with its z-normalised score.

    That of a person's thumb is the best or the worst, and `midpoint` lies between them: a thumb
    says on which side of it the reply is, and not how far. It is None where somebody scored.
    """

    row: Example
    score: float
    source: str = ""
    midpoint: float | None = None


Item = Pair | Scored
# (prompt, reply, longest allowed) -> the row that the model reads.
Encode = Callable[[Prompt, str, int], Example]


@dataclass(frozen=True)
class Items:
    """One split, tokenized; `too_long` rows were left out since a reply is never cut."""

    pairs: Sequence[Pair]
    scored: Sequence[Scored]
    too_long: int

    @property
    def rows(self) -> Sequence[Example]:
        """All of them as `rows_of` orders them, each made when it is asked for."""
        return _Rows(self.pairs, self.scored)


@dataclass(frozen=True)
class _Rows(Sequence[Example]):
    pairs: Sequence[Pair]
    scored: Sequence[Scored]

    def __len__(self) -> int:
        return 2 * len(self.pairs) + len(self.scored)

    @overload
    def __getitem__(self, place: int) -> Example: ...

    @overload
    def __getitem__(self, place: slice) -> list[Example]: ...

    def __getitem__(self, place: int | slice) -> Example | list[Example]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        number, pairs = range(len(self))[place], len(self.pairs)
        if number < pairs:
            return self.pairs[number].chosen
        if number < 2 * pairs:
            return self.pairs[number - pairs].rejected
        return self.scored[number - 2 * pairs].row


def read_items(
    spec: StageSpec,
    encode: Encode,
    reward: RewardSettings,
    limit: int,
    split: Split,
    weight: int = 1,
) -> Items:
    """One split's pairs and scored replies of at most `limit` tokens, those that came of ratings
    `weight` times. What memory doesn't hold goes to files in the run folder."""
    waiting, too_long = Path(spec.run_folder), 0
    pairs: SpilledRows[Pair] = SpilledRows(waiting)
    rows = SplitRows(spec.inputs["preference_data"], split)
    often = heeded(rows, weight)
    for row, count in counted(f"tokenizes {split} pairs", often, len(rows), "pairs"):
        pair = read_pair(encode, row, limit, with_margin=reward.margin == "strength")
        if max(len(pair.chosen.ids), len(pair.rejected.ids)) > limit:
            too_long += 1
            continue
        for _ in range(count):
            pairs.append(pair)
    raw: SpilledRows[Scored] = SpilledRows(waiting)
    rows = SplitRows(spec.inputs["reward_training_data"], split)
    often = heeded(rows, weight)
    for row, count in counted(f"tokenizes scored {split} replies", often, len(rows), "replies"):
        if row["score"] is None:
            continue
        example = encode(as_prompt(row["prompt"]), row["completion"], limit)
        if len(example.ids) > limit:
            too_long += 1
            continue
        for _ in range(count):
            thumb = row["source"] == SOURCE or row.get("thumb", False)
            raw.append(Scored(example, row["score"], row["source"], 0.0 if thumb else None))
    return Items(pairs, _normalised(raw, waiting), too_long)


def _normalised(raw: SpilledRows[Scored], waiting: Path) -> Sequence[Scored]:
    """The replies with their scores on the scale of those that somebody gave, if anybody did: their
    mean at 0 and their deviation at 1; and the midpoint of those that have one."""
    given = [each.score for each in raw if each.midpoint is None]
    shift, scale = shift_and_scale(torch.tensor(given or [each.score for each in raw]))
    middle = (sum(THUMB_SCORES.values()) / len(THUMB_SCORES) - shift) / scale
    normal: SpilledRows[Scored] = SpilledRows(waiting)
    for each in raw:
        score = (each.score - shift) / scale
        midpoint = None if each.midpoint is None else middle
        normal.append(replace(each, score=score, midpoint=midpoint))
    return normal


def read_pair(encode: Encode, row: dict[str, Any], limit: int, with_margin: bool) -> Pair:
    """A row of preference_data; without margin the two replies may lie as near as they like."""
    prompt = as_prompt(row["prompt"])
    chosen = encode(prompt, row["chosen"], limit)
    rejected = encode(prompt, row["rejected"], limit)
    # The longer reply may have cost the prompt more turns: both are read after the same prompt.
    if chosen.cut_turns > rejected.cut_turns:
        rejected = _after(chosen, rejected)
    elif rejected.cut_turns > chosen.cut_turns:
        chosen = _after(rejected, chosen)
    margin = strength_margin(row["strength"]) if with_margin else 0.0
    return Pair(chosen, rejected, margin, row["source"])


def each_row(items: Iterable[Item]) -> Iterator[Example]:
    """The rows of items as the items come."""
    for item in items:
        yield from (item.chosen, item.rejected) if isinstance(item, Pair) else (item.row,)


def rows_of(items: Iterable[Item]) -> list[Example]:
    """All chosen replies, then all rejected ones, then the scored ones."""
    listed = list(items)
    pairs = [item for item in listed if isinstance(item, Pair)]
    return list(Items(pairs, [item for item in listed if isinstance(item, Scored)], 0).rows)


def _after(shorter: Example, other: Example) -> Example:
    """The reply of `other` behind the prompt of `shorter`."""
    prompt, reply = shorter.ids[: shorter.prompt_length], other.ids[other.prompt_length :]
    return Example(prompt + reply, shorter.prompt_length, shorter.cut_turns)
