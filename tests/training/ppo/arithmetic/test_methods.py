"""RLOO and GRPO against slow references: their papers' equations in plain loops, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from chatllama_pipeline.settings import PpoSettings
from chatllama_pipeline.settings.training.methods import MethodName
from chatllama_pipeline.training.ppo import equations
from chatllama_pipeline.training.ppo.methods import METHODS, Judged, Part

GROUP, CLIP, BETA = 3, 0.2, 0.3
LENGTHS = [4, 1, 3, 2, 4, 1]
SETTINGS = PpoSettings(replies_per_prompt=GROUP, batch_size=6, update_timesteps=2, score_clip=2.0)
Rows = list[list[float]]


def drawn(seed: int) -> tuple[Tensor, Tensor]:
    """Six replies of 1 to 4 tokens, three to a prompt: nats `[6,4]`, NaN beyond, and the mask."""
    mask = torch.arange(4) < torch.tensor(LENGTHS)[:, None]
    noise = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.where(mask, -1.5 + 0.3 * noise, math.nan), mask


def judged(scores: list[float]) -> Judged:
    kl = drawn(1)[0] - drawn(2)[0]
    mask = drawn(0)[1]
    told = torch.tensor(scores, dtype=torch.float64)
    return Judged(told, kl, torch.zeros_like(kl), mask, BETA)


def rloo_advantages(scores: list[float], kl: Rows) -> list[float]:
    """R_i - mean of the others' R, where R is the clipped score less beta times the reply's KL."""
    rewards = [
        min(max(score, -2.0), 2.0) - BETA * sum(kl[i][: LENGTHS[i]])
        for i, score in enumerate(scores)
    ]
    found = []
    for i, reward in enumerate(rewards):
        first = i // GROUP * GROUP
        others = [rewards[j] for j in range(first, first + GROUP) if j != i]
        found.append(reward - sum(others) / len(others))
    return found


def grpo_advantages(scores: list[float]) -> list[float]:
    """(r_i - mean) / deviation within the group."""
    rewards = [min(max(score, -2.0), 2.0) for score in scores]
    found = []
    for i, reward in enumerate(rewards):
        first = i // GROUP * GROUP
        group = rewards[first : first + GROUP]
        mean = sum(group) / GROUP
        variance = sum((r - mean) ** 2 for r in group) / (GROUP - 1)
        found.append((reward - mean) / math.sqrt(variance))
    return found


def surrogate(ratio: float, advantage: float) -> float:
    return min(ratio * advantage, min(max(ratio, 1 - CLIP), 1 + CLIP) * advantage)


def rloo_loss(new: Rows, old: Rows, advantages: list[float]) -> float:
    total = 0.0
    for i, length in enumerate(LENGTHS):
        log_ratio = sum(new[i][:length]) - sum(old[i][:length])
        total += surrogate(math.exp(log_ratio), advantages[i])
    return -total / len(LENGTHS)


def grpo_loss(new: Rows, old: Rows, ref: Rows, advantages: list[float]) -> float:
    total = 0.0
    for i, length in enumerate(LENGTHS):
        of_reply = 0.0
        for t in range(length):
            away = ref[i][t] - new[i][t]
            divergence = math.exp(away) - away - 1
            of_reply += surrogate(math.exp(new[i][t] - old[i][t]), advantages[i])
            of_reply -= BETA * divergence
        total += of_reply / length
    return -total / len(LENGTHS)


def loss_of(method: MethodName, new: Tensor, old: Tensor, advantages: list[float]) -> Tensor:
    mask = drawn(0)[1]
    spread = equations.on_every_token(torch.tensor(advantages, dtype=torch.float64), mask)
    part = Part(new, old, drawn(2)[0], spread, mask, mask.sum(), 6, BETA, CLIP)
    return METHODS[method].policy_loss(part).loss


def test_rloo_s_credit_is_what_a_reply_earns_above_the_others_to_its_prompt() -> None:
    scores = [0.5, -1.0, 3.0, 0.2, 0.2, -5.0]
    rows = judged(scores)
    advantages, returns = METHODS["rloo"].credit(rows, SETTINGS)
    expected = rloo_advantages(scores, rows.kl.tolist())
    for row, wanted, length in zip(advantages.tolist(), expected, LENGTHS, strict=True):
        assert row == pytest.approx([wanted] * length + [0.0] * (4 - length), abs=1e-12)
    assert not returns.any()
    # By hand: of 1, 2 and 6 the others' means are 4, 3.5 and 1.5.
    by_hand = equations.leave_one_out(torch.tensor([1.0, 2.0, 6.0]), 3)
    assert by_hand.tolist() == [-3.0, -1.5, 4.5]


def test_grpo_s_credit_is_a_score_by_its_group_s_mean_and_deviation() -> None:
    scores = [0.5, -1.0, 3.0, 0.2, 0.1, -5.0]
    advantages, returns = METHODS["grpo"].credit(judged(scores), SETTINGS)
    expected = grpo_advantages(scores)
    for row, wanted, length in zip(advantages.tolist(), expected, LENGTHS, strict=True):
        assert row == pytest.approx([wanted] * length + [0.0] * (4 - length), rel=1e-6)
    assert not returns.any()
    # By hand: 1, 2, 3 lie one deviation apart; equal scores teach nothing.
    assert equations.group_normalised(torch.tensor([1.0, 2.0, 3.0]), 3).tolist() == pytest.approx(
        [-1, 0, 1], abs=1e-6
    )
    assert equations.group_normalised(torch.tensor([0.7] * 3), 3).tolist() == [0, 0, 0]


@pytest.mark.parametrize("method", ["rloo", "grpo"])
def test_the_loss_and_its_gradient_are_those_of_the_paper(method: MethodName) -> None:
    new, old, ref = (drawn(seed)[0] for seed in (3, 4, 2))
    advantages = [0.9, -1.2, 0.3, 0.4, -0.6, 0.2]

    def slow(rows: Rows) -> float:
        if method == "rloo":
            return rloo_loss(rows, old.tolist(), advantages)
        return grpo_loss(rows, old.tolist(), ref.tolist(), advantages)

    leaf = new.clone().requires_grad_()
    loss = loss_of(method, leaf, old, advantages)
    assert loss.item() == pytest.approx(slow(new.tolist()), rel=1e-10)
    (gradient,) = torch.autograd.grad(loss, leaf)
    step = 1e-6
    for i, length in enumerate(LENGTHS):
        for t in range(length):
            up, down = new.tolist(), new.tolist()
            up[i][t] += step
            down[i][t] -= step
            expected = (slow(up) - slow(down)) / (2 * step)
            assert gradient[i, t].item() == pytest.approx(expected, abs=1e-8), (i, t)


@pytest.mark.parametrize(
    ("method", "expected"),
    # What trl 1.16.0's RLOOTrainer and GRPOTrainer._compute_loss give for the same numbers.
    [("rloo", 0.1299882892384178), ("grpo", 0.03670663227101393)],
)
def test_the_loss_is_trls(method: MethodName, expected: float) -> None:
    scores = [0.5, -1.0, 3.0, 0.2, 0.2, -5.0]
    by_reply = grpo_advantages(scores)
    if method == "rloo":
        by_reply = rloo_advantages(scores, judged(scores).kl.tolist())
    found = loss_of(method, drawn(0)[0], drawn(1)[0], by_reply)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_rloo_s_first_step_is_reinforce_s() -> None:
    new, mask = drawn(3)
    advantages = [0.9, -1.2, 0.3, 0.4, -0.6, 0.2]
    leaf = new.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of("rloo", leaf, new, advantages), leaf)
    for i, length in enumerate(LENGTHS):
        expected = [-advantages[i] / 6] * length
        assert gradient[i, :length].tolist() == pytest.approx(expected, rel=1e-12)
    assert not gradient[~mask].any()


@pytest.mark.parametrize("method", ["rloo", "grpo"])
def test_parts_of_a_minibatch_add_up_to_it(method: MethodName) -> None:
    new, old, ref = (drawn(seed)[0] for seed in (3, 4, 2))
    mask = drawn(0)[1]
    spread = equations.on_every_token(torch.tensor([0.9, -1.2, 0.3, 0.4, -0.6, 0.2]), mask)

    def part(rows: slice) -> Part:
        columns = (each[rows] for each in (new, old, ref, spread, mask))
        return Part(*columns, mask.sum(), 6, BETA, CLIP)

    whole = METHODS[method].policy_loss(part(slice(0, 6)))
    parts = [METHODS[method].policy_loss(part(slice(i, i + 2))) for i in (0, 2, 4)]
    assert sum(each.loss.item() for each in parts) == pytest.approx(whole.loss.item(), rel=1e-12)
    assert sum(each.clipped.item() for each in parts) == pytest.approx(whole.clipped.item())
    assert 0 < whole.clipped.item() < 1
