"""The trained models of the online methods, actor and critic, in one module."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from chatllama_pipeline.models.families.language import response_logits
from chatllama_pipeline.models.heads import SCORE_SCALE, SCORE_SHIFT, response_values
from chatllama_pipeline.training.ppo.equations import entropy, token_logp


class TokenScores(NamedTuple):
    """Of a response: `logp[B,T]`, `entropy[B,T]` and `values[B,T]` before each of its tokens.

    `values` are 0 without a critic, `entropy` is None where it wasn't asked for. Columns outside
    the action mask hold anything.
    """

    logp: Tensor
    values: Tensor
    entropy: Tensor | None


class ActorCritic(nn.Module):
    """Both trained models in one module: one optimizer, one gradient clip, one state.

    The critic is a scoring model whose head is read at every token, normalised by the shift and
    scale in its config: a critic that starts from the reward model starts from its scores. A
    method that learns no values has none.
    """

    def __init__(self, actor: Any, critic: Any | None) -> None:
        super().__init__()
        self.actor = actor
        self.critic = critic
        config = getattr(critic, "config", None)
        self.shift = float(getattr(config, SCORE_SHIFT, 0.0))
        self.scale = float(getattr(config, SCORE_SCALE, 1.0))

    @property
    def trained(self) -> list[Any]:
        """The models that learn."""
        return [self.actor] if self.critic is None else [self.actor, self.critic]

    def forward(
        self,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        response: Tensor,
        action_mask: Tensor,
        temperature: float,
        with_entropy: bool,
        only: Literal["actor", "critic"] | None = None,
    ) -> TokenScores:
        """Score `response[B,T]`, `action_mask[B,T]` behind `prompt_ids[B,P]`, left-padded.

        With `only` one of the models reads it, and what the other would have said is empty.
        """
        columns = (prompt_ids, prompt_mask, response, action_mask)
        logp = values = torch.empty(0, device=response.device)
        uncertainty = None
        if only != "critic":
            logits = response_logits(self.actor, *columns, temperature=temperature)
            logp = token_logp(logits, response)
            uncertainty = entropy(logits) if with_entropy else None
        if self.critic is None:
            values = torch.zeros_like(logp)
        elif only != "actor":
            values = (response_values(self.critic, *columns) - self.shift) / self.scale
        return TokenScores(logp, values, uncertainty)


def same_vocabulary(left: Any, right: Any) -> bool:
    """Whether an id means the same token to both tokenizers."""
    return bool(left.get_vocab() == right.get_vocab())
