"""The pairs that DPO learns from, with what the SFT actor says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from chatllama_pipeline.data.spill.rows import SpilledRows
from chatllama_pipeline.data.tables import SplitRows
from chatllama_pipeline.models.chat.template import Example, conversation
from chatllama_pipeline.progress import counted
from chatllama_pipeline.records import Split
from chatllama_pipeline.training.course import WEIGHT
from chatllama_pipeline.training.dpo.equations import PairNats
from chatllama_pipeline.training.offline import read_alike, reply_nats
from chatllama_pipeline.training.reward.items import read_pair
from chatllama_pipeline.training.sft.stage import collate_completions

CHOSEN, REJECTED = "reference_chosen", "reference_rejected"
TOKENS = "chosen_tokens"


@dataclass(frozen=True)
class DpoPair:
    """Two replies to one prompt, and the reference's log-probability of each, in nats."""

    chosen: Example
    rejected: Example
    reference_chosen: float = 0.0
    reference_rejected: float = 0.0

    @property
    def longest(self) -> int:
        return max(len(self.chosen.ids), len(self.rejected.ids))

    @property
    def chosen_tokens(self) -> int:
        """Tokens of the chosen reply, its end among them."""
        return len(self.chosen.ids) - self.chosen.prompt_length


def read_pairs(
    folder: Path, waiting: Path, tokenizer: Any, split: Split, max_length: int
) -> tuple[Sequence[DpoPair], int]:
    """The split's pairs that fit, and how many don't; a reply is never cut. What memory doesn't
    hold goes to files in `waiting`."""
    kept: SpilledRows[DpoPair] = SpilledRows(waiting)
    encode = partial(conversation, tokenizer)
    rows = SplitRows(folder, split)
    for row in counted(f"tokenizes {split} pairs", rows, len(rows), "pairs"):
        read = read_pair(encode, row, max_length, with_margin=False)
        pair = DpoPair(read.chosen, read.rejected)
        if pair.longest <= max_length:
            kept.append(pair)
    return kept, len(rows) - len(kept)


def collate_pairs(pairs: Sequence[DpoPair], pad_id: int) -> dict[str, Any]:
    """P pairs as `[2P, L]`, first all chosen replies, then the rejected; the weight is P."""
    rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    batch = collate_completions(rows, pad_id)
    return batch | {
        CHOSEN: torch.tensor([pair.reference_chosen for pair in pairs]),
        REJECTED: torch.tensor([pair.reference_rejected for pair in pairs]),
        TOKENS: torch.tensor([pair.chosen_tokens for pair in pairs]),
        WEIGHT: len(pairs),
    }


def pair_nats(model: Any, batch: dict[str, Any]) -> PairNats:
    """What `model` says of a batch of `collate_pairs`, float32."""
    chosen, rejected = reply_nats(model, batch).chunk(2)
    return PairNats(chosen, rejected)


@torch.no_grad()
def all_nats(model: Any, pairs: Sequence[DpoPair], pad_id: int, what: str) -> PairNats:
    """The same of any number of pairs, on the CPU; `what` this is for is told."""
    chosen, rejected = torch.empty(len(pairs)), torch.empty(len(pairs))
    lengths = [2 * pair.longest for pair in pairs]
    for rows in read_alike(model, lengths, f"{what} {len(pairs):,} pairs"):
        batch = collate_pairs([pairs[row] for row in rows], pad_id)
        del batch[WEIGHT]
        on_device = {name: value.to(model.device) for name, value in batch.items()}
        found = pair_nats(model, on_device)
        chosen[rows], rejected[rows] = found.chosen.cpu(), found.rejected.cpu()
    return PairNats(chosen, rejected)


def with_reference(
    waiting: Path, model: Any, pairs: Sequence[DpoPair], pad_id: int
) -> Sequence[DpoPair]:
    """The pairs with what `model`, before it learns, says of them; see `read_pairs`.

    So the reference need not be kept: it is read once, and its weights are the policy's.
    """
    found = all_nats(model, pairs, pad_id, "reads what the SFT actor says of")
    said: SpilledRows[DpoPair] = SpilledRows(waiting)
    rows = zip(pairs, found.chosen.tolist(), found.rejected.tolist(), strict=True)
    for pair, chosen, rejected in rows:
        said.append(replace(pair, reference_chosen=chosen, reference_rejected=rejected))
    return said
