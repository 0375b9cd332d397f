"""The peak memory of PPO, with four full models and with LoRA on one base: a part of train.py."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator

from chatllama_pipeline.machine import peak_bytes
from chatllama_pipeline.models.adapters.lora import add_adapter, save_model
from chatllama_pipeline.models.chat.template import Example
from chatllama_pipeline.models.heads import load_actor, load_reward, score_rows
from chatllama_pipeline.models.memory.efficiency import checkpoint_activations
from chatllama_pipeline.models.memory.means import Means
from chatllama_pipeline.models.memory.plan import with_micro_batch
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import user_prompt
from chatllama_pipeline.settings import AssistantSettings, LoraSettings
from chatllama_pipeline.training.ppo.collect import Task
from chatllama_pipeline.training.ppo.loop import train
from chatllama_pipeline.training.ppo.model import ActorCritic
from chatllama_pipeline.training.ppo.roles import load_roles

ROWS, PROMPT, REPLY = 8, 64, 64
MIB = 2**20
# None of these settings changes a result.
MEMORY_CASES: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "the whole minibatch at once": {"micro_batch_size": ROWS},
    "micro_batch_size: 2": {"micro_batch_size": 2},
    "activation_checkpointing: true": {"checkpointing": True},
    "both": {"micro_batch_size": 2, "checkpointing": True},
}
QUIET = Progress("benchmark", lambda line: None)


def compare_memory(folder: Path, base: Path, repeats: int) -> None:
    """Print the peaks of four full models and of one base, under the same settings each time.

    The median of `repeats` processes: what the C library's heap keeps of freed tensors varies.
    """
    write_versions(folder, base)
    for case, keys in MEMORY_CASES.items():
        full, lora = (
            [
                child_peak({"folder": str(folder), "adapted": adapted, **keys})
                for _ in range(repeats)
            ]
            for adapted in (False, True)
        )
        middle = statistics.median(lora) / statistics.median(full)
        print(
            f"PPO, {ROWS} x {PROMPT + REPLY} tokens, {case}: four full models "
            f"{statistics.median(full):.0f} MiB, LoRA on one base {statistics.median(lora):.0f} "
            f"MiB ({min(lora):.0f} to {max(lora):.0f}), ratio {middle:.3f}",
            flush=True,
        )


def child_peak(arguments: dict[str, Any]) -> float:
    """`ppo_peak` in a process of its own."""
    child = [sys.executable, __file__, json.dumps(arguments)]
    found = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(found.stdout.splitlines()[-1]))


def write_versions(folder: Path, base: Path) -> None:
    """An SFT actor and a reward model as versions, each whole and as an adapter on `base`."""
    for kind, load in (("actor", load_actor), ("reward", load_reward)):
        torch.manual_seed(1)
        model = load(base, torch.float32)
        model.save_pretrained(folder / f"{kind}_full")
        add_adapter(model, LoraSettings(), f"{kind}_config", base, seed=1)
        save_model(model, folder / f"{kind}_lora")


def ppo_peak(
    folder: str, adapted: bool, checkpointing: bool = False, micro_batch_size: int | None = None
) -> float:
    """MiB above this process's imports at the peak of two PPO iterations."""
    before = psutil.Process().memory_info().rss
    forget_peak()
    kind = "lora" if adapted else "full"
    actor, scorer = Path(folder) / f"actor_{kind}", Path(folder) / f"reward_{kind}"
    settings = AssistantSettings.model_validate(
        {
            "actor_config": {"peft_enable": adapted},
            "trainer_config": {
                "update_timesteps": ROWS,
                "max_timesteps": ROWS,
                "num_episodes": 2,
                "epochs": 2,
                "update_kl_limit": 100.0,
                "micro_batch_size": micro_batch_size,
            },
        }
    )
    folders = {"policy": actor, "reference": actor, "critic": scorer, "reward": scorer}
    settings = with_micro_batch(folders, settings, Means(), PROMPT + REPLY)
    roles = load_roles(actor, scorer, scorer, settings, 0, "cpu")
    if checkpointing:
        for model in (roles.policy, roles.critic):
            checkpoint_activations(model, "trainer_config")
    train(
        ActorCritic(roles.policy, roles.critic),
        roles.reference,
        ppo_task(roles.reward),
        settings.trainer_config,
        accelerator=Accelerator(cpu=True),
        seed=0,
        progress=QUIET,
    )
    return (peak_bytes("cpu") - before) / MIB


def ppo_task(reward: Any) -> Task:
    """Prompts of `PROMPT` random tokens; nothing ends a reply, so each has `REPLY` tokens."""
    draw = torch.Generator().manual_seed(0)
    prompts = torch.randint(2, 8192, (ROWS, PROMPT), generator=draw).tolist()

    def score(asked: Any, texts: Any, replies: list[list[int]]) -> torch.Tensor:
        rows = [Example(p + r, PROMPT) for p, r in zip(prompts, replies, strict=True)]
        return score_rows(reward, rows, 0)

    return Task(
        prompts=[user_prompt("") for _ in prompts],
        prompt_ids=prompts,
        reward=score,
        decode=lambda replies: ["" for _ in replies],
        stop_ids=[-1],
        pad_id=0,
        max_new_tokens=REPLY,
    )


def forget_peak() -> None:
    """Let Linux count this process's largest resident set anew (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    quiet_transformers()
    print(json.dumps(ppo_peak(**json.loads(sys.argv[1]))))
