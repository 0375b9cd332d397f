"""Prints the memory plan of a small PPO and the peak that it measured, in bytes.

    python tests/models/measured.py FOLDER whole|lora

A process of its own, since a peak is one of a whole process; what the imports took is subtracted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from transformers import LlamaConfig, LlamaForCausalLM

from chatllama_pipeline.models.adapters import add_adapter, save_model
from chatllama_pipeline.models.heads import load_actor, load_reward
from chatllama_pipeline.models.machine import peak_bytes
from chatllama_pipeline.models.memory import memory_plan
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import user_prompt
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.training.ppo_collect import Task
from chatllama_pipeline.training.ppo_loop import train
from chatllama_pipeline.training.ppo_model import ActorCritic
from chatllama_pipeline.training.ppo_roles import load_roles

ROWS, PROMPT, REPLY, VOCABULARY = 16, 48, 16, 2048


def versions(folder: Path, adapted: bool) -> tuple[Path, Path]:
    """An SFT actor's and a reward model's folder, 6 M weights each."""
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=320,
            intermediate_size=960,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=PROMPT + REPLY,
            tie_word_embeddings=True,
            pad_token_id=0,
        )
    ).save_pretrained(folder / "base")
    for name, load in (("actor", load_actor), ("reward", load_reward)):
        model: Any = load(folder / "base", torch.float32)
        if adapted:
            add_adapter(model, AssistantSettings().actor_config.lora, name, folder / "base", 0)
        save_model(model, folder / name)
    return folder / "actor", folder / "reward"


def main(folder: Path, adapted: bool) -> None:
    actor, reward = versions(folder, adapted)
    settings = AssistantSettings.model_validate(
        {
            "actor_config": {"peft_enable": adapted},
            "trainer_config": {
                "update_timesteps": ROWS,
                "max_timesteps": ROWS,
                "num_episodes": 1,
                "epochs": 2,
                "update_kl_limit": 100.0,
            },
        }
    )
    folders = {"policy": actor, "reference": actor, "critic": reward, "reward": reward}
    plan = memory_plan("actor_ppo", folders, settings, PROMPT + REPLY)
    before = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew (proc(5))
    roles = load_roles(actor, reward, reward, settings, 0, "cpu")
    prompts = torch.randint(2, VOCABULARY, (ROWS, PROMPT)).tolist()
    task = Task(
        prompts=[user_prompt("") for _ in prompts],
        prompt_ids=prompts,
        reward=lambda asked, texts, replies: torch.rand(len(replies)),
        decode=lambda replies: ["" for _ in replies],
        stop_ids=[-1],
        pad_id=0,
        max_new_tokens=REPLY,
    )
    train(
        ActorCritic(roles.policy, roles.critic),
        roles.reference,
        task,
        settings.trainer_config,
        accelerator=Accelerator(cpu=True),
        seed=0,
        progress=Progress("measured", lambda line: None),
    )
    print(plan.needed_bytes, peak_bytes("cpu") - before)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "lora")
