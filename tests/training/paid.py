"""What tests of PPO's rewards share: settings of a tiny PPO, and what came of it."""

from __future__ import annotations

from typing import Any

BRIEF = "def brief(prompt, reply):\n    return -len(reply)\n"
TRAINER = {
    "actor_lr": 1e-3,
    "critic_lr": 1e-3,
    "update_timesteps": 4,
    "max_timesteps": 4,
    "num_episodes": 3,
    "checkpoint_steps": 1000,
    "update_kl_limit": 10.0,
}
SETTINGS: dict[str, Any] = {
    "actor_config": {"model": "scratch", "max_sequence_length": 64, "max_tokens": 8},
    "trainer_config": TRAINER,
}
