"""The replies with thumbs that KTO learns from, with what the SFT actor says of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from chatllama_pipeline.data.splits import Row, content_hash
from chatllama_pipeline.data.tables import as_prompt, read_split
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

    thumbs: list[Thumb]
    too_long: int
    contradicting: int


def read_thumbs(folder: Path, tokenizer: Any, split: Split, max_length: int, seed: int) -> Found:
    """The split's thumbs that fit; a reply is never cut.

    Where the user gave no thumbs, the chosen reply of a pair was found good and the other one not,
    as in the paper.
    """
    if (folder / THUMBS_FILE).exists():
        rows, contradicting = read_split(folder, split, THUMBS_FILE), 0
    else:
        rows, contradicting = _of_pairs(read_split(folder, split))
    kept: list[tuple[Example, bool]] = []
    for row in counted(f"tokenizes {split} replies", rows, len(rows), "replies"):
        prompt = as_prompt(row["prompt"])
        example = conversation(tokenizer, prompt, row["completion"], max_length)
        if len(example.ids) <= max_length:
            kept.append((example, row["label"]))
    elsewhere = mismatched([example for example, _ in kept], max_length, seed)
    columns = zip(kept, elsewhere, strict=True)
    thumbs = [Thumb(example, other, up) for (example, up), other in columns]
    return Found(thumbs, len(rows) - len(kept), contradicting)


def _of_pairs(pairs: Iterable[Row]) -> tuple[list[Row], int]:
    """Each distinct reply of the pairs once, and how many were chosen here and rejected there."""
    found: dict[str, Row] = {}
    both: set[str] = set()
    for pair in pairs:
        for side, label in (("chosen", True), ("rejected", False)):
            row = {"prompt": pair["prompt"], "completion": pair[side], "label": label}
            key = content_hash(row["prompt"], row["completion"])
            if found.setdefault(key, row)["label"] != label:
                both.add(key)
    return [row for key, row in found.items() if key not in both], len(both)


def mismatched(examples: Sequence[Example], max_length: int, seed: int) -> list[Example]:
    """Each prompt with the reply of the next row, in an order drawn from `seed`, that has another
    prompt and fits in `max_length` tokens; with its own reply where none is near."""
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(examples), generator=draw).tolist()
    found = list(examples)
    for place, number in enumerate(order):
        prompt = examples[number].ids[: examples[number].prompt_length]
        following = order[place + 1 :] + order[:place]
        for other in islice(following, _TRIES):
            theirs = examples[other]
            reply = theirs.ids[theirs.prompt_length :]
            if theirs.ids[: theirs.prompt_length] != prompt and (
                len(prompt) + len(reply) <= max_length
            ):
                found[number] = Example(prompt + reply, len(prompt))
                break
    return found


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


def with_reference(model: Any, thumbs: Sequence[Thumb], pad_id: int) -> list[Thumb]:
    """The thumbs with what `model`, before it learns, says of them; so it need not be kept."""
    found = all_nats(model, thumbs, pad_id, "reads what the SFT actor says of")
    columns = zip(thumbs, *(nats.tolist() for nats in found), strict=True)
    return [replace(t, reference=own, reference_elsewhere=other) for t, own, other in columns]
