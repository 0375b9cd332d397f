"""Settings that save memory or time: what they leave as it is, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer, BloomConfig, BloomForCausalLM

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.chat.template import Example
from chatllama_pipeline.models.heads import load_actor, load_reward
from chatllama_pipeline.models.memory.efficiency import checkpoint_activations, use_attention
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.schemas import ACTOR_SCHEMA
from chatllama_pipeline.settings import ActorSettings
from chatllama_pipeline.training.batches import Shares, StepBatches, bucketed
from chatllama_pipeline.training.reward.items import Pair, Scored
from chatllama_pipeline.training.reward.stage import collate_items, reward_loss_sum
from chatllama_pipeline.training.sft import stage as sft
from tests.tiny import QUIET, MakeSpec, row

EXAMPLES = [
    Example([3, 40, 41, 4, 50, 51, 1], 4),
    Example([3, 44, 4, 60, 1], 3),
    Example([3, 47, 48, 49, 4, 70, 1], 5),
    Example([3, 99, 4, 1], 3),
]
TRAINING = {"model": "local", "max_sequence_length": 64, "batch_size": 4, "lr": 0.01}
WORDS = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india"]


def gradients(model: Any, losses: list[torch.Tensor]) -> tuple[float, torch.Tensor]:
    """The sum of `losses` and its gradient, each loss backpropagated by itself."""
    model.zero_grad()
    for loss in losses:
        loss.backward()
    found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return sum(loss.item() for loss in losses), torch.cat(found)


def assert_alike(one: tuple[float, torch.Tensor], other: tuple[float, torch.Tensor]) -> None:
    assert other[0] == pytest.approx(one[0], rel=1e-5)
    assert (other[1] - one[1]).norm() < 1e-5 * one[1].norm()


@pytest.fixture
def inputs(tmp_path: Path, tiny_base_folder: Path, write_table: Any) -> dict[str, Path]:
    rows = [
        row(
            word,
            "validation" if word == "india" else "train",
            completion=" ".join([word] * (1 + number % 4)),
        )
        for number, word in enumerate(WORDS)
    ]
    table = write_table(tmp_path / "data", rows, ACTOR_SCHEMA)
    return {"actor_base": tiny_base_folder, "actor_training_data": table}


@pytest.fixture
def train(make_spec: MakeSpec, inputs: dict[str, Path]) -> Callable[..., Any]:
    """Runs SFT for eight steps with other settings; its weights' bytes, figures and warnings."""
    takes = iter("abcdefgh")

    def run(base: Path | None = None, **changes: Any) -> tuple[bytes, Any]:
        actor = TRAINING | {"max_steps": 8, "evaluations": 2, "checkpoint_steps": 3} | changes
        folders = inputs if base is None else {**inputs, "actor_base": base}
        spec = make_spec("actor_sft", {"actor_config": actor}, folders, next(takes))
        outcome = sft.run(spec, QUIET)
        written = next(Path(spec.output).glob("*model.safetensors"))
        return written.read_bytes(), outcome

    return run


def test_sft_s_micro_batches_change_neither_loss_nor_gradient(tiny_base_folder: Path) -> None:
    model = load_actor(tiny_base_folder, torch.float32)

    def losses(size: int) -> list[torch.Tensor]:
        parts = [EXAMPLES[i : i + size] for i in range(0, 4, size)]
        batches = [sft.collate_completions(part, 0) for part in parts]
        weight = sum(batch.pop("weight") for batch in batches)
        return [sft.completion_loss_sum(model, batch) / weight for batch in batches]

    assert_alike(gradients(model, losses(4)), gradients(model, losses(1)))


def test_the_reward_s_micro_batches_change_neither_loss_nor_gradient(
    tiny_base_folder: Path,
) -> None:
    torch.manual_seed(0)
    model = load_reward(tiny_base_folder, torch.float32)
    pairs = [Pair(EXAMPLES[0], EXAMPLES[1], 0.5), Pair(EXAMPLES[3], EXAMPLES[2], 0.0)]
    items = [*pairs, Scored(EXAMPLES[1], 0.7), Scored(EXAMPLES[2], -1.2)]
    loss_sum = partial(reward_loss_sum, centering_weight=0.01)

    def losses(size: int) -> list[torch.Tensor]:
        batches = [collate_items(model, items[i : i + size], 0) for i in range(0, 4, size)]
        weight = sum(batch.pop("weight") for batch in batches)
        return [loss_sum(model, batch) / weight for batch in batches]

    assert_alike(gradients(model, losses(4)), gradients(model, losses(1)))


