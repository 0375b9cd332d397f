"""The trained models of the online methods, actor and critic, in one module."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.families.language import response_logits, response_states
from chatllama_pipeline.models.heads import SCORE_SCALE, SCORE_SHIFT, response_values
from chatllama_pipeline.models.sharding.parts import in_turn
from chatllama_pipeline.training.ppo.equations import entropy, token_logp


class TokenScores(NamedTuple):
    """Of a response: `logp[B,T]`, `entropy[B,T]` and `values[B,T]` before each of its tokens.

    `values` are 0 without a critic, `entropy` is None where it wasn't asked for. Columns outside
    the action mask hold anything.
    """

    logp: Tensor
    values: Tensor
    entropy: Tensor | None


class ValueHead(nn.Module):
    """One linear layer on the actor's own hidden states: values before each token of a response.

    It begins at zero, so that at first it neither judges nor bends what is beneath it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, states: Tensor) -> Tensor:
        """Hidden states `[B,T,H]` -> values `[B,T]` float32."""
        values: Tensor = self.score(states.to(self.score.weight.dtype)).squeeze(-1)
        return values.float()


def head_on(actor: Any) -> ValueHead:
    """A value head for the `actor`, on its device.

    Its width is seen in a forward over two tokens. Raises SettingsError where the actor doesn't
    make its logits of hidden states by one layer.
    """
    token = torch.ones(1, 1, dtype=torch.long, device=actor.device)
    try:
        with torch.no_grad(), in_turn(actor):
            _, states = response_states(
                actor, token, token == 1, token, token == 1, temperature=1.0
            )
    except ValueError as error:
        raise SettingsError(
            f"critic_config.trunk: shared puts a value head on the actor's hidden states, and "
            f"{error}: set critic_config.trunk: own"
        ) from error
    return ValueHead(states.shape[-1]).to(actor.device)


class ActorCritic(nn.Module):
    """Both trained models in one module: one optimizer, one gradient clip, one state.

    The critic is a scoring model whose head is read at every token, normalised by the shift and
    scale in its config: a critic that starts from the reward model starts from its scores. Or it is
    a ValueHead on what the actor has read. A method that learns no values has none.
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
        """What learns: the actor, and the critic or value head."""
        return [self.actor] if self.critic is None else [self.actor, self.critic]

    @property
    def models(self) -> list[Any]:
        """What learns and reads by itself: no value head."""
        return self.trained if self.has_own_critic else [self.actor]

    @property
    def has_own_critic(self) -> bool:
        """Whether values come of another forward than logits."""
        return self.critic is not None and not isinstance(self.critic, ValueHead)

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

        With `only` one of two models reads it, and what the other would have said is empty.
        """
        columns = (prompt_ids, prompt_mask, response, action_mask)
        logp = values = torch.empty(0, device=response.device)
        uncertainty = None
        if only != "critic":
            if isinstance(self.critic, ValueHead):
                logits, states = response_states(self.actor, *columns, temperature=temperature)
                values = self.critic(states)
            else:
                logits = response_logits(self.actor, *columns, temperature=temperature)
            logp = token_logp(logits, response)
            uncertainty = entropy(logits) if with_entropy else None
        if self.critic is None:
            values = torch.zeros_like(logp)
        elif self.has_own_critic and only != "actor":
            values = (response_values(self.critic, *columns) - self.shift) / self.scale
        return TokenScores(logp, values, uncertainty)


def same_vocabulary(left: Any, right: Any) -> bool:
    """Whether an id means the same token to both tokenizers."""
    return bool(left.get_vocab() == right.get_vocab())
