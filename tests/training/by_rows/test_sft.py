from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from chatllama_pipeline.data.spill.rows import SpilledRows
from chatllama_pipeline.errors import CheckError, DataError
from chatllama_pipeline.models.chat.template import Example
from chatllama_pipeline.models.heads import load_actor
from chatllama_pipeline.progress import Progress, listening
from chatllama_pipeline.records import StageSpec
from chatllama_pipeline.schemas import ACTOR_SCHEMA
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.training.sft.stage import (
    collate_completions,
    completion_loss_sum,
    prepare,
    run,
)
from tests.tiny import QUIET, WORDS, MakeSpec, row

TRAINING = {
    "model": "local",
    "max_sequence_length": 64,
    "batch_size": 4,
    "lr": 0.01,
    "max_steps": 12,
    "evaluations": 3,
    "checkpoint_steps": 5,
}


def conversation(word: str, split: str) -> dict[str, Any]:
    return row(word, split, completion=" ".join([word] * (1 + len(word) % 3)))


@pytest.fixture
def inputs(tmp_path: Path, tiny_base_folder: Path, write_table: Any) -> dict[str, Path]:
    rows = [conversation(word, "train") for word in WORDS]
    rows += [conversation("alpha", "validation"), conversation("x" * 99, "train")]
    table = write_table(tmp_path / "data", rows, ACTOR_SCHEMA)
    return {"actor_base": tiny_base_folder, "actor_training_data": table}


def weights(spec: StageSpec) -> dict[str, torch.Tensor]:
    return load_file(Path(spec.output) / "model.safetensors")


def test_the_loss_counts_completion_tokens_alone(tiny_base_folder: Path) -> None:
    model = load_actor(tiny_base_folder, torch.float32)
    examples = [Example([3, 40, 41, 4, 50, 51, 1], 4), Example([3, 40, 4, 60, 1], 3)]
    batch = collate_completions(examples, pad_id=0)
    assert batch.pop("weight") == 5  # 50 51 1 and 60 1
    expected = 0.0
    for example in examples:
        logp = model(torch.tensor([example.ids])).logits[0].log_softmax(-1).detach()
        for column in range(example.prompt_length, len(example.ids)):
            expected -= float(logp[column - 1, example.ids[column]])
    assert completion_loss_sum(model, batch).item() == pytest.approx(expected, rel=1e-5)


