"""trl's actor from ours: `python -m benchmarks.against_trl.their_learning SPEC`, see `learning`.

SPEC is that of a PPO stage. trl's trainer gets the stage's models, prompts and settings, and its
optimizer, whose two rates fall as the stage's do: of its own it has but one. Critic and reward
model give the stage's normalised scores. What the stage does beside (a gradient's norm clipped,
steps and looks that end an update or a training) trl hasn't.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, set_seed

from chatllama_pipeline.models.adapters.lora import save_model
from chatllama_pipeline.models.chat.template import stop_ids
from chatllama_pipeline.models.generation import end_ids, generate_plainly
from chatllama_pipeline.models.heads import SCORE_SCALE, SCORE_SHIFT
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import CURVES_FILE, StageSpec
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.training.plan import TrainingPlan
from chatllama_pipeline.training.ppo.loop import LAST_LEARNING_RATE_SHARE, make_optimizer
from chatllama_pipeline.training.ppo.model import ActorCritic
from chatllama_pipeline.training.ppo.preparation import prepare
from chatllama_pipeline.training.ppo.roles import load_roles

# What trl logs of each iteration, by the names of our curves.
CURVES = {"score": "objective/scores", "kl": "objective/kl", "value_loss": "loss/value_avg"}

# Nats a reply: the first ones come of the reference's weights.
SAME = 0.01


class Normalised(nn.Module):
    """A head whose scores are as our reward models publish them."""

    def __init__(self, head: nn.Module, shift: float, scale: float) -> None:
        super().__init__()
        self.head, self.shift, self.scale = head, shift, scale

    def forward(self, states: Tensor) -> Tensor:
        found: Tensor = (self.head(states) - self.shift) / self.scale
        return found


def main() -> None:
    spec = StageSpec.read(Path(sys.argv[1]))
    quiet_transformers()
    ppo = importlib.import_module("trl.experimental.ppo.ppo_trainer")
    config = importlib.import_module("trl.experimental.ppo.ppo_config")
    plan, prompts = prepare(spec, AssistantSettings.of_stage(spec), Progress("trl", print))
    folders, tokenizer = plan.folders, plan.tokenizer
    roles = load_roles(
        folders["policy"], folders["reward"], folders["critic"], plan.settings, plan.seed, "cpu"
    )
    # Before their heads are wrapped: the same parameters, in the same groups.
    optimizer = make_optimizer(
        ActorCritic(roles.policy, roles.critic), plan.settings.trainer_config
    )
    for model in (roles.critic, roles.reward):
        shift, scale = (float(getattr(model.config, key)) for key in (SCORE_SHIFT, SCORE_SCALE))
        model.score = Normalised(model.score, shift, scale)
    (stop,) = end_ids(stop_ids(tokenizer), roles.policy)
    # trl pads prompts by it, and continues them where they are padded.
    tokenizer.padding_side = "left"
    set_seed(plan.seed)
    trainer = ppo.PPOTrainer(
        args=config.PPOConfig(**arguments(plan, stop, spec.run_folder)),
        processing_class=tokenizer,
        model=roles.policy,
        ref_model=roles.reference,
        reward_model=roles.reward,
        value_model=roles.critic,
        train_dataset=[{"input_ids": ids} for ids in prompts.ids],
        optimizers=(optimizer, schedule(optimizer, plan)),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    first = trainer.state.log_history[0][CURVES["kl"]]
    if abs(first) > SAME:
        raise SystemExit(f"trl's policy begins {first:.3g} nats from its own reference")
    output = Path(spec.output)
    generate_plainly(roles.policy, tokenizer, stop_ids(tokenizer))
    save_model(roles.policy, output)
    tokenizer.save_pretrained(output)
    curves = {
        name: [
            (iteration, told[key]) for iteration, told in enumerate(trainer.state.log_history, 1)
        ]
        for name, key in CURVES.items()
    }
    (output / CURVES_FILE).write_text(json.dumps(curves))


def schedule(
    optimizer: torch.optim.Optimizer, plan: TrainingPlan
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear from the first iteration to the last, as `set_learning_rates` has it."""
    steps = max(1, plan.settings.trainer_config.iterations - 1)
    fall = 1 - LAST_LEARNING_RATE_SHARE
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 - fall * done / steps)


def arguments(plan: TrainingPlan, stop: int, folder: str) -> dict[str, Any]:
    """PPOConfig's, of the stage's settings."""
    ours = plan.settings.trainer_config
    rows = ours.rollouts_per_iteration
    return {
        "output_dir": folder,
        "seed": plan.seed,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": 1,
        "num_mini_batches": rows // ours.minibatch_size,
        "num_ppo_epochs": ours.epochs,
        "total_episodes": rows * ours.iterations,
        "local_rollout_forward_batch_size": rows,
        "num_sample_generations": 0,
        "response_length": plan.settings.actor_config.max_tokens,
        "stop_token_id": stop,
        "missing_eos_penalty": ours.missing_eos_penalty,
        "temperature": ours.temperature,
        "kl_coef": ours.kl_beta,
        "gamma": ours.gamma_discounted,
        "lam": ours.gae_lambda,
        "cliprange": ours.actor_eps_clip,
        "cliprange_value": ours.critic_eps_clip,
        "vf_coef": ours.value_coefficient,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }


if __name__ == "__main__":
    main()