def test_checkpointed_activations_give_the_same_gradients_in_eval_mode_too(
    tiny_base_folder: Path,
) -> None:
    batch = sft.collate_completions(EXAMPLES, 0)
    del batch["weight"]
    found = []
    for checkpointed in (False, True):
        model = load_actor(tiny_base_folder, torch.float32)
        calls: list[int] = []
        model.model.layers[0].mlp.register_forward_pre_hook(lambda *_, c=calls: c.append(1))
        if checkpointed:
            checkpoint_activations(model, "actor_config")
        found.append(gradients(model, [sft.completion_loss_sum(model, batch)]))
        assert len(calls) == (2 if checkpointed else 1)
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])


def test_a_checkpointed_training_writes_the_bytes_of_one_that_is_not(
    train: Callable[..., Any],
) -> None:
    # With an adapter, whose dropout must be drawn alike both times.
    plain, _ = train(peft_enable=True)
    checkpointed, _ = train(peft_enable=True, activation_checkpointing=True)
    assert plain == checkpointed


def test_a_model_without_layers_to_compute_again_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"actor_config.activation_checkpointing: Linear does"):
        checkpoint_activations(nn.Linear(1, 1), "actor_config")


def test_attention_is_what_was_asked_for_or_refused(
    tiny_base_folder: Path, train: Callable[..., Any]
) -> None:
    model = load_actor(tiny_base_folder, torch.float32)
    use_attention(model, ActorSettings(attention="eager"), "actor_config")
    assert model.config._attn_implementation == "eager"
    with pytest.raises(SettingsError, match=r"actor_config.attention: flash_attention_2 can't be"):
        use_attention(model, ActorSettings(attention="flash_attention_2"), "actor_config")
    _, eager = train(attention="eager")
    _, best = train()
    assert eager.metrics["loss"] == pytest.approx(best.metrics["loss"], rel=1e-3)


def test_a_packed_training_learns_what_an_unpacked_one_does(train: Callable[..., Any]) -> None:
    _, plain = train()
    _, packed = train(packing=True)
    assert packed.warnings == []
    for name in ("loss", "validation_loss"):
        assert packed.metrics[name] == pytest.approx(plain.metrics[name], rel=1e-3)


def test_a_family_that_would_mix_packed_rows_trains_unpacked_and_says_so(
    train: Callable[..., Any], tiny_base_folder: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base_folder)
    config = BloomConfig(
        vocab_size=len(tokenizer), hidden_size=32, n_layer=1, n_head=2, pad_token_id=0
    )
    torch.manual_seed(0)
    BloomForCausalLM(config).save_pretrained(tmp_path / "bloom")
    tokenizer.save_pretrained(tmp_path / "bloom")
    (plain, _), (packed, outcome) = (
        train(tmp_path / "bloom"),
        train(tmp_path / "bloom", packing=True),
    )
    assert packed == plain
    assert outcome.warnings[0].startswith(
        "actor_config.packing: BloomForCausalLM would mix packed conversations"
    )


def test_buckets_hold_rows_of_like_length_and_the_short_batch_stays_last() -> None:
    lengths = [5, 90, 7, 80, 6, 95, 4]
    order = bucketed([0, 1, 2, 3, 4, 5, 6], lengths, 2, torch.Generator().manual_seed(0))
    batches = [set(order[i : i + 2]) for i in range(0, 7, 2)]
    # By falling length: 5 1 | 3 2 | 4 0 | 6.
    assert sorted(batches[:3], key=min) == [{0, 4}, {1, 5}, {2, 3}]
    assert batches[3] == {6}


def test_bucketed_epochs_differ_and_go_on_from_any_step() -> None:
    shares, lengths = Shares(2, 2), list(range(10))
    whole = [m.rows for m in StepBatches(10, shares, 10, 3, 0, lengths)]
    assert sorted(row for rows in whole[:5] for row in rows) == list(range(10))
    assert whole[:5] != whole[5:]
    assert [m.rows for m in StepBatches(10, shares, 10, 3, 7, lengths)] == whole[7:]


def test_a_bucketed_training_killed_and_continued_ends_in_the_same_bytes(
    make_spec: MakeSpec, inputs: dict[str, Path]
) -> None:
    actor = TRAINING | {"max_steps": 8, "evaluations": 1, "length_bucketing": True}
    settings = {"actor_config": actor | {"checkpoint_steps": 3}}
    whole, cut = (make_spec("actor_sft", settings, inputs, take) for take in ("whole", "cut"))
    sft.run(whole, QUIET)

    def kill(line: str) -> None:
        if "step 5/" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sft.run(cut, Progress("sft", kill, every_seconds=0.0))
    sft.run(cut, QUIET)
    weights = [(Path(s.output) / "model.safetensors").read_bytes() for s in (whole, cut)]
    assert weights[0] == weights[1]


@pytest.mark.slow
# From inside torch, where it compiles.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_a_compiled_training_learns_what_an_uncompiled_one_does(train: Callable[..., Any]) -> None:
    _, plain = train()
    _, compiled = train(compile=True)
    assert compiled.metrics["loss"] == pytest.approx(plain.metrics["loss"], rel=1e-2)
