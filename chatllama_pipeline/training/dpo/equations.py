"""The arithmetic of DPO as pure functions on tensors; P pairs."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class PairNats(NamedTuple):
    """Log-probabilities (nats) of the two replies of each pair, whole replies: `[P]` twice."""

    chosen: Tensor
    rejected: Tensor


def margins(policy: PairNats, reference: PairNats, *, beta: float) -> Tensor:
    """How much more the policy's own reward of the chosen reply is, `[P]`.

    That reward is `beta` times the log-ratio of policy and reference (Rafailov et al., 2023).
    """
    chosen = policy.chosen - reference.chosen
    return beta * (chosen - (policy.rejected - reference.rejected))


def losses(margin: Tensor, *, label_smoothing: float) -> Tensor:
    """-log sigmoid of each margin, `[P]`, where `label_smoothing` of the labels are wrong.

    The smoothed loss is that of conservative DPO (Mitchell, 2023).
    """
    right, wrong = F.logsigmoid(margin), F.logsigmoid(-margin)
    return -(1 - label_smoothing) * right - label_smoothing * wrong


def imitation_losses(chosen: Tensor, tokens: Tensor) -> Tensor:
    """What SFT would lose by each chosen reply, in nats a token, `[P]`.

    Of a pair both replies may become unlikely, and a third one that nobody chose likely; with this
    added, the chosen one doesn't (Pang et al., 2024, iterative reasoning preference optimisation).
    """
    return -chosen / tokens
