"""Plans of tiny models whose weights are counted by hand."""

from __future__ import annotations

import json
import struct
from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from chatllama_pipeline.models.memory.means import Means
from chatllama_pipeline.models.memory.plan import MemoryPlan, memory_plan
from chatllama_pipeline.settings import AssistantSettings

SETTINGS = AssistantSettings.model_validate(
    {
        "actor_config": {"batch_size": 8, "micro_batch_size": 2, "max_sequence_length": 10},
        "reward_config": {"batch_size": 2, "max_sequence_length": 10},
        "trainer_config": {"micro_batch_size": 4},
    }
)


def make_folder(folder: Path, shapes: dict[str, list[int]]) -> Path:
    """Hidden 6, feed-forward 10, 3 layers, 50 ids, and a header of those tensors without data."""
    tensors = {name: {"dtype": "F32", "shape": shape} for name, shape in shapes.items()}
    header = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    config = {"hidden_size": 6, "intermediate_size": 10, "num_hidden_layers": 3, "vocab_size": 50}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def plan_of(
    stage: str,
    folders: dict[str, Path],
    settings: AssistantSettings,
    longest_row: int | None = None,
    device: str = "cpu",
) -> MemoryPlan:
    """The plan by the means of this machine."""
    return memory_plan(stage, folders, settings, Means.of(stage, settings, device), longest_row)


def free_bytes(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    memory = namedtuple("memory", "available")(count)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
