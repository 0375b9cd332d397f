from __future__ import annotations

import math

import pytest
import torch

from chatllama_pipeline.training.reward.equations import (
    CalibrationBin,
    bradley_terry,
    calibration,
    calibration_error,
    centering,
    rank_correlation,
    score_errors,
    shift_and_scale,
    strength_margin,
    win_share,
)

CHOSEN = torch.tensor([1.2, 0.3, -0.5])
REJECTED = torch.tensor([0.2, 0.8, -1.5])


def test_bradley_terry_has_the_golden_value() -> None:
    assert float(bradley_terry(CHOSEN, REJECTED).mean()) == pytest.approx(0.533534, abs=1e-5)


def test_bradley_terry_with_margins_has_the_golden_value() -> None:
    margin = torch.tensor([0.5, 0.0, 1.0])
    loss = bradley_terry(CHOSEN, REJECTED, margin)
    assert float(loss.mean()) == pytest.approx(0.713767, abs=1e-5)


def test_equal_rewards_cost_the_logarithm_of_two() -> None:
    assert float(bradley_terry(CHOSEN, CHOSEN).mean()) == pytest.approx(math.log(2))


def test_centering_adds_its_golden_value() -> None:
    # (1.4^2 + 1.1^2 + 2^2) / 3 = 2.39
    assert float(0.01 * centering(CHOSEN, REJECTED).mean()) == pytest.approx(0.0239, abs=1e-6)


def test_accuracy_is_two_thirds_and_a_tie_counts_half() -> None:
    assert win_share(CHOSEN, REJECTED) == pytest.approx(2 / 3)
    assert win_share(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0])) == 0.75


def test_a_margin_is_the_logarithm_of_the_strength_and_nothing_at_one() -> None:
    assert strength_margin(1.0) == 0.0
    assert strength_margin(2.0) == pytest.approx(0.693147, abs=1e-6)


def test_a_thumb_pushes_a_reply_over_the_middle_and_not_to_a_score() -> None:
    found = torch.tensor([3.0, 0.5, -3.0, 3.0, 0.5], requires_grad=True)
    score = torch.tensor([1.0, 1.0, 1.0, -1.0, 2.0])
    middle = torch.tensor([0.5, 0.5, 0.5, 0.5, math.nan])
    errors = score_errors(found, score, middle)
    assert errors[1].item() == pytest.approx(math.log(2))
    assert errors[4].item() == pytest.approx(2.25)
    [slope] = torch.autograd.grad(errors.sum(), found)
    # Up where it is up already: hardly at all. Mistaken, however far off: by 1 at most.
    steep = torch.tensor([-2.5, 0.0, 3.5, 2.5]).sigmoid() * torch.tensor([-1, -1, -1, 1])
    assert slope.tolist() == pytest.approx([*steep.tolist(), -3.0])


def test_shift_and_scale_are_mean_and_deviation() -> None:
    assert shift_and_scale(torch.tensor([1.0, 3.0])) == (2.0, pytest.approx(math.sqrt(2)))
    assert shift_and_scale(torch.tensor([4.0, 4.0])) == (4.0, 1.0)
    assert shift_and_scale(torch.tensor([])) == (0.0, 1.0)


def test_a_calibration_curve_tells_how_often_the_sure_are_right() -> None:
    # sigmoid(0) = 0.5, a draw; sigmoid(1) = 0.7311, right once and wrong once; sigmoid(3) = 0.9526.
    bins = calibration(torch.tensor([0.0, 1.0, -1.0, 3.0]))
    assert bins == [
        CalibrationBin(1, 0.5, 0.5),
        CalibrationBin(2, 0.7311, 0.5),
        CalibrationBin(1, 0.9526, 1.0),
    ]
    # (0 + 2 * 0.2311 + 0.0474) / 4
    assert calibration_error(bins) == pytest.approx(0.1274, abs=1e-4)
    assert calibration(torch.empty(0)) == [] and calibration_error([]) is None


def test_ranks_correlate_whatever_the_distances() -> None:
    def correlation(left: list[float], right: list[float]) -> float | None:
        return rank_correlation(torch.tensor(left), torch.tensor(right))

    assert correlation([1, 2, 300], [4, 5, 6]) == pytest.approx(1.0)
    assert correlation([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)
    # Ties stand at 1.5: ranks (1.5, 1.5, 3) and (1, 2, 3) give 1.5 / sqrt(1.5 * 2).
    assert correlation([1, 1, 2], [1, 2, 3]) == pytest.approx(0.8660, abs=1e-4)
    assert correlation([1, 1], [1, 2]) is None and correlation([], []) is None
