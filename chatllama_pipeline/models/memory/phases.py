"""The phases of a training stage, and the bytes that pass through memory in each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from chatllama_pipeline.models.memory.means import Means
from chatllama_pipeline.models.memory.passes import (
    FLOAT_BYTES,
    MOST_ROWS,
    Shape,
    read_bytes,
    rows_at_once,
)
from chatllama_pipeline.models.memory.sizes import config_of, model_size
from chatllama_pipeline.settings import AssistantSettings

TRAINING, ROLLOUT = "training", "rollout"
UPDATES = {"policy": "the policy's update", "critic": "the critic's update"}
# Those whose memory the micro-batch decides.
LEARNING = (TRAINING, *UPDATES.values(), "score pass")


def learning_phases(
    stage: str, learning: dict[str, dict[str, int]], means: Means
) -> dict[str, dict[str, int]]:
    """Parts that pass in each phase of training, from those of each trained role.

    PPO in one process lets the actor's go before it makes the critic's.
    """
    if stage == "actor_ppo" and means.processes == 1:
        return {UPDATES[role]: passing for role, passing in learning.items()}
    together = {part: size for passing in learning.values() for part, size in passing.items()}
    return {TRAINING: together} if together else {}


def reading_phases(
    stage: str,
    folders: Mapping[str, Path | str],
    settings: AssistantSettings,
    means: Means,
    longest: int,
) -> dict[str, dict[str, int]]:
    """Parts that pass where nothing is learned, for rows of `longest` tokens; see `passes`."""
    shapes = {role: _shape(Path(folder)) for role, folder in folders.items()}
    gathered = {role: _gathered(role, Path(folder), means) for role, folder in folders.items()}
    if stage in ("actor_sft", "actor_dpo", "actor_kto"):
        ((role, shape),) = shapes.items()
        read = {"logits and layers": _read_at_once(shape, longest, True)}
        return {"validation": read | gathered[role]}
    layers = {"layers": _read_at_once(shapes["reward"], longest, False)}
    if stage == "reward_model":
        return {"scoring": layers | gathered["reward"]}
    ppo, reply = settings.trainer_config, settings.actor_config.max_tokens
    prompt = max(1, longest - reply)
    if stage == "actor_best_of_n":
        policy, at_once = shapes["policy"], settings.best_of_n_config.rollout_batch_size
        read = {"logits and layers": _read_at_once(policy, longest, True)}
        written = {"caches and logits": at_once * policy.writing(prompt, reply)}
        return {
            "scoring": layers,  # by a model that is whole all the while
            "validation": read | gathered["policy"],
            ROLLOUT: written | gathered["policy"],
        }
    share = ppo.rollouts_per_iteration // means.processes
    replies = min(ppo.rollout_batch_size or share, share)
    policy = shapes["policy"]
    row = policy.reading(longest, min(reply, longest))
    most = min(ppo.micro_batch_size or share, share)
    rows = rows_at_once(row, most, read_bytes(means.device))
    trained = gathered["policy"] | gathered.get("critic", {})
    return {
        "scoring": layers | gathered["reward"],
        ROLLOUT: {"caches and logits": replies * policy.writing(prompt, reply)} | trained,
        "score pass": {"logits and layers": rows * row} | trained,
    }


def _gathered(role: str, folder: Path, means: Means) -> dict[str, int]:
    """Of a model in parts, what a process has of the others' while it reads by whole weights.

    PPO reads by its policy and critic, then by the reference, then by the reward model.
    """
    if means.zero_stage < 3:
        return {}
    weights = model_size(folder).weights
    return {f"{role} weights of others": FLOAT_BYTES * (weights - weights // means.processes)}


def _read_at_once(shape: Shape, longest: int, logits: bool) -> int:
    row = shape.reading(longest, longest if logits else 0)
    return row * rows_at_once(row, MOST_ROWS)


def _shape(folder: Path) -> Shape:
    return Shape.of(model_size(folder), config_of(folder))
