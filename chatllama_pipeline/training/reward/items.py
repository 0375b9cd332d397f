"""The rows that a reward model learns from: preference pairs and scored replies, as token ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from chatllama_pipeline.data.feedback.rows import heeded
from chatllama_pipeline.data.tables import as_prompt, read_split
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
    """A reply with its z-normalised score."""

    row: Example
    score: float
    source: str = ""


Item = Pair | Scored
# (prompt, reply, longest allowed) -> the row that the model reads.
Encode = Callable[[Prompt, str, int], Example]


@dataclass(frozen=True)
class Items:
    """One split, tokenized; `too_long` rows were left out since a reply is never cut."""

    pairs: list[Pair]
    scored: list[Scored]
    too_long: int


def read_items(
    spec: StageSpec,
    encode: Encode,
    reward: RewardSettings,
    limit: int,
    split: Split,
    weight: int = 1,
) -> Items:
    """One split's pairs and scored replies of at most `limit` tokens, those that came of ratings
    `weight` times."""
    too_long = 0
    pairs: list[Pair] = []
    rows = heeded(read_split(spec.inputs["preference_data"], split), weight)
    for row in counted(f"tokenizes {split} pairs", rows, len(rows), "pairs"):
        pair = read_pair(encode, row, limit, with_margin=reward.margin == "strength")
        if max(len(pair.chosen.ids), len(pair.rejected.ids)) > limit:
            too_long += 1
        else:
            pairs.append(pair)
    scored: list[tuple[Example, float, str]] = []
    rows = heeded(read_split(spec.inputs["reward_training_data"], split), weight)
    for row in counted(f"tokenizes scored {split} replies", rows, len(rows), "replies"):
        if row["score"] is not None:
            example = encode(as_prompt(row["prompt"]), row["completion"], limit)
            if len(example.ids) > limit:
                too_long += 1
            else:
                scored.append((example, row["score"], row["source"]))
    shift, scale = shift_and_scale(torch.tensor([score for _, score, _ in scored]))
    normal = [Scored(row, (score - shift) / scale, source) for row, score, source in scored]
    return Items(pairs, normal, too_long)


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


def rows_of(items: Iterable[Item]) -> list[Example]:
    """All chosen replies, then all rejected ones, then the scored ones."""
    listed = list(items)
    pairs = [item for item in listed if isinstance(item, Pair)]
    return [
        *(pair.chosen for pair in pairs),
        *(pair.rejected for pair in pairs),
        *(item.row for item in listed if isinstance(item, Scored)),
    ]


def _after(shorter: Example, other: Example) -> Example:
    """The reply of `other` behind the prompt of `shorter`."""
    prompt, reply = shorter.ids[: shorter.prompt_length], other.ids[other.prompt_length :]
    return Example(prompt + reply, shorter.prompt_length, shorter.cut_turns)
