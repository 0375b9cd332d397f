"""The stages that train; this module names their checks without importing torch."""

from __future__ import annotations

from chatllama_pipeline.models.memory import MEMORY_PLAN

FINITE_LOSS = "finite_loss"
COLLAPSE = "collapse"
REWARD_CHEATS = "reward_cheats"
REWARD_HACKING = "reward_hacking"

# asset -> (check, blocking): what each stage's Outcome carries.
CHECK_NAMES: dict[str, list[tuple[str, bool]]] = {
    stage: [(MEMORY_PLAN, True), (FINITE_LOSS, True)]
    for stage in ("reward_model", "actor_sft", "actor_ppo")
}
# The first is a warning unless trainer_config.collapse is stop.
CHECK_NAMES["actor_ppo"] += [(COLLAPSE, True), (REWARD_CHEATS, False), (REWARD_HACKING, False)]
