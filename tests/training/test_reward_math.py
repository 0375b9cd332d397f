from __future__ import annotations

import math

import pytest
import torch

from chatllama_pipeline.training.reward_math import (
    bradley_terry,
    centering,
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


def test_shift_and_scale_are_mean_and_deviation() -> None:
    assert shift_and_scale(torch.tensor([1.0, 3.0])) == (2.0, pytest.approx(math.sqrt(2)))
    assert shift_and_scale(torch.tensor([4.0, 4.0])) == (4.0, 1.0)
    assert shift_and_scale(torch.tensor([])) == (0.0, 1.0)
