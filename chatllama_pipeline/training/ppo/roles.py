"""The models of PPO, RLOO and GRPO, on as few sets of base weights as they need.

A role that trains or keeps an adapter leaves the weights beneath it alone, so all roles on the same
base share them: each is a model of its own whose frozen parameters are the same tensors, with its
own adapter (and head) on top. What is trained whole has weights of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from chatllama_pipeline.models.adapters.lora import (
    add_adapter,
    load_adapter,
    merge_adapter,
    set_trainable,
)
from chatllama_pipeline.models.adapters.targets import head_names
from chatllama_pipeline.models.heads import draw_head, load_actor, load_reward, scoring_class
from chatllama_pipeline.models.loading import load_config
from chatllama_pipeline.models.sharding.loading import Sharing, unless_adapted
from chatllama_pipeline.seeds import stage_seed
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.store.model_files import base_folder, has_adapter, weights_digest
from chatllama_pipeline.training.ppo.model import head_on

# Keys of our own in a reward model's config (normalisation, longest row), and its pad token.
OWN_KEYS, PAD = "chatllama_", "pad_token_id"


@dataclass(frozen=True)
class Roles:
    """The models, on one device; `sharing` lists the roles that stand on each set of weights.

    `critic` is None for a method that has none; it may be a value head on the policy.
    """

    policy: Any
    reference: Any
    critic: Any | None
    reward: Any
    sharing: list[list[str]]

    @property
    def in_words(self) -> str:
        """Which roles share their weights."""
        parts = [
            f"{' and '.join(roles)} share one set of base weights"
            if len(roles) > 1
            else f"{roles[0]} has weights of its own"
            for roles in self.sharing
        ]
        return "; ".join(parts)


def load_roles(
    sft: Path,
    reward_model: Path,
    critic_start: Path | None,
    settings: AssistantSettings,
    seed: int,
    device: torch.device | str,
    share: bool = True,
    sharing: Sharing | None = None,
) -> Roles:
    """Load the roles from version folders; `critic_start` is one of the first two, if any.

    The policy continues the SFT adapter, the reference is that adapter frozen (the plain SFT
    weights where SFT trained none), the reward model keeps the adapter it was trained with. The
    critic continues the adapter of the model it starts from, or is a fresh head on the policy.
    Without adapters every role has weights of its own; so it has without `share`. By `sharing` each
    process loads its part of each.
    """
    bases = Bases(device, share, sharing)
    reference = bases.language("reference", sft)
    if settings.policy_has_adapter:
        policy = bases.language("policy", sft)
        if not has_adapter(sft):
            lora = settings.actor_config.lora
            add_adapter(policy, lora, "actor_config", sft, stage_seed(seed, "policy adapter"))
        set_trainable(policy)
    else:
        loaded = load_actor(sft, torch.float32, unless_adapted(sft, sharing))
        policy = bases.own("policy", merge_adapter(loaded))
    critic = head_on(policy) if settings.has_shared_trunk else None
    if critic_start is not None:
        critic = _critic(bases, critic_start, settings, seed)
    reward = bases.scoring("reward", reward_model, stage_seed(seed, "critic"))
    for model in (reference, reward):
        model.requires_grad_(False)
    return Roles(policy, reference, critic, reward, list(bases.users.values()))


def _critic(bases: Bases, start: Path, settings: AssistantSettings, seed: int) -> Any:
    if not settings.critic_has_adapter:
        sharing = unless_adapted(start, bases.sharing)
        loaded = load_critic(start, stage_seed(seed, "critic"), sharing)
        return bases.own("critic", merge_adapter(loaded))
    critic = bases.scoring("critic", start, stage_seed(seed, "critic"))
    if not has_adapter(start):
        drawn_from = stage_seed(seed, "critic adapter")
        add_adapter(critic, settings.critic_config.lora, "critic_config", start, drawn_from)
    set_trainable(critic)
    return critic


def load_critic(folder: Path | str, seed: int, sharing: Sharing | None = None) -> Any:
    """The scoring model in `folder`; a plain language model gets a fresh head drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return load_reward(folder, torch.float32, sharing)


@dataclass
class Bases:
    """Frozen base weights by their content, and the roles that stand on each."""

    device: torch.device | str
    share: bool = True
    sharing: Sharing | None = None
    models: dict[str, Any] = field(default_factory=dict)
    users: dict[str, list[str]] = field(default_factory=dict)

    def own(self, role: str, model: Any) -> Any:
        """A model that is trained whole shares nothing."""
        self.users[role] = [role]
        return model.to(self.device)

    def language(self, role: str, folder: Path) -> Any:
        """The language model in `folder`, its adapter in it where there is one, frozen."""
        base = base_folder(folder)
        key = weights_digest(base) if self.share else role
        if key not in self.models:
            self.models[key] = self._frozen(load_actor(base, torch.float32, self.sharing))
        self.users.setdefault(key, []).append(role)
        model = shared_copy(self.models[key])
        if has_adapter(folder):
            load_adapter(model, folder)
        return model

    def scoring(self, role: str, folder: Path, seed: int) -> Any:
        """The scoring model in `folder`, likewise; a head that it hasn't is drawn from `seed`."""
        base = base_folder(folder)
        key = weights_digest(base) if self.share else role
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self._scoring_on(key, folder)
        if model is None:
            key = f"{key} scoring"
            if key not in self.models:
                self.models[key] = self._frozen(load_critic(base, seed, self.sharing))
            beneath = self.models[key]
            # A head of its own for each role, where several stand on it.
            model = shared_copy(beneath, own=head_names(beneath) if self.share else ())
        self.users.setdefault(key, []).append(role)
        if has_adapter(folder):
            load_adapter(model, folder)
        config = load_config(folder)
        for name, value in config.to_dict().items():
            if name.startswith(OWN_KEYS) or name == PAD:
                setattr(model.config, name, value)
        return model

    def _scoring_on(self, key: str, folder: Path) -> Any | None:
        """On a language model's weights, where that was loaded already."""
        return scoring_on(self.models[key], folder) if key in self.models else None

    def _frozen(self, model: Any) -> Any:
        return model.to(self.device).requires_grad_(False)


def shared_copy(model: Any, own: Sequence[str] = ()) -> Any:
    """A model of its own whose tensors are those of `model`, but for the children in `own`.

    An adapter put into the one is not in the other. The parameters are the same objects: only
    frozen ones may be shared.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    kept = {id(t): t for name, t in tensors if name.split(".")[0] not in own}
    return copy.deepcopy(model, kept)


def scoring_on(language: Any, folder: Path | str) -> Any | None:
    """A scoring model with a head of random weights on the backbone of the `language` model.

    Config and class are those of the model in `folder`. None where its class stands on another
    backbone than `language` has (T5's, DeBERTa's).
    """
    config = load_config(folder)
    config.num_labels = 1
    with torch.device("meta"):
        kind = scoring_class(config, folder)
        model = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
    backbone = language.base_model
    if type(model.base_model) is not type(backbone) or backbone is language:
        return None
    setattr(model, model.base_model_prefix, shared_copy(backbone))
    for name in head_names(model):
        head = getattr(model, name).to_empty(device=language.device)
        if not isinstance(head, nn.Linear):
            return None
        draw_head(head, language.device)
    return model.eval()