def test_rows_that_wait_on_disk_train_the_same_weights(
    make_spec: MakeSpec, inputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = {**TRAINING, "max_steps": 4, "length_bucketing": True}
    kept: list[bool] = []
    take = SpilledRows.__getitem__

    def taken(rows: Any, place: Any) -> Any:
        kept.append(rows._bytes._file is None)
        return take(rows, place)

    monkeypatch.setattr(SpilledRows, "__getitem__", taken)
    specs = [make_spec("actor_sft", {"actor_config": actor}, inputs, name) for name in "ab"]
    run(specs[0], QUIET)
    assert all(kept)
    kept.clear()
    monkeypatch.setattr("chatllama_pipeline.data.spill.column.MOST_BYTES", 0)
    run(specs[1], QUIET)
    assert kept and not any(kept)
    first, second = map(weights, specs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_training_lowers_the_validation_loss_and_writes_a_model_with_curves(
    make_spec: MakeSpec, inputs: Any
) -> None:
    lines: list[str] = []
    spec = make_spec("actor_sft", {"actor_config": {**TRAINING, "max_steps": 30}}, inputs)
    progress = Progress("sft", lines.append, every_seconds=0, first_seconds=0)
    with listening(progress):
        outcome = run(spec, progress)
    curves = {curve.name: curve.points for curve in outcome.curves}
    assert [step for step, _ in curves["validation_loss"]] == [10.0, 20.0, 30.0]
    assert curves["validation_loss"][-1][1] < curves["loss"][0][1] - 1
    assert outcome.metrics["validation_loss"] == curves["validation_loss"][-1][1]
    assert [(check.name, check.passed) for check in outcome.checks] == [
        ("memory_plan", True),
        ("finite_loss", True),
    ]
    written = json.loads((Path(spec.output) / "curves.json").read_text())
    assert written["validation_loss"] == [list(p) for p in curves["validation_loss"]]
    assert load_actor(spec.output, torch.float32).config.use_cache
    assert AutoTokenizer.from_pretrained(spec.output).chat_template is not None
    for said in ("step 30/30  loss", "tokenizes train rows: ", "validates on "):
        assert any(said in line for line in lines), said


def test_the_same_spec_writes_the_same_bytes(make_spec: MakeSpec, inputs: Any) -> None:
    specs = [make_spec("actor_sft", {"actor_config": TRAINING}, inputs, take) for take in "ab"]
    for spec in specs:
        run(spec, QUIET)
    first, second = (
        {path.name: path.read_bytes() for path in Path(spec.output).iterdir()} for spec in specs
    )
    assert first == second


def test_micro_batches_change_nothing_but_memory(make_spec: MakeSpec, inputs: Any) -> None:
    trained = []
    for take, micro in (("whole", 4), ("single", 1)):
        settings = {"actor_config": {**TRAINING, "lr": 1e-3, "micro_batch_size": micro}}
        spec = make_spec("actor_sft", settings, inputs, take)
        outcome = run(spec, QUIET)
        trained.append((weights(spec), dict(outcome.curves[0].points)))
    assert trained[0][1] == pytest.approx(trained[1][1], rel=1e-5)
    for name, value in trained[0][0].items():
        torch.testing.assert_close(trained[1][0][name], value, atol=2e-5, rtol=1e-4)


def test_a_row_too_long_is_left_out_and_counted(make_spec: MakeSpec, inputs: Any) -> None:
    outcome = run(make_spec("actor_sft", {"actor_config": TRAINING}, inputs), QUIET)
    assert outcome.rows == 8
    assert outcome.metrics["dropped_too_long"] == 1
    assert "1 training and 0 validation rows are longer than" in outcome.warnings[0]


def test_what_ratings_became_is_read_as_often_as_is_set_in_steps_of_its_own(
    make_spec: MakeSpec, inputs: Any, write_table: Any, tmp_path: Path
) -> None:
    rows = [conversation(word, "train") for word in WORDS]
    rated = {**conversation("india", "train"), "source": "feedback"}
    too_long = {**rated, "completion": "x" * 99}
    more = {"feedback": {"weight": 4}}
    for take, each, steps, read, dropped in (
        ("none", rows, 12, 8, 0),
        ("one", [*rows, rated, too_long], 18, 12, 1),
        # As many as all others are read once, and more add no more than as many steps again.
        ("many", [*rows, *({**rated, "completion": word} for word in WORDS)], 24, 16, 0),
        ("more", [*rows, *({**rated, "completion": word} for word in WORDS * 2)], 24, 24, 0),
    ):
        table = write_table(tmp_path / take, each, ACTOR_SCHEMA)
        given = {**inputs, "actor_training_data": table}
        spec = make_spec("actor_sft", {"actor_config": TRAINING, **more}, given, take)
        plan, found = prepare(spec, AssistantSettings.of_stage(spec), QUIET)
        assert (plan.steps, len(found.examples), found.dropped) == (steps, read, dropped), take
    by_epochs = {"actor_config": {**TRAINING, "max_steps": None, "epochs": 2}, **more}
    spec = make_spec("actor_sft", by_epochs, given, "epochs")
    assert prepare(spec, AssistantSettings.of_stage(spec), QUIET)[0].steps == 12


def test_rows_that_are_all_too_long_are_an_error(make_spec: MakeSpec, inputs: Any) -> None:
    settings = {"actor_config": {**TRAINING, "max_sequence_length": 3}}
    with pytest.raises(DataError, match=r"none of the 9 train rows fits in 3 tokens"):
        run(make_spec("actor_sft", settings, inputs), QUIET)


def test_frozen_embeddings_stay_and_the_rest_learns(make_spec: MakeSpec, inputs: Any) -> None:
    spec = make_spec("actor_sft", {"actor_config": {**TRAINING, "froze_embeddings": True}}, inputs)
    run(spec, QUIET)
    before, after = load_file(inputs["actor_base"] / "model.safetensors"), weights(spec)
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert not torch.equal(before["model.norm.weight"], after["model.norm.weight"])


def test_a_model_that_cannot_fit_is_refused_before_training(
    make_spec: MakeSpec, inputs: Any
) -> None:
    settings = {"actor_config": {**TRAINING, "batch_size": 10**9}}
    with pytest.raises(CheckError, match=r"lower actor_config\.micro_batch_size"):
        run(make_spec("actor_sft", settings, inputs), QUIET)


def test_a_loss_that_is_not_finite_fails_its_check_and_saves_nothing(
    make_spec: MakeSpec, inputs: Any, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(inputs["actor_base"], broken)
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    spec = make_spec("actor_sft", {"actor_config": TRAINING}, {**inputs, "actor_base": broken})
    check = run(spec, QUIET).checks[-1]
    assert (check.name, check.passed, check.blocking) == ("finite_loss", False, True)
    assert "5 of 5 optimizer steps" in check.description
    assert list(Path(spec.output).iterdir()) == []


def test_a_killed_training_continues_and_ends_like_one_that_was_not(
    make_spec: MakeSpec, inputs: Any
) -> None:
    whole = make_spec("actor_sft", {"actor_config": TRAINING}, inputs, "whole")
    run(whole, QUIET)
    killed = make_spec("actor_sft", {"actor_config": TRAINING}, inputs, "killed")

    def kill(line: str) -> None:
        if "step 8/" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(killed, Progress("sft", kill, every_seconds=0.0))
    lines: list[str] = []
    run(killed, Progress("sft", lines.append, every_seconds=0.0))
    steps = [line for line in lines if "sft: step" in line]
    assert "step 6/12" in steps[0]  # the newest state was of step 5
    for path in Path(whole.output).iterdir():
        assert path.read_bytes() == (Path(killed.output) / path.name).read_bytes(), path.name


def test_a_dataset_too_small_to_validate_on_still_trains(
    make_spec: MakeSpec, tmp_path: Path, tiny_base_folder: Path, write_table: Any
) -> None:
    table = write_table(
        tmp_path / "small", [conversation(word, "train") for word in WORDS], ACTOR_SCHEMA
    )
    inputs = {"actor_base": tiny_base_folder, "actor_training_data": table}
    outcome = run(make_spec("actor_sft", {"actor_config": TRAINING}, inputs), QUIET)
    assert [curve.name for curve in outcome.curves] == ["loss"]
    assert "validation_loss" not in outcome.metrics
