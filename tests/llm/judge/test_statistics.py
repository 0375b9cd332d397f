from __future__ import annotations

import math

import pytest

from chatllama_pipeline.statistics import (
    bootstrap_interval,
    krippendorff_alpha,
    mean,
    preferences,
    wilson_interval,
)


def test_a_mean_of_nothing_or_of_something_infinite_is_not_measurable() -> None:
    assert mean([]) is None
    assert mean([1.0, math.nan]) is None
    assert mean([1.0, math.inf]) is None


def test_a_mean_is_rounded_to_six_digits() -> None:
    assert mean([1.0, 0.0, 0.0]) == 0.333333


def test_a_win_counts_one_a_tie_half_and_a_loss_nothing() -> None:
    assert preferences([1.0, 3.0, 4.0], [2.0, 3.0, 0.0]) == [1.0, 0.5, 0.0]


def test_the_bootstrap_interval_is_that_of_the_normal_approximation_for_many_values() -> None:
    # 120 wins of 200: .6 +- 1.96 * sqrt(.6 * .4 / 200) = .6 +- .0679
    low, high = bootstrap_interval([1.0] * 120 + [0.0] * 80, samples=20_000, seed=0)
    assert low == pytest.approx(0.5321, abs=0.006)
    assert high == pytest.approx(0.6679, abs=0.006)


def test_ties_make_the_bootstrap_interval_narrower() -> None:
    # 80 wins, 80 ties, 40 losses: the same mean .6, variance .14: .6 +- .0519
    low, high = bootstrap_interval([1.0] * 80 + [0.5] * 80 + [0.0] * 40, samples=20_000, seed=0)
    assert low == pytest.approx(0.5481, abs=0.006)
    assert high == pytest.approx(0.6519, abs=0.006)


def test_the_bootstrap_depends_on_its_seed_and_not_on_the_values_order() -> None:
    values = [1.0, 0.0, 0.5, 1.0, 1.0, 0.0, 0.5]
    once = bootstrap_interval(values, samples=50, seed=3)
    assert bootstrap_interval(values[::-1], samples=50, seed=3) == once
    assert bootstrap_interval(values, samples=50, seed=4) != once


def test_equal_values_have_an_interval_of_no_width_and_no_values_have_none() -> None:
    assert bootstrap_interval([0.5, 0.5, 0.5], samples=10, seed=0) == (0.5, 0.5)
    assert bootstrap_interval([], samples=10, seed=0) == (None, None)


def test_an_interval_of_a_share_is_wilsons() -> None:
    # 8 of 10: middle (0.8 + 3.8415 / 20) / 1.38415 = 0.7167, half 1.96 * 0.16001 / 1.38415 = 0.2266
    assert wilson_interval(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(1.0, 4) == pytest.approx((0.5101, 1.0), abs=1e-4)
    assert wilson_interval(0.5, 0) == (0.0, 1.0)


def test_agreement_of_raters_is_krippendorff_s_with_what_nobody_rated_left_out() -> None:
    # "Computing Krippendorff's alpha-reliability" (2011), example C: .743
    rows = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")
    ratings = [{unit: word for unit, word in enumerate(row) if word != "."} for row in rows]
    assert krippendorff_alpha(ratings) == pytest.approx(0.743, abs=5e-4)


def test_agreement_takes_two_raters_who_met_and_two_words() -> None:
    assert krippendorff_alpha([]) is None
    assert krippendorff_alpha([{0: "a", 1: "b"}]) is None
    assert krippendorff_alpha([{0: "a"}, {1: "b"}]) is None
    assert krippendorff_alpha([{0: "a", 1: "a"}, {0: "a", 1: "a"}]) is None
    assert krippendorff_alpha([{0: "a", 1: "b"}, {0: "a", 1: "b"}]) == 1
