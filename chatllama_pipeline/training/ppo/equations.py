"""The arithmetic of PPO, RLOO and GRPO as pure functions on tensors.

Shapes: B replies, T response columns; the replies to one prompt, a group, stand side by side.
Every `mask[B,T]` is boolean and True where a column counts; what stands in the other columns (NaN
included) never changes a result.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

# exp() of a log-ratio beyond this is already far outside any clip range; float32 overflows at 88.
LOG_RATIO_LIMIT = 20.0
VARIANCE_FLOOR = 1e-8


class Advantages(NamedTuple):
    """`advantages[B,T]` and `returns[B,T]`, 0 where the mask is False."""

    advantages: Tensor
    returns: Tensor


class ClippedLoss(NamedTuple):
    """A scalar loss, and the number of columns (a scalar) in which the clipped branch decided."""

    loss: Tensor
    clipped: Tensor


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """The sum of `values` where `mask` is True, a scalar."""
    return torch.where(mask, values, 0.0).sum()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of `values` where `mask` is True, a scalar (0 where nothing counts)."""
    return masked_sum(values, mask) / mask.sum().clamp(min=1)


def masked_variance(values: Tensor, mask: Tensor) -> Tensor:
    """The unbiased variance of `values` where `mask` is True, a scalar (0 for fewer than two)."""
    deviations = values - masked_mean(values, mask)
    return masked_sum(deviations.square(), mask) / (mask.sum() - 1).clamp(min=1)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """`values` shifted and scaled, in all columns, by the masked mean and deviation."""
    spread = torch.rsqrt(masked_variance(values, mask) + VARIANCE_FLOOR)
    return (values - masked_mean(values, mask)) * spread


def token_mean(values: Tensor, mask: Tensor, tokens: float | Tensor, ranks: int = 1) -> Tensor:
    """This shard's part of the mean over `tokens` columns, a scalar.

    `tokens` counts the columns of the whole minibatch, however it is cut up. Gradients of
    micro-batches add up to the minibatch's; `ranks` undoes the mean over data-parallel ranks.
    """
    return masked_sum(values, mask) * ranks / tokens


def k1(logp: Tensor, logp_ref: Tensor) -> Tensor:
    """The plain KL estimator log(p/q): unbiased, of either sign.

    The three estimators follow Schulman, "Approximating KL Divergence" (2020).
    """
    return logp - logp_ref


def k2(logp: Tensor, logp_ref: Tensor) -> Tensor:
    """Half the squared log-ratio: biased, never negative, of low variance."""
    return 0.5 * (logp - logp_ref).square()


def k3(logp: Tensor, logp_ref: Tensor) -> Tensor:
    """q/p - 1 - log(q/p): unbiased and never negative."""
    log_ratio = (logp_ref - logp).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return torch.expm1(log_ratio) - log_ratio


def token_logp(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities in nats of `tokens[B,T]` under `logits[B,T,V]`, shape `[B,T]`.

    Cross-entropy holds fewer copies of the logits for the backward pass than a gather and a
    logsumexp do.
    """
    nats = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none")
    return -nats.view(tokens.shape)


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of the distributions `logits[..., V]`, shape `[...]`."""
    logp = torch.log_softmax(logits.float(), dim=-1)
    return -(logp.exp() * logp).sum(-1)


def final_scores(scores: Tensor, finished: Tensor, *, missing_eos_penalty: float) -> Tensor:
    """`scores[B]` less the penalty where `finished[B]` is False."""
    return scores - missing_eos_penalty * (~finished).float()


def shaped_rewards(
    scores: Tensor, kl: Tensor, mask: Tensor, *, beta: float, score_clip: float
) -> Tensor:
    """Rewards `[B,T]`: the KL penalty `-beta * kl[B,T]`, and the clipped `scores[B]` on each last
    action token."""
    rewards = torch.where(mask, -beta * kl, 0.0)
    columns = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, columns, -1).amax(dim=1)
    return rewards + (columns == last[:, None]) * scores.clamp(-score_clip, score_clip)[:, None]


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float) -> Advantages:
    """Generalised advantage estimation (Schulman et al., 2016) over the masked columns.

    All `[B,T]`. Columns outside the mask are stepped over, wherever they stand; the value after
    the last action is 0.
    """
    advantages = torch.zeros_like(values)
    next_value = torch.zeros_like(values[:, 0])
    advantage = torch.zeros_like(next_value)
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = torch.where(mask[:, t], delta + gamma * lam * advantage, advantage)
        next_value = torch.where(mask[:, t], values[:, t], next_value)
        advantages[:, t] = torch.where(mask[:, t], advantage, 0.0)
    return Advantages(advantages, torch.where(mask, advantages + values, 0.0))


