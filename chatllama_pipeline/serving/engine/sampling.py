"""The choice of next tokens, row by row: every row has settings and chances of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chatllama_pipeline.serving.engine.jobs import Sampling
from chatllama_pipeline.training.ppo.rollout import draw


class Chances:
    """A row's settings, and its own numbers of chance: no other row changes what it draws."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def level(self) -> float:
        """The next number, uniform in [0, 1)."""
        return float(torch.rand(1, dtype=torch.float64, generator=self._generator))


def choose(logits: Tensor, rows: Sequence[Chances]) -> Tensor:
    """The next token `[B]` of each row of `logits[B,V]`."""
    tokens = logits.argmax(-1)
    sampled = [place for place, row in enumerate(rows) if row.sampling.temperature > 0]
    if not sampled:
        return tokens
    settings = [rows[place].sampling for place in sampled]
    where = torch.tensor(sampled, device=logits.device)
    temperatures = torch.tensor([s.temperature for s in settings], device=logits.device)
    scores = logits[where].float() / temperatures[:, None]
    for place, one in enumerate(settings):
        if one.top_k or one.top_p < 1:
            scores[place] = _narrowed(scores[place], one)
    levels = torch.tensor(
        [rows[place].level() for place in sampled], dtype=torch.float64, device=logits.device
    )
    tokens[where], _ = draw(scores, levels)
    return tokens


def _narrowed(scores: Tensor, sampling: Sampling) -> Tensor:
    """`scores[V]` of which only the `top_k` likeliest are left, and of those `top_p` of the mass.

    As transformers does: the likeliest one always stays, and so does the one that reaches `top_p`.
    """
    count = min(sampling.top_k or len(scores), len(scores))
    best, places = scores.topk(count)
    if sampling.top_p < 1:
        shares = best.softmax(-1)
        best = best.masked_fill(shares.cumsum(-1) - shares >= sampling.top_p, -torch.inf)
    return torch.full_like(scores, -torch.inf).scatter(0, places, best)
