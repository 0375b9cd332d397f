"""Prompts and settings of an RL training that takes seconds."""

from __future__ import annotations

PROMPTS = [
    "alpha bravo",
    "charlie",
    "delta echo foxtrot",
    "golf hotel",
    "india",
    "juliet kilo lima",
]
TRAINER = {
    "actor_lr": 1e-3,
    "critic_lr": 1e-3,
    "update_timesteps": 4,
    "max_timesteps": 4,
    "num_episodes": 6,
    "batch_size": 2,
    "epochs": 2,
    "checkpoint_steps": 8,
    "update_kl_limit": 10.0,
}
