"""Settings of trainings that improve a tiny actor by rows, whole or as an adapter."""

from __future__ import annotations

from typing import Any

TRAINING = {"lr": 3e-3, "max_steps": 12, "evaluations": 3, "checkpoint_steps": 5}


def improved_by(method: str, section: dict[str, Any], adapter: bool = False) -> dict[str, Any]:
    """An assistant's settings; an adapter takes larger steps."""
    actor: dict[str, Any] = {"model": "scratch", "max_sequence_length": 64}
    if adapter:
        actor |= {"peft_enable": True, "lora": {"r": 4}}
        section = {**section, "lr": 2e-2}
    return {"improve_by": method, "actor_config": actor, f"{method}_config": section}
