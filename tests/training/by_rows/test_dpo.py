"""The DPO stage: its loss against a slow reference, what it learns, its resume, its refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from chatllama_pipeline.errors import DataError
from chatllama_pipeline.models.chat.template import Example
from chatllama_pipeline.models.heads import load_actor
from chatllama_pipeline.records import StageSpec
from chatllama_pipeline.schemas import PREFERENCE_SCHEMA
from chatllama_pipeline.settings import AssistantSettings, DpoSettings
from chatllama_pipeline.training.dpo.equations import (
    PairNats,
    imitation_losses,
    losses,
    margins,
)
from chatllama_pipeline.training.dpo.pairs import DpoPair, all_nats, collate_pairs, pair_nats
from chatllama_pipeline.training.dpo.stage import dpo_loss_sum, run
from tests.tiny import QUIET, WORDS, pair
from tests.training.by_rows.improving import TRAINING, improved_by
from tests.training.resume.kills import assert_same_when_killed

DPO = {**TRAINING, "batch_size": 4, "rpo_alpha": 0.0}
SETTINGS = improved_by("dpo", DPO)
WITH_ADAPTER = improved_by("dpo", DPO, adapter=True)


def doubled(word: str, split: str) -> dict[str, Any]:
    """A pair whose better reply is its word twice."""
    return pair(word, f"{word} {word}", "zulu", split)


@pytest.fixture(scope="session")
def rows_folder(tmp_path_factory: pytest.TempPathFactory, write_table: Any) -> Path:
    rows = [doubled(word, "train") for word in WORDS] + [doubled("kilo", "validation")]
    rows.append(doubled("x" * 99, "train"))
    folder: Path = write_table(tmp_path_factory.mktemp("pairs"), rows, PREFERENCE_SCHEMA)
    return folder


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_the_paper(smoothing: float) -> None:
    policy = [(-4.0, -6.5), (-12.0, -3.0), (-1.0, -1.0)]
    reference = [(-5.0, -6.0), (-11.0, -3.5), (-1.0, -1.0)]
    expected = []
    for (chosen, rejected), (chosen_ref, rejected_ref) in zip(policy, reference, strict=True):
        margin = 0.3 * ((chosen - chosen_ref) - (rejected - rejected_ref))
        right = 1 / (1 + math.exp(-margin))
        loss = -(1 - smoothing) * math.log(right) - smoothing * math.log(1 - right)
        expected.append(loss)
    nats = [
        PairNats(*torch.tensor(rows, dtype=torch.float64).unbind(1)) for rows in (policy, reference)
    ]
    found = losses(margins(*nats, beta=0.3), label_smoothing=smoothing)
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    assert found[2].item() == pytest.approx(math.log(2), rel=1e-12)


# Nats of chosen and rejected replies; below, what trl 1.16.0's DPOTrainer._compute_loss gives.
POLICY = [(-4.0, -6.5), (-12.0, -3.0), (-1.0, -1.0), (-7.5, -9.25)]
REFERENCE = [(-5.0, -6.0), (-11.0, -3.5), (-1.0, -1.0), (-6.0, -4.0)]
CHOSEN_TOKENS = [4, 4, 2, 3]
# loss_type sigmoid, by its beta.
SIGMOID = {0.1: 0.6520461350697124, 0.3: 0.6026988022007924}
# Pair by pair, beta .3: aot with label_smoothing .1, which of one pair sorts nothing; sigmoid with
# sft at a weight of .5, which is trl's name for what rpo_alpha adds.
SMOOTHED = [0.5382489459974549, 0.898248945997455, 0.6931471805599453, 0.3936501362483148]
IMITATED = [0.993248945997455, 2.443248945997455, 0.9431471805599453, 1.5311501362483149]


def test_the_loss_is_trls() -> None:
    policy, reference = (
        PairNats(*torch.tensor(rows, dtype=torch.float64).unbind(1)) for rows in (POLICY, REFERENCE)
    )

    def found(beta: float, smoothing: float) -> torch.Tensor:
        return losses(margins(policy, reference, beta=beta), label_smoothing=smoothing)

    for beta, expected in SIGMOID.items():
        assert found(beta, 0.0).mean().item() == pytest.approx(expected, rel=1e-12)
    assert found(0.3, 0.1).tolist() == pytest.approx(SMOOTHED, rel=1e-12)
    imitated = imitation_losses(policy.chosen, torch.tensor(CHOSEN_TOKENS))
    assert (found(0.3, 0.0) + 0.5 * imitated).tolist() == pytest.approx(IMITATED, rel=1e-12)


def test_the_gradient_is_that_of_the_paper() -> None:
    reference = PairNats(torch.zeros(2).double(), torch.zeros(2).double())
    chosen = torch.tensor([-1.0, 2.0], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([0.5, -1.0], dtype=torch.float64, requires_grad=True)
    loss = losses(margins(PairNats(chosen, rejected), reference, beta=0.5), label_smoothing=0.0)
    loss.sum().backward()  # type: ignore[no-untyped-call]
    for i in range(2):  # beta times how wrong the implicit rewards are
        wrong = 1 / (1 + math.exp(0.5 * (chosen[i].item() - rejected[i].item())))
        assert chosen.grad is not None and rejected.grad is not None
        assert chosen.grad[i].item() == pytest.approx(-0.5 * wrong, rel=1e-12)
        assert rejected.grad[i].item() == pytest.approx(0.5 * wrong, rel=1e-12)


def test_imitating_the_chosen_reply_costs_its_nats_a_token() -> None:
    chosen = torch.tensor([-6.0, -1.0], dtype=torch.float64)
    assert imitation_losses(chosen, torch.tensor([4, 2])).tolist() == [1.5, 0.5]
    # A reply behind three tokens of a prompt, its end among its own three.
    assert DpoPair(Example([3, 40, 4, 50, 51, 1], 3), Example([3, 1], 1)).chosen_tokens == 3


def test_rpo_alpha_adds_what_sft_would_lose_by_the_chosen_replies(tiny_base_folder: Path) -> None:
    model = load_actor(tiny_base_folder, torch.float32)
    pairs = [
        DpoPair(Example([3, 40, 41, 4, 50, 51, 1], 4), Example([3, 40, 41, 4, 60, 1], 4), -9.0, -8),
        DpoPair(Example([3, 4, 1], 2), Example([3, 4, 70, 71, 72, 73, 1], 2), -5.0, -20.0),
    ]
    batch = collate_pairs(pairs, pad_id=0)
    del batch["weight"]
    plain, added = (
        dpo_loss_sum(model, batch, DpoSettings(rpo_alpha=alpha)).item() for alpha in (0.0, 0.5)
    )
    chosen = pair_nats(model, batch).chosen.tolist()
    assert added - plain == pytest.approx(0.5 * -(chosen[0] / 3 + chosen[1] / 1), rel=1e-4)


def test_a_reply_s_nats_are_of_its_own_tokens_whatever_stands_beside_it(
    tiny_base_folder: Path,
) -> None:
    model = load_actor(tiny_base_folder, torch.float32)
    rows = [
        (Example([3, 40, 41, 4, 50, 51, 1], 4), Example([3, 40, 41, 4, 60, 1], 4)),
        (Example([3, 4, 1], 2), Example([3, 4, 70, 71, 72, 73, 74, 75, 1], 2)),
        (Example([3, 45, 4, 52, 1], 3), Example([3, 45, 4, 1], 3)),
    ]

    def alone(example: Example) -> float:
        logp = model(torch.tensor([example.ids])).logits[0].log_softmax(-1).detach()
        columns = range(example.prompt_length, len(example.ids))
        return sum(float(logp[column - 1, example.ids[column]]) for column in columns)

    pairs = [DpoPair(chosen, rejected) for chosen, rejected in rows]
    batch = collate_pairs(pairs, pad_id=0)
    assert batch.pop("weight") == 3
    for found in (pair_nats(model, batch), all_nats(model, pairs, 0, "reads")):
        assert found.chosen.tolist() == pytest.approx([alone(c) for c, _ in rows], rel=1e-4)
        assert found.rejected.tolist() == pytest.approx([alone(r) for _, r in rows], rel=1e-4)


@pytest.mark.parametrize("adapter", [False, True], ids=["whole", "lora"])
def test_pairs_alone_teach_what_was_chosen(
    spec: Callable[..., StageSpec], adapted_folder: Path, adapter: bool
) -> None:
    job = spec(settings=WITH_ADAPTER, actor_sft=adapted_folder) if adapter else spec()
    outcome = run(job, QUIET)
    curves = {curve.name: curve.points for curve in outcome.curves}
    # Before the first step the policy is the reference, with an adapter and its dropout too.
    assert curves["loss"][0][1] == pytest.approx(math.log(2), abs=1e-5)
    assert curves["validation_loss"][-1][1] < 0.65
    assert curves["validation_accuracy"][-1][1] == 1.0
    assert curves["validation_margin"][-1][1] > curves["validation_margin"][0][1] > 0
    assert [(check.name, check.passed) for check in outcome.checks] == [
        ("memory_plan", True),
        ("finite_loss", True),
        ("collapse", True),
        ("reward_cheats", True),
        ("reward_hacking", True),
    ]
    assert (outcome.rows, outcome.metrics["dropped_too_long"]) == (8, 1)
    assert outcome.warnings[0].startswith("1 training and 0 validation pairs are longer than")
    assert not (Path(job.output) / "critic").exists()
    load_actor(job.output, torch.float32)
    if adapter:
        before, after = (
            load_file(folder / "adapter_model.safetensors")
            for folder in (adapted_folder, Path(job.output))
        )
        assert any(not torch.equal(before[name], after[name]) for name in before)
        for folder in (adapted_folder, Path(job.output)):
            assert '"lora_dropout": 0.1' in (folder / "adapter_config.json").read_text()
    else:
        assert AutoTokenizer.from_pretrained(job.output).chat_template is not None


@pytest.mark.parametrize("adapter", [False, True], ids=["whole", "lora"])
def test_a_killed_training_continues_to_the_same_payload(
    spec: Callable[..., StageSpec], adapted_folder: Path, adapter: bool
) -> None:
    settings = WITH_ADAPTER if adapter else SETTINGS
    inputs = {"actor_sft": adapted_folder} if adapter else {}
    whole, cut = (spec(take, settings, **inputs) for take in ("whole", "cut"))
    assert_same_when_killed(run, whole, cut, at="step 7/12", continued="after step 5")


def test_micro_batches_change_nothing_but_memory(spec: Callable[..., StageSpec]) -> None:
    found = []
    for take, micro in (("whole", 4), ("single", 1)):
        changed = {**DPO, "micro_batch_size": micro, "lr": 1e-4}
        outcome = run(spec(take, {**SETTINGS, "dpo_config": changed}), QUIET)
        found.append(dict(outcome.curves[0].points))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_dpo_without_a_pair_is_refused(
    spec: Callable[..., StageSpec], tmp_path: Path, write_table: Any
) -> None:
    none = write_table(tmp_path / "none", [doubled("kilo", "validation")], PREFERENCE_SCHEMA)
    with pytest.raises(DataError, match="dpo learns from pairs alone, and there is no pair"):
        run(spec(preference_data=none), QUIET)
    long = write_table(tmp_path / "long", [doubled("x" * 99, "train")], PREFERENCE_SCHEMA)
    with pytest.raises(DataError, match=r"none of the 1 training pairs fits .* raise the length"):
        run(spec("long", preference_data=long), QUIET)


def test_dpo_is_planned_with_two_replies_a_row_and_no_other_model(tiny_base_folder: Path) -> None:
    from chatllama_pipeline.models.memory.means import Means
    from chatllama_pipeline.models.memory.plan import memory_plan

    settings = AssistantSettings.model_validate(SETTINGS)
    plan = memory_plan("actor_dpo", {"policy": tiny_base_folder}, settings, Means(), 64)
    assert set(plan.held) == {"policy weights", "policy gradients and Adam"}
    half = AssistantSettings.model_validate(
        {**SETTINGS, "dpo_config": {**DPO, "micro_batch_size": 2}}
    )
    less = memory_plan("actor_dpo", {"policy": tiny_base_folder}, half, Means(), 64)
    assert plan.phases["training"]["policy logits"] == 2 * less.phases["training"]["policy logits"]
    sft = memory_plan("actor_sft", {"actor": tiny_base_folder}, AssistantSettings(), Means(), 64)
    # Eight conversations a step there, four pairs here.
    assert sft.phases["training"]["actor logits"] == plan.phases["training"]["policy logits"]
