"""The replies with thumbs that KTO learns from, with what the SFT actor says of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from chatllama_pipeline.data.hashes import among, row_hash
from chatllama_pipeline.data.spill.column import Column, groups
from chatllama_pipeline.data.spill.rows import SpilledRows
from chatllama_pipeline.data.splits import Row
from chatllama_pipeline.data.tables import SplitRows, as_prompt
from chatllama_pipeline.models.chat.template import Example, conversation
from chatllama_pipeline.progress import counted
from chatllama_pipeline.records import THUMBS_FILE, Split
from chatllama_pipeline.training.course import WEIGHT
from chatllama_pipeline.training.offline import read_alike, reply_nats
from chatllama_pipeline.training.sft.stage import collate_completions

UP, REFERENCE, REFERENCE_ELSEWHERE = "up", "reference", "reference_elsewhere"
_ELSEWHERE = "elsewhere_"
# How many of the rows that follow are tried for a reply that another row's prompt has room for.
_TRIES = 64
_SIDES = ("chosen", "rejected")
_KEYS_AT_ONCE = 10_000


@dataclass(frozen=True)
class Thumb:
    """A reply and whether it was found good.

    `elsewhere` is its prompt with another prompt's reply: by how much more probable the policy
    makes those, its KL from the reference is estimated. The reference's log-probabilities of both
    replies are in nats.
    """

    reply: Example
    elsewhere: Example
    up: bool
    reference: float = 0.0
    reference_elsewhere: float = 0.0

    @property
    def longest(self) -> int:
        return max(len(self.reply.ids), len(self.elsewhere.ids))


class Found(NamedTuple):
    """A split's thumbs; how many replies are too long, and were found both good and bad."""

    thumbs: Sequence[Thumb]
    too_long: int
    contradicting: int


def read_thumbs(
    folder: Path, waiting: Path, tokenizer: Any, split: Split, max_length: int, seed: int
) -> Found:
    """The split's thumbs that fit; a reply is never cut. What memory doesn't hold goes to files in
    `waiting`.

    Where the user gave no thumbs, the chosen reply of a pair was found good and the other one not,
    as in the paper.
    """
    rows: Iterable[Row]
    if (folder / THUMBS_FILE).exists():
        rows = thumbs_given = SplitRows(folder, split, THUMBS_FILE)
        count, contradicting = len(thumbs_given), 0
    else:
        pairs = SplitRows(folder, split)
        kept, contradicting = _distinct(pairs, waiting)
        rows, count = compress(_replies(pairs), kept), int(kept.sum())
    examples: SpilledRows[Example] = SpilledRows(waiting)
    labels = bytearray()
    for row in counted(f"tokenizes {split} replies", rows, count, "replies"):
        prompt = as_prompt(row["prompt"])
        example = conversation(tokenizer, prompt, row["completion"], max_length)
        if len(example.ids) <= max_length:
            examples.append(example)
            labels.append(row["label"])
    elsewhere = mismatched(examples, max_length, seed)
    thumbs: SpilledRows[Thumb] = SpilledRows(waiting)
    for example, other, up in zip(examples, elsewhere, labels, strict=True):
        thumbs.append(Thumb(example, other, bool(up)))
    return Found(thumbs, count - len(thumbs), contradicting)


def _replies(pairs: Iterable[Row]) -> Iterator[Row]:
    """Both replies of each pair, the chosen one found good."""
    for pair in pairs:
        for side in _SIDES:
            yield {
                "prompt": pair["prompt"],
                "completion": pair[side],
                "label": side == "chosen",
            }


def _distinct(pairs: Iterable[Row], waiting: Path) -> tuple[npt.NDArray[np.bool_], int]:
    """Which of `_replies` come first with what they say, those left out that were chosen here and
    rejected there; and how many those are."""
    keys = Column(np.uint64, waiting)
    every = (
        row_hash(*(text for turn in row["prompt"] for text in turn.values()), row["completion"])
        for row in _replies(pairs)
    )
    while some := list(islice(every, _KEYS_AT_ONCE)):
        keys.append(np.array(some, np.uint64))
    kept, both = np.zeros(len(keys), np.bool_), 0
    for places, hashes in groups(keys):
        chosen = places % len(_SIDES) == 0
        contradicting = np.intersect1d(hashes[chosen], hashes[~chosen])
        distinct, firsts = np.unique(hashes, return_index=True)
        kept[places[firsts[~among(distinct, contradicting)]]] = True
        both += len(contradicting)
    return kept, both


