"""`improve_by`: the ways from the SFT actor to a better one, and which settings each reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from chatllama_pipeline.settings.training.ppo import CriticSettings, PpoSettings

MethodName = Literal["ppo", "rloo", "grpo", "dpo", "kto", "best_of_n"]
# Those that are trained by transformers' Trainer, as SFT is, and the section of each.
SUPERVISED: dict[MethodName, str] = {
    "dpo": "dpo_config",
    "kto": "kto_config",
    "best_of_n": "best_of_n_config",
}
# Of them those that learn from rows as they stand: they write no reply, and nobody pays for one.
FROM_ROWS: tuple[MethodName, ...] = ("dpo", "kto")
# Those that compare the replies to one prompt with each other, and how many where none is set.
GROUPED: tuple[MethodName, ...] = ("rloo", "grpo")
USUAL_REPLIES = 4

_OF_A_CRITIC = (
    "critic_config",
    "trainer_config.critic_lr",
    "trainer_config.critic_eps_clip",
    "trainer_config.value_coefficient",
    "trainer_config.gae_lambda",
    "trainer_config.gamma_discounted",
)
# Of critic_config what a value head on the actor makes nothing of.
_OF_AN_OWN_CRITIC = tuple(
    f"critic_config.{name}" for name in CriticSettings.model_fields if name != "trunk"
)
# Of rollouts all but the prompts, which the evaluation is asked too.
_OF_ROLLOUTS = tuple(
    f"trainer_config.{name}" for name in PpoSettings.model_fields if name != "examples_path"
)
# Method -> what it makes nothing of, beside the sections of other methods.
_UNREAD: dict[MethodName, tuple[str, ...]] = {
    "ppo": (),
    "rloo": _OF_A_CRITIC,
    "grpo": _OF_A_CRITIC,
    **dict.fromkeys(FROM_ROWS, ("critic_config", "rewards", *_OF_ROLLOUTS)),
    "best_of_n": ("critic_config", "rewards.cheat_prompts", *_OF_ROLLOUTS),
}


def _unread(method: MethodName, shared_trunk: bool) -> tuple[str, ...]:
    """Sections and keys that `method` makes nothing of, and PPO on one trunk beside them."""
    unread = (*_UNREAD[method], *(own for name, own in SUPERVISED.items() if name != method))
    return (*unread, *_OF_AN_OWN_CRITIC) if method == "ppo" and shared_trunk else unread


def reads(method: MethodName, key: str, *, shared_trunk: bool = False) -> bool:
    """Whether `method` makes anything of the setting at a dotted `key`."""
    unread = _unread(method, shared_trunk)
    return not any(key == name or key.startswith(f"{name}.") for name in unread)


def unread_keys(
    raw: Mapping[str, Any], method: MethodName, *, shared_trunk: bool = False
) -> list[str]:
    """The sections and keys of a config.yaml, as it was read, that `method` makes nothing of."""
    found = []
    for unread in _unread(method, shared_trunk):
        value: Any = raw
        for part in unread.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            found.append(unread)
    return found


def with_usual_replies(values: dict[str, Any]) -> dict[str, Any]:
    """A config.yaml with as many replies per prompt as a grouped method takes, if it is silent."""
    trainer = values.get("trainer_config") or {}
    silent = isinstance(trainer, dict) and trainer.get("replies_per_prompt") is None
    if values.get("improve_by") not in GROUPED or not silent:
        return values
    return {**values, "trainer_config": {**trainer, "replies_per_prompt": USUAL_REPLIES}}
