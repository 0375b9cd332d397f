"""What the memory plan says of the original's hardware table.

    python benchmarks/memory/hardware.py

Each row is planned as the stages plan it, from the shapes of the published models (their
weights are neither needed nor read). Estimates: nothing here was run on that hardware.
"""

from __future__ import annotations

import json
import struct
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, OPTConfig

from chatllama_pipeline.models.memory.means import Means
from chatllama_pipeline.models.memory.plan import GIB, memory_plan
from chatllama_pipeline.settings import AssistantSettings

# Name: hidden size, layers, heads, feed-forward size, width of the embeddings.
SHAPES = {
    "opt-125m": (768, 12, 12, 3072, 768),
    "opt-1.3b": (2048, 24, 32, 8192, 2048),
    "opt-2.7b": (2560, 32, 32, 10240, 2560),
    "opt-6.7b": (4096, 32, 32, 16384, 4096),
    "opt-13b": (5120, 40, 40, 20480, 5120),
    "opt-20b-shaped": (6144, 44, 64, 24576, 6144),
}
LENGTHS = {"max_sequence_length": 1024, "max_tokens": 256}
LORA: dict[str, Any] = {"peft_enable": True}
HALF = {"precision": "bfloat16"}
# GPU memory in GiB, actor, reward model, what the sections say beside one row at a time.
ROWS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("24", "opt-1.3b", "opt-125m", {}),
    ("24", "opt-1.3b", "opt-125m", LORA),
    ("24", "opt-2.7b", "opt-2.7b", LORA),
    ("80", "opt-1.3b", "opt-125m", {}),
    ("80", "opt-2.7b", "opt-125m", {}),
    ("80", "opt-6.7b", "opt-6.7b", LORA),
    ("80", "opt-13b", "opt-13b", LORA),
    ("80", "opt-20b-shaped", "opt-20b-shaped", LORA),
]


def shape_folder(name: str, root: Path) -> Path:
    """A model folder of that shape: config, and the header of weights that aren't there."""
    folder = root / name
    if folder.is_dir():
        return folder
    hidden, layers, heads, ffn, embedding = SHAPES[name]
    config = OPTConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        ffn_dim=ffn,
        word_embed_proj_dim=embedding,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    header = {
        name: {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [0, 0]}
        for name, tensor in model.named_parameters()
    }
    folder.mkdir()
    written = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(written)) + written)
    config.save_pretrained(folder)
    return folder


def needed(actor: Path, reward: Path, extra: dict[str, Any]) -> dict[str, float]:
    """GiB that each stage needs for one row at a time."""
    section = {**LENGTHS, "batch_size": 8, "micro_batch_size": 1, **extra}
    trainer = {"batch_size": 8, "micro_batch_size": 1, "activation_checkpointing": True}
    scoring = {name: value for name, value in section.items() if name != "max_tokens"}
    settings = AssistantSettings.model_validate(
        {
            "actor_config": {**section, "activation_checkpointing": True},
            "reward_config": {**scoring, "activation_checkpointing": True},
            "trainer_config": trainer,
        }
    )
    roles = {"policy": actor, "reference": actor, "critic": reward, "reward": reward}
    stages = {"actor_sft": {"actor": actor}, "reward_model": {"reward": reward}, "actor_ppo": roles}
    return {
        stage: memory_plan(stage, folders, settings, Means()).needed_bytes / GIB
        for stage, folders in stages.items()
    }


def main() -> None:
    print(f"{'GiB':>4} {'actor':<15} {'reward':<15} {'settings':<28} SFT  reward  PPO")
    with tempfile.TemporaryDirectory() as root:
        for memory, actor, reward, extra in ROWS:
            folders = (shape_folder(name, Path(root)) for name in (actor, reward))
            need = needed(*folders, extra)
            told = "  ".join(f"{need[stage]:5.1f}" for stage in need)
            print(f"{memory:>4} {actor:<15} {reward:<15} {json.dumps(extra):<28} {told}")


if __name__ == "__main__":
    main()