def mismatched(examples: Sequence[Example], max_length: int, seed: int) -> Iterator[Example]:
    """Each prompt with the reply of the next row, in an order drawn from `seed`, that has another
    prompt and fits in `max_length` tokens; with its own reply where none is near."""
    draw = torch.Generator().manual_seed(seed)
    count = len(examples)
    order = torch.randperm(count, generator=draw)
    places = torch.argsort(order)
    for example, place in zip(examples, places, strict=True):
        prompt = example.ids[: example.prompt_length]
        following = (place + 1 + torch.arange(min(_TRIES, count - 1))) % count
        found = example
        for other in order[following].tolist():
            theirs = examples[other]
            reply = theirs.ids[theirs.prompt_length :]
            if theirs.ids[: theirs.prompt_length] != prompt and (
                len(prompt) + len(reply) <= max_length
            ):
                found = Example(prompt + reply, len(prompt))
                break
        yield found


def collate_thumbs(thumbs: Sequence[Thumb], pad_id: int) -> dict[str, Any]:
    """P replies as `[P, L]`, those elsewhere under names of their own; the weight is P."""
    batch = collate_completions([thumb.reply for thumb in thumbs], pad_id)
    other = collate_completions([thumb.elsewhere for thumb in thumbs], pad_id)
    del other[WEIGHT]
    return {
        **batch,
        **{_ELSEWHERE + name: value for name, value in other.items()},
        UP: torch.tensor([thumb.up for thumb in thumbs]),
        REFERENCE: torch.tensor([thumb.reference for thumb in thumbs]),
        REFERENCE_ELSEWHERE: torch.tensor([thumb.reference_elsewhere for thumb in thumbs]),
        WEIGHT: len(thumbs),
    }


def elsewhere_nats(model: Any, batch: dict[str, Any]) -> Tensor:
    """What `model` says of the replies elsewhere of a batch of `collate_thumbs`, `[P]`."""
    names = [name for name in batch if name.startswith(_ELSEWHERE)]
    return reply_nats(model, {name.removeprefix(_ELSEWHERE): batch[name] for name in names})


@torch.no_grad()
def all_nats(model: Any, thumbs: Sequence[Thumb], pad_id: int, what: str) -> tuple[Tensor, Tensor]:
    """What `model` says of any number of replies and of those elsewhere, on the CPU, `[P]` each;
    `what` this is for is told."""
    own, elsewhere = torch.empty(len(thumbs)), torch.empty(len(thumbs))
    lengths = [2 * thumb.longest for thumb in thumbs]
    for rows in read_alike(model, lengths, f"{what} {len(thumbs):,} replies"):
        batch = collate_thumbs([thumbs[row] for row in rows], pad_id)
        del batch[WEIGHT]
        on_device = {name: value.to(model.device) for name, value in batch.items()}
        own[rows] = reply_nats(model, on_device).cpu()
        elsewhere[rows] = elsewhere_nats(model, on_device).cpu()
    return own, elsewhere


def with_reference(
    waiting: Path, model: Any, thumbs: Sequence[Thumb], pad_id: int
) -> Sequence[Thumb]:
    """The thumbs with what `model`, before it learns, says of them, so it need not be kept; see
    `read_thumbs`."""
    found = all_nats(model, thumbs, pad_id, "reads what the SFT actor says of")
    said: SpilledRows[Thumb] = SpilledRows(waiting)
    for thumb, own, other in zip(thumbs, *(nats.tolist() for nats in found), strict=True):
        said.append(replace(thumb, reference=own, reference_elsewhere=other))
    return said
