"""Which rows each process trains on."""

from __future__ import annotations

import pytest
import torch

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.memory.means import Means
from chatllama_pipeline.training.batches import MicroBatch, Shares, StepBatches, loader
from chatllama_pipeline.training.distributed import require_devices
from chatllama_pipeline.training.ppo.collect import prompt_rows


def steps_of(shares: Shares, rows: int, steps: int, first: int = 0) -> list[list[MicroBatch]]:
    """This rank's micro-batches by optimizer step."""
    found = list(StepBatches(rows, shares, steps, seed=3, first_step=first))
    per_step = shares.accumulation
    return [found[i : i + per_step] for i in range(0, len(found), per_step)]


def rows_of(micro_batches: list[MicroBatch]) -> list[int]:
    return [row for micro in micro_batches if micro.counts for row in micro.rows]


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("micro", [1, 2])
def test_the_ranks_batches_are_together_that_of_one_process(ranks: int, micro: int) -> None:
    alone = steps_of(Shares(8, 8), rows=21, steps=7)
    together = [steps_of(Shares(8, micro, ranks, rank), 21, 7) for rank in range(ranks)]
    for step in range(7):
        assert {len(rank[step]) for rank in together} == {8 // (micro * ranks)}
        shared = [row for rank in together for row in rows_of(rank[step])]
        assert sorted(shared) == sorted(rows_of(alone[step]))
    # 21 rows are batches of 8, 8 and 5: three steps to an epoch.
    assert [len(rows_of(step)) for step in alone] == [8, 8, 5, 8, 8, 5, 8]


def test_every_epoch_holds_every_row_once_in_an_order_of_its_own() -> None:
    steps = steps_of(Shares(8, 8), rows=21, steps=6)
    first, second = ([r for step in part for r in rows_of(step)] for part in (steps[:3], steps[3:]))
    assert sorted(first) == sorted(second) == list(range(21))
    assert first != second


def test_a_continued_training_goes_on_where_it_was() -> None:
    assert steps_of(Shares(8, 2), 21, 7, first=4) == steps_of(Shares(8, 2), 21, 7)[4:]


def test_a_micro_batch_that_only_keeps_step_carries_no_weight() -> None:
    batches = StepBatches(5, Shares(8, 2, 2, 1), steps=1, seed=0, first_step=0)
    rows = [10.0, 11.0, 12.0, 13.0, 14.0]
    loaded = loader(
        rows, lambda part: {"x": torch.tensor(part), "weight": len(part)}, batches, "weight"
    )
    # Of three micro-batches (2, 2 and 1 rows) the second rank has one, and one to keep step.
    assert [batch["weight"] for batch in loaded] == [2, 0]


@pytest.mark.parametrize(
    ("batch", "micro", "ranks", "said"),
    [
        (5, None, 2, r"actor_config\.batch_size 5 is not a multiple of compute\.processes 2"),
        (8, 3, 1, r"batch_size 8 is not a multiple of micro_batch_size 3: choose"),
        (12, 4, 2, r"batch_size 12 is not a multiple of micro_batch_size 4 x compute\.processes 2"),
    ],
)
def test_a_batch_that_does_not_divide_is_refused(
    batch: int, micro: int | None, ranks: int, said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        Shares.of(batch, micro, ranks, 0, "actor_config.batch_size")


def test_a_micro_batch_is_never_more_than_a_ranks_share() -> None:
    assert Shares.of(8, 8, 4, 1, "k").micro_batch_size == 2


def test_two_processes_where_one_gpu_stands_are_refused_and_on_a_cpu_they_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SettingsError, match=r"2 processes were started where 1 GPU\(s\) stand"):
        require_devices(Means("cuda", processes=2, here=2))
    require_devices(Means("cpu", processes=2, here=2))


def test_every_prompt_comes_once_per_epoch_in_an_order_of_its_own() -> None:
    drawn = [row for iteration in range(3) for row in prompt_rows(6, 4, iteration, seed=1)]
    assert sorted(drawn[:6]) == sorted(drawn[6:]) == [0, 1, 2, 3, 4, 5]
    assert drawn[:6] != drawn[6:]
    # Five of two: two whole epochs and one row more.
    counts = [prompt_rows(2, 5, 0, seed=1).count(row) for row in (0, 1)]
    assert sorted(counts) == [2, 3]
