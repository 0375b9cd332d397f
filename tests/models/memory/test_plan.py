"""What SFT and the reward model take: counted by hand, told by phase, refused with the cure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from chatllama_pipeline.errors import CheckError
from chatllama_pipeline.machine import container_free_bytes
from chatllama_pipeline.models.memory.means import Means
from chatllama_pipeline.models.memory.plan import as_check, require_memory
from chatllama_pipeline.settings import AssistantSettings
from tests.models.memory.plans import SETTINGS, free_bytes, make_folder, plan_of

pytestmark = pytest.mark.usefixtures("allocator")


def test_sft_needs_sixteen_bytes_a_weight_and_its_activations(folder: Path) -> None:
    plan = plan_of("actor_sft", {"actor": folder}, SETTINGS)
    assert sum(plan.held.values()) == 16 * 1000
    # 2 rows x 10 tokens; a token keeps 3 layers x (10 x 6 + 4 x 10) + 3 x 50 logits = 450 floats,
    # and as much as one layer's passes in the backward pass.
    assert sum(plan.phases["training"].values()) == 20 * 550 * 4


def test_the_largest_phase_is_the_peak_and_is_named(folder: Path) -> None:
    plan = plan_of("actor_sft", {"actor": folder}, SETTINGS)
    # Validation reads 64 rows x 10 tokens at once: one layer's 100 floats, and 150 of logits.
    assert sum(plan.phases["validation"].values()) == 640 * 250 * 4
    assert plan.phase == "validation"
    assert plan.needed_bytes == sum(plan.parts.values()) == 16 * 1000 + 640 * 250 * 4
    whole = SETTINGS.actor_config.model_copy(update={"batch_size": 64, "micro_batch_size": 64})
    larger = SETTINGS.model_copy(update={"actor_config": whole})
    plan = plan_of("actor_sft", {"actor": folder}, larger)
    assert plan.phase == "training"
    assert "most in training (actor activations" in as_check("actor_sft", plan).description


def test_a_model_with_many_words_validates_on_few_rows_at_once(tmp_path: Path) -> None:
    config = {"hidden_size": 6, "intermediate_size": 10, "num_hidden_layers": 3}
    make_folder(tmp_path, {"a": [50, 10]})
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 50_000}))
    settings = AssistantSettings.model_validate({"actor_config": {"max_sequence_length": 256}})
    plan = plan_of("actor_sft", {"actor": tmp_path}, settings)
    # A row's logits alone are 256 x 3 x 50,000 floats = 154 MB: one row is all that is small.
    assert sum(plan.phases["validation"].values()) == 256 * (100 + 3 * 50_000) * 4


def test_a_pair_is_two_rows_and_a_reward_model_has_no_logits(folder: Path) -> None:
    plan = plan_of("reward_model", {"reward": folder}, SETTINGS)
    assert sum(plan.held.values()) == 16 * 1000
    assert plan.phases["training"] == {"reward activations": 2 * 2 * 10 * 400 * 4}
    assert plan.phases["scoring"] == {"layers": 64 * 10 * 100 * 4}


def test_holes_count_where_glibc_hands_out_memory(folder: Path, allocator: Path) -> None:
    allocator.write_text("7f00-7f01 r-xp 0 00:00 0 /usr/lib/libc.so.6\n")
    training = plan_of("actor_sft", {"actor": folder}, SETTINGS).phases["training"]
    assert training["holes between actor activations"] == training["actor activations"]
    long = SETTINGS.actor_config.model_copy(update={"max_sequence_length": 700_000})
    settings = SETTINGS.model_copy(update={"actor_config": long})
    # Tensors of 2 x 700,000 tokens x 6 floats are 33.6 MB, and mapped one by one.
    plan = plan_of("actor_sft", {"actor": folder}, settings)
    assert "holes between actor activations" not in plan.phases["training"]
    # Nor does the choice of rows, which makes results, go by who hands out the memory.
    assert "holes" not in str(plan_of("actor_sft", {"actor": folder}, SETTINGS, 1, "cuda"))


def test_checkpointing_keeps_a_layer_s_input_and_one_layer(folder: Path) -> None:
    settings = with_checkpointing(True)
    plan = plan_of("actor_sft", {"actor": folder}, settings)
    # 20 tokens x (3 layers x 6 + twice one layer's 10 x 6 + 4 x 10) and 20 x 3 x 50 logits.
    training = plan.phases["training"]
    assert training["actor activations"] == 20 * (18 + 200) * 4
    assert training["actor logits"] == 20 * 150 * 4


@pytest.mark.parametrize(
    ("asked", "free", "chosen"),
    [(None, 10**6, False), (None, 51_999, True), (False, 51_999, False), (True, 10**6, True)],
)
def test_checkpointing_is_chosen_where_memory_is_short_and_nothing_is_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, asked: bool | None, free: int, chosen: bool
) -> None:
    free_bytes(monkeypatch, free)
    plan = plan_of("actor_sft", {"actor": folder}, with_checkpointing(asked))
    assert plan.checkpointing is chosen


def with_checkpointing(asked: bool | None) -> AssistantSettings:
    actor = SETTINGS.actor_config.model_copy(update={"activation_checkpointing": asked})
    return SETTINGS.model_copy(update={"actor_config": actor})


def test_a_container_s_limit_counts_with_the_cache_it_can_give_back(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    assert container_free_bytes(tmp_path) == 1000 - 700 + 150
    (tmp_path / "memory.max").write_text("max\n")
    assert container_free_bytes(tmp_path) is None
    assert container_free_bytes(tmp_path / "nowhere") is None


def test_rows_shorter_than_allowed_need_less(folder: Path) -> None:
    plan = plan_of("actor_sft", {"actor": folder}, SETTINGS, longest_row=5)
    assert sum(plan.phases["training"].values()) == 10 * 550 * 4
    assert sum(plan.phases["validation"].values()) == 64 * 5 * 250 * 4


def test_a_plan_that_fits_passes_as_a_blocking_check(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_bytes(monkeypatch, 16 * 1000 + 640 * 250 * 4)
    check, _ = require_memory("actor_sft", {"actor": folder}, SETTINGS, Means())
    assert (check.name, check.passed, check.blocking) == ("memory_plan", True, True)


def test_a_plan_that_does_not_fit_says_what_to_lower(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 16,000 of weights, gradients and Adam, and at 64 rows of 10 tokens 3 x 50 logits a token, and
    # with checkpointing 3 layers' inputs of 6 and twice a layer's 100 floats; one byte is missing.
    free_bytes(monkeypatch, 16_000 + 640 * (150 + 18 + 200) * 4 - 1)
    rows = SETTINGS.actor_config.model_copy(update={"batch_size": 64, "micro_batch_size": 64})
    settings = SETTINGS.model_copy(update={"actor_config": rows})
    with pytest.raises(
        CheckError, match=r"actor_sft needs about .* GiB.*lower actor_config.micro_batch_size"
    ):
        require_memory("actor_sft", {"actor": folder}, settings, Means())


def test_the_plan_and_the_names_of_checks_need_no_torch() -> None:
    program = (
        "import sys; import chatllama_pipeline.models.memory.plan, chatllama_pipeline.training; "
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
