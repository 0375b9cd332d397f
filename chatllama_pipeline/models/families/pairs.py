"""How an encoder is told the two texts of a pair apart: by a type of each token.

`reward_base` alone looks at the tokenizer, which is what tells (BERT's by 0 and 1, Funnel's a first
token of its own as well, RoBERTa's not at all): it writes into the config of the folder it
publishes, and later stages follow it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PAIR_TYPES = "chatllama_pair_types"


def token_types(config: Any, starts: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """The argument that tells `[B,L]` tokens' types, the second texts beginning at `starts[B]`."""
    usual = [0, 0, 1] if getattr(config, "type_vocab_size", 0) > 1 else []
    named: list[int] = getattr(config, PAIR_TYPES, usual)
    if not named:
        return {}
    begins, first, second = named
    marked = torch.where(torch.arange(mask.shape[1]) < starts[:, None], first, second)
    marked[:, 0] = begins
    return {"token_type_ids": marked * mask}