def leave_one_out(rewards: Tensor, group: int) -> Tensor:
    """Of each of `rewards[B]` what it is above the mean of the others in its group, `[B]`.

    REINFORCE leave-one-out (Kool et al., 2019; Ahmadian et al., 2024).
    """
    groups = rewards.view(-1, group)
    others = (groups.sum(1, keepdim=True) - groups) / (group - 1)
    return (groups - others).flatten()


def group_normalised(rewards: Tensor, group: int) -> Tensor:
    """`rewards[B]` less their group's mean, by its unbiased deviation, `[B]`.

    The advantage of GRPO (Shao et al., 2024); 0 where all of a group are equal.
    """
    groups = rewards.view(-1, group)
    deviations = groups - groups.mean(1, keepdim=True)
    return (deviations * torch.rsqrt(groups.var(1, keepdim=True) + VARIANCE_FLOOR)).flatten()


def on_every_token(values: Tensor, mask: Tensor) -> Tensor:
    """A reply's one value, of `values[B]`, at each of its tokens: `[B,T]`, 0 outside the mask."""
    return torch.where(mask, values[:, None], 0.0)


def ratios(logp_new: Tensor, logp_old: Tensor, mask: Tensor) -> Tensor:
    """Probability ratios new/old `[B,T]`, 1 where the mask is False."""
    log_ratio = torch.where(mask, logp_new - logp_old, 0.0)
    return log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()


def policy_loss(
    ratio: Tensor, advantages: Tensor, mask: Tensor, *, clip: float, tokens: float | Tensor
) -> ClippedLoss:
    """PPO's clipped surrogate (Schulman et al., 2017) over `ratio[B,T]`, `advantages[B,T]`.

    `tokens`: columns of the whole minibatch, see `token_mean`.
    """
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)
    loss = token_mean(torch.maximum(plain, clipped), mask, tokens)
    return ClippedLoss(loss, ((clipped > plain) & mask).sum())


def value_loss(
    values: Tensor,
    values_old: Tensor,
    returns: Tensor,
    mask: Tensor,
    *,
    clip: float,
    tokens: float | Tensor,
) -> ClippedLoss:
    """Half the squared error of `values[B,T]`, which may move by `clip` from `values_old[B,T]`.

    `tokens`: columns of the whole minibatch, see `token_mean`.
    """
    # Before their difference: what stands outside of the mask may be no number.
    values = torch.where(mask, values, returns)
    near = values_old + (values - values_old).clamp(-clip, clip)
    plain, clipped = (values - returns).square(), (near - returns).square()
    loss = 0.5 * token_mean(torch.maximum(plain, clipped), mask, tokens)
    return ClippedLoss(loss, ((clipped > plain) & mask).sum())


@dataclass(frozen=True)
class KlController:
    """The price `beta` of a nat; with a `target` (nats per reply) it is adapted.

    The controller of Ziegler et al., "Fine-Tuning Language Models from Human Preferences" (2019).
    """

    beta: float
    target: float | None = None
    horizon: int = 10_000

    def updated(self, kl: float, replies: int) -> Self:
        """The controller after `replies` replies whose mean KL was `kl` nats."""
        if self.target is None:
            return self
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        return dataclasses.replace(self, beta=self.beta * (1 + error * replies / self.horizon))


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - var(returns - values) / var(returns) over the mask; 0 where the returns don't vary."""
    total = masked_variance(returns, mask)
    if total <= 0:
        return 0.0
    return float(1 - masked_variance(returns - values, mask) / total)


def _ranks(values: Tensor) -> Tensor:
    """Ranks of `values[N]` from 0; ties share their mean rank."""
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    first = counts.cumsum(0) - counts
    mean_ranks: Tensor = first + (counts - 1) / 2
    return mean_ranks[inverse]


def spearman(left: Tensor, right: Tensor) -> float:
    """Spearman's rank correlation of `left[N]` and `right[N]`; 0 where either doesn't vary."""
    a, b = (ranks - ranks.mean() for ranks in (_ranks(left.double()), _ranks(right.double())))
    scale = a.norm() * b.norm()
    return float((a * b).sum() / scale) if scale > 0 else 0.0


def distinct_2(replies: Sequence[Sequence[int]]) -> float:
    """Different bigrams over all bigrams in the token ids of `replies`; 0 where there are none."""
    bigrams = [pair for reply in replies for pair in itertools.pairwise(reply)]
    return len(set(bigrams)) / len(bigrams) if bigrams else 0.0


def repeated(reply: Sequence[int], length: int = 4) -> float:
    """The share of a reply's runs of `length` tokens that it has had before, 0 of a shorter reply.

    seq-rep-4 of Welleck et al. 2019, "Neural text generation with unlikelihood training".
    """
    runs = [tuple(reply[start : start + length]) for start in range(len(reply) - length + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
