"""The arithmetic of KTO as pure functions on tensors; P replies with a thumb each."""

from __future__ import annotations

import torch
from torch import Tensor


def losses(
    log_ratio: Tensor, up: Tensor, kl: Tensor, *, beta: float, desirable: float, undesirable: float
) -> Tensor:
    """lambda_y - v(x, y) of each reply, `[P]` (Ethayarajh et al., 2024, equations 7 and 8).

    `log_ratio[P]` is the reply's log-probability by the policy less that by the reference, in nats;
    `up[P]` says which replies were found good. The reference point `kl` (nats, no gradient) is
    what a reply gains that nobody asked for; below 0, which an estimate may be, it counts as 0.
    `desirable` and `undesirable` are lambda_D and lambda_U.
    """
    gained = beta * (log_ratio - kl.clamp(min=0))
    value = torch.where(up, gained, -gained).sigmoid()
    weight = torch.where(up, desirable, undesirable)
    return weight * (1 - value)
