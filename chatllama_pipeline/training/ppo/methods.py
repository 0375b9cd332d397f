"""PPO, RLOO and GRPO: the one place where they differ.

A method says what the scores of an iteration's replies are worth to each token (`credit`), and
what a token's new probability costs (`policy_loss`). Prompts, rollouts, rewards, minibatches,
resume and log are the same to all. Shapes as in `equations`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from chatllama_pipeline.settings import PpoSettings
from chatllama_pipeline.settings.training.methods import MethodName
from chatllama_pipeline.training.ppo import equations


@dataclass(frozen=True)
class Judged:
    """An iteration's replies: `scores[B]` after penalties, the rest `[B,T]`.

    `kl` is k1 of policy against reference, `beta` the price of a nat; `values` are 0 where no
    critic is.
    """

    scores: Tensor
    kl: Tensor
    values: Tensor
    mask: Tensor
    beta: float


class Credit(NamedTuple):
    """What the update learns from, each `[B,T]` and 0 outside the mask."""

    advantages: Tensor
    returns: Tensor


@dataclass(frozen=True)
class Part:
    """A micro-batch as the policy's loss reads it: `[B,T]`, log-probabilities in nats.

    `tokens` and `replies` count those of the whole minibatch, over all processes: a loss is this
    part's share of the minibatch's.
    """

    logp: Tensor
    logp_old: Tensor
    logp_ref: Tensor
    advantages: Tensor
    mask: Tensor
    tokens: Tensor
    replies: int
    beta: float
    clip: float


class PolicyLoss(NamedTuple):
    """A scalar loss, the clipped share of what it counts, and the probability ratios."""

    loss: Tensor
    clipped: Tensor
    ratio: Tensor


class Method(Protocol):
    """How the scores of replies become the policy's loss; `has_critic` says who learns values."""

    has_critic: bool

    def credit(self, judged: Judged, settings: PpoSettings) -> Credit: ...

    def policy_loss(self, part: Part) -> PolicyLoss: ...


class Ppo:
    """Proximal policy optimisation (Schulman et al., 2017) with a critic and a KL in the reward."""

    has_critic = True

    def credit(self, judged: Judged, settings: PpoSettings) -> Credit:
        """Whitened advantages by generalised advantage estimation."""
        gamma, lam, mask = settings.gamma_discounted, settings.gae_lambda, judged.mask
        rewards = _with_kl(judged, settings, judged.beta)
        advantages, returns = equations.gae(rewards, judged.values, mask, gamma=gamma, lam=lam)
        white = torch.where(mask, equations.whiten(advantages, mask), 0.0)
        return Credit(white, returns)

    def policy_loss(self, part: Part) -> PolicyLoss:
        """The clipped surrogate, a mean over tokens."""
        ratio = equations.ratios(part.logp, part.logp_old, part.mask)
        found = equations.policy_loss(
            ratio, part.advantages, part.mask, clip=part.clip, tokens=part.tokens
        )
        return PolicyLoss(found.loss, found.clipped / part.tokens, ratio)


class Rloo:
    """REINFORCE leave-one-out (Ahmadian et al., 2024), with the KL in the reward.

    A reply is one action: its probability is the product of its tokens', and the loss is a mean
    over replies. At the policy that sampled its gradient is REINFORCE's; further steps from the
    same replies are clipped like PPO's.
    """

    has_critic = False

    def credit(self, judged: Judged, settings: PpoSettings) -> Credit:
        """Each reply's reward, less the mean of the others' to its prompt."""
        rewards = _with_kl(judged, settings, judged.beta).sum(1)
        above = equations.leave_one_out(rewards, settings.replies_per_prompt)
        return _without_critic(above, judged)

    def policy_loss(self, part: Part) -> PolicyLoss:
        """The clipped surrogate of whole replies."""
        logp, old = (
            torch.where(part.mask, nats, 0.0).sum(1, keepdim=True)
            for nats in (part.logp, part.logp_old)
        )
        # Every reply has a first token, and all its tokens the same advantage.
        advantages, whole = part.advantages[:, :1], part.mask[:, :1]
        ratio = equations.ratios(logp, old, whole)
        found = equations.policy_loss(ratio, advantages, whole, clip=part.clip, tokens=part.replies)
        return PolicyLoss(found.loss, found.clipped / part.replies, ratio)


class Grpo:
    """Group relative policy optimisation (Shao et al., 2024), with the KL in the loss.

    The loss is a mean over replies of the means over their tokens.
    """

    has_critic = False

    def credit(self, judged: Judged, settings: PpoSettings) -> Credit:
        """Each reply's score among those to its prompt, by their mean and deviation."""
        scores = _with_kl(judged, settings, beta=0.0).sum(1)
        among = equations.group_normalised(scores, settings.replies_per_prompt)
        return _without_critic(among, judged)

    def policy_loss(self, part: Part) -> PolicyLoss:
        """The clipped surrogate and the price of k3 of policy against reference."""
        ratio = equations.ratios(part.logp, part.logp_old, part.mask)
        lengths = part.mask.sum(1, keepdim=True).clamp(min=1)
        shares = part.advantages / lengths
        found = equations.policy_loss(ratio, shares, part.mask, clip=part.clip, tokens=part.replies)
        away = equations.k3(part.logp, part.logp_ref) / lengths
        price = part.beta * equations.token_mean(away, part.mask, part.replies)
        return PolicyLoss(found.loss + price, found.clipped / part.tokens, ratio)


METHODS: dict[MethodName, Method] = {"ppo": Ppo(), "rloo": Rloo(), "grpo": Grpo()}


def _with_kl(judged: Judged, settings: PpoSettings, beta: float) -> Tensor:
    return equations.shaped_rewards(
        judged.scores, judged.kl, judged.mask, beta=beta, score_clip=settings.score_clip
    )


def _without_critic(advantages: Tensor, judged: Judged) -> Credit:
    return Credit(
        equations.on_every_token(advantages, judged.mask), torch.zeros_like(judged.values)
    )
