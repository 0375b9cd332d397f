"""Child processes, from the command that starts them to how they end; which function each stage
is, by its name alone: what a stage does lives on the floors above."""

from __future__ import annotations

STAGES: dict[str, str] = {
    "actor_base": "chatllama_pipeline.models.bases.build:run",
    "reward_base": "chatllama_pipeline.models.bases.build:run",
    "reward_model": "chatllama_pipeline.training.reward.stage:run",
    "actor_sft": "chatllama_pipeline.training.sft.stage:run",
    "actor_ppo": "chatllama_pipeline.training.ppo.stage:run",
    "evaluation": "chatllama_pipeline.evaluation.compare:run",
    "release": "chatllama_pipeline.serving.release:run",
}

# Other trainings than the stage's own: see `AssistantSettings.trained_as`.
TRAININGS = {
    "actor_dpo": "chatllama_pipeline.training.dpo.stage:run",
    "actor_kto": "chatllama_pipeline.training.kto.stage:run",
    "actor_best_of_n": "chatllama_pipeline.training.best_of_n.stage:run",
}

# Stages that would only do the same work twice in two processes.
ONE_PROCESS = frozenset({"actor_base", "reward_base", "evaluation", "release"})
