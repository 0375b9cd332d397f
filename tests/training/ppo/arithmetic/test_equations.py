"""Golden numbers computed with TRL's, verl's and OpenRLHF's functions, and what always holds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from chatllama_pipeline.training.ppo import equations
from chatllama_pipeline.training.ppo.equations import KlController


def assert_close(actual: Tensor, expected: list[float] | list[list[float]] | float) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-5, rtol=0)


def bools(rows: list[list[int]] | list[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.bool)


REWARDS = torch.tensor([[-0.01, 0.02, -0.03, 1], [0.05, -0.02, 0.5, 0]])
VALUES = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0, -0.1, 0.2, 0]])
MASK_2_4 = bools([[1, 1, 1, 1], [1, 1, 1, 0]])
MASK_2_3 = bools([[1, 1, 1], [1, 1, 0]])


def test_masked_statistics_count_the_masked_columns_alone() -> None:
    x, mask = torch.tensor([1.0, 2, 3, 4]), bools([0, 1, 1, 0])
    assert_close(equations.masked_mean(x, mask), 2.5)
    assert_close(equations.masked_variance(x, mask), 0.5)
    assert_close(equations.whiten(x, mask), [-2.12132, -0.70711, 0.70711, 2.12132])


def test_statistics_of_nothing_and_of_one_are_zero_rather_than_nan() -> None:
    x = torch.tensor([3.0, 5])
    assert_close(equations.masked_mean(x, bools([0, 0])), 0.0)
    assert_close(equations.masked_variance(x, bools([1, 0])), 0.0)


def test_gae_and_whitened_advantages_match_the_golden_numbers() -> None:
    found = equations.gae(REWARDS, VALUES, MASK_2_4, gamma=1, lam=0.95)
    assert_close(found.advantages, [[0.7816, 0.728, 0.64, 0.6], [0.48675, 0.565, 0.3, 0]])
    assert_close(found.returns, [[0.8816, 0.928, 0.94, 1], [0.48675, 0.465, 0.5, 0]])
    white = torch.where(MASK_2_4, equations.whiten(found.advantages, MASK_2_4), 0.0)
    assert_close(
        white, [[1.222989, 0.888014, 0.338055, 0.088074], [-0.619686, -0.13066, -1.786787, 0]]
    )


@pytest.mark.parametrize(
    ("gamma", "lam", "advantages"),
    [
        (0.99, 0.9, [[0.669052, 0.652135, 0.6006, 0.6], [0.436862, 0.5453, 0.3, 0]]),
        (1.0, 1.0, [[0.88, 0.79, 0.67, 0.6], [0.53, 0.58, 0.3, 0]]),
    ],
)
def test_gae_discounts(gamma: float, lam: float, advantages: list[list[float]]) -> None:
    assert_close(
        equations.gae(REWARDS, VALUES, MASK_2_4, gamma=gamma, lam=lam).advantages, advantages
    )


def test_what_stands_in_masked_columns_never_changes_advantages_or_returns() -> None:
    mask = bools([[0, 0, 1, 1, 1, 0, 0, 1, 1, 0, 0]])
    draw = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 1, 11, generator=draw)
    seen = [
        equations.gae(
            torch.where(mask, rewards, fill),
            torch.where(mask, values, -fill),
            mask,
            gamma=0.9,
            lam=0.8,
        )
        for fill in (0.0, 1e6, math.nan)
    ]
    for other in seen[1:]:
        assert torch.equal(seen[0].advantages, other.advantages)
        assert torch.equal(seen[0].returns, other.returns)
    kept = mask[0]
    dense = equations.gae(rewards[:, kept], values[:, kept], bools([[1] * 5]), gamma=0.9, lam=0.8)
    assert torch.equal(seen[0].advantages[:, kept], dense.advantages)


def test_what_stands_in_masked_columns_never_changes_a_loss_or_its_gradient() -> None:
    mask = bools([[1, 1, 0]])
    losses, gradients = [], []
    for fill in (0.0, math.nan):
        new = torch.tensor([[-1.0, -0.5, fill]], requires_grad=True)
        old = torch.tensor([[-1.1, -0.6, fill]])
        ratio = equations.ratios(new, old, mask)
        advantages = torch.tensor([[1.0, 2.0, 0.0]])
        loss = equations.policy_loss(ratio, advantages, mask, clip=0.2, tokens=2).loss
        loss.backward()
        losses.append(loss.detach())
        gradients.append(new.grad)
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(gradients[0], gradients[1])  # type: ignore[arg-type]


def test_kl_estimators() -> None:
    logp, ref = torch.tensor([-1, -0.5, -2]), torch.tensor([-1.2, -0.4, -1.5])
    assert_close(equations.k1(logp, ref), [0.2, -0.1, -0.5])
    assert_close(equations.k2(logp, ref), [0.02, 0.005, 0.125])
    assert_close(equations.k3(logp, ref), [0.018731, 0.005171, 0.148721])


def test_the_divergence_of_a_policy_from_itself_is_zero() -> None:
    logp = torch.tensor([-1, -0.5, -20])
    for estimator in (equations.k1, equations.k2, equations.k3):
        assert estimator(logp, logp).tolist() == [0, 0, 0]


def test_the_clipped_score_stands_on_the_last_action_token() -> None:
    kl = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0, 0]])
    rewards = equations.shaped_rewards(
        torch.tensor([12, -0.5]), kl, MASK_2_3, beta=0.1, score_clip=10
    )
    assert_close(rewards, [[-0.01, -0.02, 9.97], [-0.04, -0.5, 0]])


def test_an_unfinished_reply_pays_the_penalty() -> None:
    scores = equations.final_scores(
        torch.tensor([1.0, 1.0]), torch.tensor([True, False]), missing_eos_penalty=1.5
    )
    assert_close(scores, [1.0, -0.5])


def test_policy_loss_and_its_clip_fraction() -> None:
    new = torch.tensor([[-1, -0.5, -2], [-0.3, -0.9, -1]])
    old = torch.tensor([[-1.3, -0.5, -1.6], [-0.35, -0.8, -1]])
    advantages = torch.tensor([[1, -1, 0.5], [-0.5, 2, 0]])
    ratio = equations.ratios(new, old, MASK_2_3)
    found = equations.policy_loss(ratio, advantages, MASK_2_3, clip=0.2, tokens=5)
    assert_close(found.loss, -0.36384)
    assert_close(found.clipped / 5, 0.2)


def test_value_loss_and_its_clip_fraction() -> None:
    values = torch.tensor([[0.5, 0.1, -0.2], [1, 0.3, 0]])
    old = torch.tensor([[0.1, 0.15, -0.1], [0.2, 0.3, 0]])
    returns = torch.tensor([[1, 0, -0.5], [0.1, 0.6, 0]])
    found = equations.value_loss(values, old, returns, MASK_2_3, clip=0.2, tokens=5)
    assert_close(found.loss, 0.149)
    assert_close(found.clipped / 5, 0.2)
    assert_close(
        equations.value_loss(values, old, returns, MASK_2_3, clip=1e9, tokens=5).loss, 0.125
    )


def test_two_ranks_add_up_to_the_mean_over_all_tokens() -> None:
    values = torch.tensor([[1.0, 2, 0], [3, 4, 5], [7, 0, 0]])
    mask = values != 0
    parts = [equations.token_mean(values[rows], mask[rows], 6, ranks=2) for rows in ([0, 1], [2])]
    assert_close((parts[0] + parts[1]) / 2, 22 / 6)


def test_the_kl_controller_moves_beta_by_at_most_a_fifth_of_the_error() -> None:
    controller, seen = KlController(0.2, target=6, horizon=10_000), []
    for kl in (3, 6, 12, 6.5):
        controller = controller.updated(kl, 256)
        seen.append(controller.beta)
    assert seen == pytest.approx([0.198976, 0.198976, 0.19999476, 0.20042141], abs=1e-8)


def test_a_controller_without_a_target_keeps_its_beta() -> None:
    assert KlController(0.05).updated(100, 256) == KlController(0.05)


def test_entropy_of_a_uniform_and_of_a_certain_choice() -> None:
    assert_close(equations.entropy(torch.tensor([[0.0, 0, 0, 0], [100, 0, 0, 0]])), [1.386294, 0])


def test_explained_variance() -> None:
    returns, mask = torch.tensor([[1.0, 2, 3, 99]]), bools([[1, 1, 1, 0]])
    assert equations.explained_variance(returns, returns, mask) == 1
    # residuals -.5, 0, .5 have variance .25, the returns 1
    assert equations.explained_variance(torch.tensor([[1.5, 2, 2.5, 0]]), returns, mask) == 0.75
    assert equations.explained_variance(returns, torch.ones(1, 4), mask) == 0


def test_spearman_shares_the_ranks_of_ties() -> None:
    assert equations.spearman(
        torch.tensor([1, 2, 3]), torch.tensor([10, 100, 1000])
    ) == pytest.approx(1)
    assert equations.spearman(torch.tensor([1, 2, 3]), torch.tensor([3, 2, 1])) == pytest.approx(-1)
    # ranks 0 1.5 1.5 3 and 0 1 2 3: 4.5 / sqrt(4.5 * 5)
    assert equations.spearman(
        torch.tensor([1, 2, 2, 3]), torch.tensor([1, 2, 3, 4])
    ) == pytest.approx(0.948683, abs=1e-6)
    assert equations.spearman(torch.tensor([1, 1]), torch.tensor([1, 2])) == 0


def test_distinct_2_counts_different_bigrams_within_replies() -> None:
    # (1,2) (2,1) (1,2) and (1,2): two different of four; none crosses from reply to reply
    assert equations.distinct_2([[1, 2, 1, 2], [1, 2], [7]]) == 0.5
    assert equations.distinct_2([[7]]) == 0


def test_a_reply_repeats_itself_by_its_runs_of_four_tokens() -> None:
    assert equations.repeated([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)
    assert equations.repeated([7] * 9) == pytest.approx(5 / 6)
    assert equations.repeated([1, 2, 3, 4, 5]) == equations.repeated([1, 1, 1]) == 0
