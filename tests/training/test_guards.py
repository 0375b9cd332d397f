"""What ends a training, or keeps it going: seen on tiny models, and on figures by hand."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from chatllama_pipeline.errors import StoppedError, StoreError
from chatllama_pipeline.models.heads import load_actor
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import StageSpec
from chatllama_pipeline.schemas import ACTOR_SCHEMA
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.training.course import Task
from chatllama_pipeline.training.guards import Best, Collapse, Guard
from chatllama_pipeline.training.plan import TrainingPlan, begin, decide
from chatllama_pipeline.training.resume import state as resume
from chatllama_pipeline.training.sft.stage import run
from chatllama_pipeline.training.stopping import SIGNALS, StopSignals
from chatllama_pipeline.training.trainer import train
from tests.tiny import QUIET, WORDS, MakeSpec, row

SFT = {
    "model": "local",
    "max_sequence_length": 64,
    "batch_size": 4,
    "lr": 0.01,
    "max_steps": 12,
    "evaluations": 6,
    "checkpoint_steps": 100,
}


@pytest.fixture
def sft_spec(
    make_spec: MakeSpec, tmp_path: Path, tiny_base_folder: Path, write_table: Any
) -> Callable[..., StageSpec]:
    rows = [
        row(word, split, completion=word)
        for word, split in zip([*WORDS, "india"], ["train"] * 8 + ["validation"], strict=True)
    ]
    table = write_table(tmp_path / "data", rows, ACTOR_SCHEMA)
    inputs = {"actor_base": tiny_base_folder, "actor_training_data": table}

    def make(take: str = "a", **changes: Any) -> StageSpec:
        return make_spec("actor_sft", {"actor_config": SFT | changes}, inputs, take)

    return make


def planned(spec: StageSpec) -> TrainingPlan:
    """The plan of a training on eight rows of one token."""
    base = Path(spec.inputs["actor_base"])
    known = begin(spec, AssistantSettings.of_stage(spec), base)
    return decide(known, {"actor": base}, longest=1, rows=8)


def counting_task(loss_sum: Callable[[Any, dict[str, Any]], torch.Tensor], figures: Any) -> Task:
    """Eight rows of one number each; `figures()` gives the validation figure of each pass."""
    return Task(
        rows=[float(row) for row in range(8)],
        collate=lambda part: {"x": torch.tensor(part), "weight": len(part)},
        loss_sum=loss_sum,
        validate=lambda model: {"validation_loss": next(figures)},
        judged_by=("validation_loss", False),
    )


def squared(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    return ((model.weight[0, 0] - batch["x"]) ** 2).sum()


def one_weight() -> Any:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1.0)
    return model


def test_a_single_step_that_is_not_finite_moves_no_weight_and_is_counted(sft_spec: Any) -> None:
    seen: list[float] = []

    def accident(model: Any, batch: dict[str, Any]) -> torch.Tensor:
        seen.append(model.weight.item())
        return squared(model, batch) * (float("nan") if len(seen) == 3 else 1.0)

    model = one_weight()
    training = train(
        model, counting_task(accident, iter([1.0] * 6)), planned(sft_spec(max_steps=5)), QUIET
    )
    assert seen[3] == seen[2] != seen[1]
    assert model.weight.item() != seen[3]
    assert training.finite_loss.passed
    assert training.finite_loss.description.startswith("1 of 5 optimizer steps had a non-finite")
    losses = {c.name: c.points for c in training.curves}["loss"]
    assert [step for step, _ in losses] == [1, 2, 4, 5]


def test_five_in_a_row_end_the_training_with_what_to_try(sft_spec: Any) -> None:
    task = counting_task(lambda m, b: squared(m, b) * float("inf"), iter([1.0] * 6))
    check = train(one_weight(), task, planned(sft_spec()), QUIET).finite_loss
    assert not check.passed
    assert "5 of 5 optimizer steps" in check.description
    assert "lower lr (0.01) or max_grad_norm (1.0)" in check.description


def test_validation_without_progress_ends_the_training_early(sft_spec: Any) -> None:
    # Passes at steps 2, 4, 6, ...: the second is the best, and two worse ones follow.
    task = counting_task(squared, iter([3.0, 1.0, 2.0, 1.0, 0.5]))
    training = train(one_weight(), task, planned(sft_spec(early_stopping=2)), QUIET)
    assert training.steps == 8
    assert training.warnings == [
        "stopped early after step 8 of 12: validation_loss has not been better for 2 validation "
        "passes than at step 4"
    ]


def test_the_best_weights_are_kept_through_a_stop_and_published(sft_spec: Any) -> None:
    figures = [3.0, 1.0, 2.0, 5.0, 4.0, 6.0]
    whole, weights = one_weight(), []

    def remember(model: Any, batch: dict[str, Any]) -> torch.Tensor:
        weights.append(model.weight.item())
        return squared(model, batch)

    spec = sft_spec("whole", keep_weights="best")
    train(whole, counting_task(remember, iter(figures)), planned(spec), QUIET)
    # The second pass follows step 4, so its weights are those that step 5 begins with.
    assert whole.weight.item() == weights[4] != weights[-1]

    cut, cut_spec = one_weight(), sft_spec("cut", keep_weights="best")
    with pytest.raises(StoppedError):
        train(cut, counting_task(squared, iter(figures)), planned(cut_spec), stop_at("step 7/"))
    again = one_weight()
    train(again, counting_task(squared, iter(figures[3:])), planned(cut_spec), QUIET)
    assert again.weight.item() == whole.weight.item()


def stop_at(text: str) -> Progress:
    """A progress that sends this process SIGTERM at the line with `text`."""

    def listen(line: str) -> None:
        if text in line:
            os.kill(os.getpid(), signal.SIGTERM)

    return Progress("test", listen, every_seconds=0.0)


def test_sigterm_saves_and_leaves_and_the_next_run_ends_in_the_same_bytes(sft_spec: Any) -> None:
    before = signal.getsignal(signal.SIGTERM)
    whole, cut = sft_spec("whole"), sft_spec("cut")
    run(whole, QUIET)
    with pytest.raises(StoppedError, match=r"stopped by SIGTERM after step 5: its state is saved"):
        run(cut, stop_at("step 5/"))
    assert signal.getsignal(signal.SIGTERM) == before
    lines: list[str] = []
    run(cut, Progress("sft", lines.append))
    assert any("after step 5" in line for line in lines)
    assert payload(cut) == payload(whole)


@pytest.mark.parametrize(
    ("changes", "last"),
    [
        ({}, 12),
        ({"keep_weights": "best", "lr": 0.3}, 12),  # at this rate the last weights are not the best
        ({"early_stopping": 1, "lr": 0.3}, 4),
    ],
)
def test_what_follows_a_training_is_done_again_without_it(
    sft_spec: Any, changes: dict[str, Any], last: int
) -> None:
    whole, cut = sft_spec("whole", **changes), sft_spec("cut", **changes)
    expected = run(whole, QUIET)
    output = Path(cut.output)
    output.rmdir()
    output.write_text("a file where the payload would stand")
    with pytest.raises(NotADirectoryError):
        run(cut, QUIET)
    output.unlink()
    output.mkdir()
    lines: list[str] = []
    outcome = run(cut, Progress("sft", lines.append))
    assert any(f"after step {last}" in line for line in lines)
    assert not any(": step " in line for line in lines)
    assert outcome.warnings == expected.warnings and outcome.curves == expected.curves
    assert payload(cut) == payload(whole)


def payload(spec: StageSpec) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(spec.output).iterdir()}


def test_a_training_that_ended_badly_leaves_no_last_state(sft_spec: Any) -> None:
    spec = sft_spec()
    task = counting_task(lambda m, b: squared(m, b) * float("inf"), iter([1.0] * 6))
    assert not train(one_weight(), task, planned(spec), QUIET).finite_loss.passed
    assert not list(Path(spec.run_folder).rglob("state/*"))


def test_sigterm_in_the_last_step_leaves_too_and_loses_nothing(sft_spec: Any) -> None:
    spec = sft_spec()
    with pytest.raises(StoppedError, match=r"after step 12: its state is saved"):
        run(spec, stop_at("step 12/"))
    lines: list[str] = []
    run(spec, Progress("sft", lines.append))
    assert not any(": step " in line for line in lines)


def test_sigterm_is_obeyed_where_it_was_ignored_and_an_ignored_interrupt_is_not() -> None:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        with StopSignals() as signals:
            signal.raise_signal(signal.SIGINT)
            assert signals.received is None
            signal.raise_signal(signal.SIGTERM)
            assert signals.received == "SIGTERM"
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_an_interrupt_that_is_passed_on_late_is_one_and_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = iter([0.0, 0.5, 5.0, 11.0])
    clock = SimpleNamespace(monotonic=lambda: next(seconds))
    monkeypatch.setattr("chatllama_pipeline.training.stopping.time", clock)
    with StopSignals() as signals:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        assert signals.received == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_states_are_saved_by_time_too(sft_spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []
    commit = resume.States.commit
    monkeypatch.setattr(
        resume.States, "commit", lambda self, folder: (saved.append(folder), commit(self, folder))
    )
    ticks = iter(range(0, 10**6, 400))
    # The module's own clock: other threads of this process wait by the real one.
    clock = SimpleNamespace(monotonic=lambda: next(ticks))
    monkeypatch.setattr("chatllama_pipeline.training.course.time", clock)
    run(sft_spec(checkpoint_seconds=600), QUIET)
    assert len(saved) >= 3  # checkpoint_steps is 100, the training has 12


def test_a_full_disk_is_told_before_training_and_later_costs_no_training(
    sft_spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        free = 2**20

    real = resume.shutil.disk_usage
    monkeypatch.setattr(resume.shutil, "disk_usage", lambda folder: Full)
    with pytest.raises(StoreError, match=r"a resume state needs about .* MiB, 1 MiB are free"):
        run(sft_spec("refused"), QUIET)
    looks = iter([real(".")])
    monkeypatch.setattr(resume.shutil, "disk_usage", lambda folder: next(looks, Full))
    spec = sft_spec("full", checkpoint_steps=5)
    outcome = run(spec, QUIET)
    assert [w.partition(":")[0] for w in outcome.warnings] == [
        "state not saved, training goes on"
    ] * 2
    assert load_file(Path(spec.output) / "model.safetensors")
    assert load_actor(spec.output, torch.float32) is not None


def test_less_is_better_and_passes_without_a_better_one_are_counted() -> None:
    best = Best()
    assert [best.record(step, value) for step, value in ((2, 3.0), (4, 1.0), (6, 1.0))] == [
        True,
        True,
        False,
    ]
    assert (best.value, best.step, best.passes_since) == (1.0, 4, 1)


USUAL = {"distinct_2": 0.8, "reply_tokens": 20.0, "share_finished": 0.9}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"distinct_2": 0.1}, "replies repeat themselves: distinct_2 0.1 in iteration 6, at first"),
        (
            {"reply_tokens": 2.0},
            "replies shrink: reply_tokens 2 in iteration 6, at first it",
        ),
        ({"share_finished": 0.0}, "replies no longer end: share_finished 0 in iteration 6"),
    ],
)
def test_a_collapse_is_found_when_it_lasts_and_shows_samples(
    change: dict[str, float], said: str
) -> None:
    watch = Collapse()
    for iteration in (1, 2, 3):
        watch.record(iteration, USUAL, ["fine"], 0.3)
    for iteration in (4, 5):
        watch.record(iteration, USUAL | change, ["so so so"], 0.3)
        assert watch.found is None
    watch.record(6, USUAL | change, ["so so so"], 0.3)
    assert watch.found is not None and said in watch.found
    assert watch.found.endswith("Samples: 'so so so'")
    check = watch.check(blocking=True)
    assert (check.passed, check.blocking) == (False, True)
    assert "raise trainer_config.kl_beta" in check.description


def test_an_accident_is_no_collapse() -> None:
    watch = Collapse()
    for iteration in range(1, 12):
        short = {"reply_tokens": 2.0} if iteration % 3 == 0 else {}
        watch.record(iteration, USUAL | short, ["fine"], 0.3)
    assert watch.found is None and watch.check(False).passed


def test_the_guard_lets_single_accidents_pass_but_not_every_other_step() -> None:
    guard = Guard()
    for finite in (True, False, True, True):
        guard.record(finite)
    assert guard.passed
    for finite in (False, False, True, False, False):
        guard.record(finite)
    assert (guard.skipped, guard.steps, guard.tripped, guard.passed) == (5, 9, False, False)
