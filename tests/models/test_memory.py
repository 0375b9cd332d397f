from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from chatllama_pipeline.errors import CheckError
from chatllama_pipeline.models.memory import memory_check, memory_plan, model_size, require_memory
from chatllama_pipeline.settings import AssistantSettings

SETTINGS = AssistantSettings.model_validate(
    {
        "actor_config": {"batch_size": 8, "micro_batch_size": 2, "max_sequence_length": 10},
        "reward_config": {"batch_size": 2, "max_sequence_length": 10},
        "trainer_config": {"micro_batch_size": 4},
    }
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of 1,000 weights: hidden 6, feed-forward 10, 3 layers, 50 ids (header, no data)."""
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "a": {"dtype": "F32", "shape": [50, 10], "data_offsets": [0, 2000]},
            "b": {"dtype": "F32", "shape": [500], "data_offsets": [2000, 4000]},
        }
    ).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    config = {"hidden_size": 6, "intermediate_size": 10, "num_hidden_layers": 3, "vocab_size": 50}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def free_bytes(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    memory = namedtuple("memory", "available")(count)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


def test_sizes_come_from_headers_and_config(folder: Path) -> None:
    size = model_size(folder)
    assert (size.weights, size.layers, size.hidden, size.intermediate, size.vocabulary) == (
        1000,
        3,
        6,
        10,
        50,
    )


def test_sft_needs_sixteen_bytes_a_weight_and_its_activations(folder: Path) -> None:
    plan = memory_plan("actor_sft", {"actor": folder}, SETTINGS)
    # 2 rows x 10 tokens; a token keeps 3 layers x (10 x 6 + 4 x 10) + 3 x 50 logits = 450 floats.
    assert plan.needed_bytes == 16 * 1000 + 20 * 450 * 4


def test_a_pair_is_two_rows_and_a_reward_model_has_no_logits(folder: Path) -> None:
    plan = memory_plan("reward_model", {"reward": folder}, SETTINGS)
    assert plan.needed_bytes == 16 * 1000 + 2 * 2 * 10 * 300 * 4


def test_ppo_trains_two_roles_and_holds_two_frozen_ones(folder: Path) -> None:
    roles = dict.fromkeys(("policy", "reference", "critic", "reward"), folder)
    plan = memory_plan("actor_ppo", roles, SETTINGS)
    assert plan.needed_bytes == (16 + 16 + 4 + 4) * 1000 + 4 * 10 * (450 + 300) * 4


def test_rows_shorter_than_allowed_need_less(folder: Path) -> None:
    plan = memory_plan("actor_sft", {"actor": folder}, SETTINGS, longest_row=5)
    assert plan.needed_bytes == 16 * 1000 + 10 * 450 * 4


def test_a_plan_that_fits_passes_as_a_blocking_check(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_bytes(monkeypatch, 52_000)
    check = memory_check("actor_sft", {"actor": folder}, SETTINGS)
    assert (check.name, check.passed, check.blocking) == ("memory_plan", True, True)


def test_a_plan_that_does_not_fit_says_what_to_lower(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_bytes(monkeypatch, 51_999)
    with pytest.raises(
        CheckError, match=r"actor_sft needs about .* GiB .*lower actor_config.micro_batch_size"
    ):
        require_memory("actor_sft", {"actor": folder}, SETTINGS)


def test_the_plan_and_the_names_of_checks_need_no_torch() -> None:
    program = (
        "import sys; import chatllama_pipeline.models.memory, chatllama_pipeline.training; "
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
