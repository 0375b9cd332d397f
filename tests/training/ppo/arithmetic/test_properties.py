"""What always holds of PPO's arithmetic, over shapes, masks and lengths that hypothesis draws."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from accelerate import Accelerator
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from chatllama_pipeline.models.heads import load_actor, load_reward
from chatllama_pipeline.settings import PpoSettings
from chatllama_pipeline.training.ppo import equations
from chatllama_pipeline.training.ppo.methods import METHODS, Judged
from chatllama_pipeline.training.ppo.model import ActorCritic
from chatllama_pipeline.training.ppo.rollout import pad_left, response_logprobs, sample_replies
from chatllama_pipeline.training.ppo.update import Experience, minibatch_gradients

# The same examples in every run; each takes some milliseconds, by a model some hundredths.
of_numbers = settings(
    max_examples=60, deadline=None, derandomize=True, database=None,
    phases=(Phase.generate, Phase.shrink),
)  # fmt: skip
of_models = settings(of_numbers, max_examples=8)
VOCABULARY, PAD, STOP = 300, 0, 1
DISCOUNTS = st.floats(0.1, 1.0)


class Rows(NamedTuple):
    """Noise `[3,B,T]` in float64, and a mask `[B,T]` in which every row has a True column."""

    noise: Tensor
    mask: Tensor


@st.composite
def rows(draw: st.DrawFn, holes: bool = True) -> Rows:
    """Of up to 5 rows and 9 columns; without `holes` each row's True columns come first."""
    count, width = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    noise = torch.randn(3, count, width, generator=generator, dtype=torch.float64)
    if holes:
        one = st.lists(st.booleans(), min_size=width, max_size=width).filter(any)
        return Rows(noise, torch.tensor(draw(st.lists(one, min_size=count, max_size=count))))
    lengths = draw(st.lists(st.integers(1, width), min_size=count, max_size=count))
    return Rows(noise, torch.arange(width) < torch.tensor(lengths)[:, None])


def slow_gae(
    rewards: list[float], values: list[float], gamma: float, lam: float
) -> tuple[list[float], list[float]]:
    """A_t = sum of (gamma lam)^k delta_{t+k}, delta_t = r_t + gamma V_{t+1} - V_t; and A + V."""
    after = [*values[1:], 0.0]
    deltas = [r + gamma * b - v for r, b, v in zip(rewards, after, values, strict=True)]
    found = [
        sum((gamma * lam) ** k * delta for k, delta in enumerate(deltas[t:]))
        for t in range(len(deltas))
    ]
    return found, [a + v for a, v in zip(found, values, strict=True)]


@of_numbers
@given(rows(), DISCOUNTS, DISCOUNTS, st.sampled_from([0.0, 1e30, math.nan, math.inf]))
def test_gae_is_the_sum_of_the_paper_whatever_stands_between_the_masked_columns(
    drawn: Rows, gamma: float, lam: float, fill: float
) -> None:
    (rewards, values, _), mask = drawn
    filled = (torch.where(mask, numbers, fill) for numbers in (rewards, values))
    found = equations.gae(*filled, mask, gamma=gamma, lam=lam)
    for row, kept in enumerate(mask):
        wanted = slow_gae(rewards[row, kept].tolist(), values[row, kept].tolist(), gamma, lam)
        assert found.advantages[row, kept].tolist() == pytest.approx(wanted[0], rel=1e-9, abs=1e-9)
        assert found.returns[row, kept].tolist() == pytest.approx(wanted[1], rel=1e-9, abs=1e-9)
    assert not found.advantages[~mask].any() and not found.returns[~mask].any()


@of_numbers
@given(rows(), st.floats(-50, 50), st.floats(0.01, 50))
def test_whitened_numbers_have_mean_0_and_variance_1_wherever_they_lie(
    drawn: Rows, shift: float, scale: float
) -> None:
    numbers, mask = drawn.noise[0] * scale + shift, drawn.mask
    kept = equations.whiten(torch.where(mask, numbers, math.nan), mask)[mask]
    if len(kept) > 1:
        # Numbers that are nearly alike stay so: noise is not made news.
        spread = float(numbers[mask].var())
        assert float(kept.mean()) == pytest.approx(0, abs=1e-6)
        assert float(kept.var()) == pytest.approx(spread / (spread + 1e-8), rel=1e-6)


@of_numbers
@given(rows(), st.floats(0, 2), st.floats(0.1, 5))
def test_rewards_are_the_clipped_score_less_the_price_of_every_nat(
    drawn: Rows, beta: float, clip: float
) -> None:
    (kl, scores, _), mask = drawn
    found = equations.shaped_rewards(scores[:, 0] * 3, kl, mask, beta=beta, score_clip=clip)
    for row, kept in enumerate(mask):
        nats = sum(kl[row, kept].tolist())
        score = min(max(3 * float(scores[row, 0]), -clip), clip)
        assert float(found[row].sum()) == pytest.approx(score - beta * nats, rel=1e-6, abs=1e-6)
        last = int(kept.nonzero()[-1])
        with_score = found[row, last] + beta * kl[row, last]
        assert float(with_score) == pytest.approx(score, rel=1e-6, abs=1e-6)
    assert not found[~mask].any()


@of_numbers
@given(rows())
def test_a_divergence_is_nothing_from_itself_and_never_negative_by_k2_and_k3(drawn: Rows) -> None:
    logp, other = -drawn.noise[0].abs(), -drawn.noise[1].abs()
    for estimator in (equations.k1, equations.k2, equations.k3):
        assert not estimator(logp, logp).any()
    assert (equations.k2(logp, other) >= 0).all() and (equations.k3(logp, other) >= 0).all()
    assert torch.equal(equations.k1(logp, other), -equations.k1(other, logp))


@of_numbers
@given(rows(), st.floats(0.05, 0.5), st.integers(1, 5))
def test_losses_add_up_over_any_parts_and_masked_columns_count_for_nothing(
    drawn: Rows, clip: float, size: int
) -> None:
    (nats, old, wanted), mask = drawn
    tokens = mask.sum()
    whole = [torch.where(mask, n, math.nan).requires_grad_() for n in (nats, wanted)]
    parts = [leaf.detach().clone().requires_grad_() for leaf in whole]

    def loss(leaves: list[Tensor], chosen: slice) -> Tensor:
        new, values = (leaf[chosen] for leaf in leaves)
        kept, before = mask[chosen], old[chosen]
        ratio = equations.ratios(new, before, kept)
        gains = torch.where(kept, wanted[chosen], 0.0)
        policy = equations.policy_loss(ratio, gains, kept, clip=clip, tokens=tokens)
        value = equations.value_loss(values, before, gains, kept, clip=clip, tokens=tokens)
        return policy.loss + value.loss

    at_once = loss(whole, slice(None))
    at_once.backward()
    in_parts = [loss(parts, slice(first, first + size)) for first in range(0, len(mask), size)]
    torch.stack(in_parts).sum().backward()
    assert float(sum(in_parts).detach()) == pytest.approx(at_once.item(), rel=1e-9, abs=1e-9)  # type: ignore[union-attr]
    for left, right in zip(whole, parts, strict=True):
        assert left.grad is not None and right.grad is not None
        assert torch.equal(left.grad[~mask], torch.zeros_like(left.grad[~mask]))
        torch.testing.assert_close(left.grad, right.grad)


@of_numbers
@given(rows(holes=False), st.integers(2, 4), st.sampled_from(["rloo", "grpo"]), st.floats(-9, 9))
def test_what_all_replies_to_a_prompt_earn_alike_is_nobodys_credit(
    drawn: Rows, group: int, name: Any, more: float
) -> None:
    (kl, scores, _), mask = drawn
    kl, mask = kl.repeat_interleave(group, 0), mask.repeat_interleave(group, 0)
    kl = torch.where(mask, kl + torch.linspace(0, 1, len(kl))[:, None], math.nan)
    earned = scores[:, 0].repeat_interleave(group) + torch.linspace(0, 3, len(kl)).square()
    ppo = PpoSettings(
        replies_per_prompt=group, batch_size=group, update_timesteps=4, score_clip=1e6
    )
    found, moved = (
        METHODS[name].credit(Judged(given, kl, torch.zeros_like(kl), mask, 0.1), ppo).advantages
        for given in (earned, earned + more)
    )
    torch.testing.assert_close(found, moved, rtol=1e-5, atol=1e-7)
    assert not found[~mask].any()
    firsts = found[:, 0].view(-1, group).sum(1)
    torch.testing.assert_close(firsts, torch.zeros_like(firsts), rtol=0, atol=1e-5)


LENGTHS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 8)), min_size=2, max_size=6)


def experience_of(lengths: list[tuple[int, int]], seed: int) -> Experience:
    """Rows of so many tokens of prompt and reply, with random ids and figures."""
    draw = torch.Generator().manual_seed(seed)
    prompts, replies = (torch.tensor(column)[:, None] for column in zip(*lengths, strict=True))
    prompt_width, width = int(prompts.max()), int(replies.max())
    mask = torch.arange(width) < replies
    noise = torch.randn(3, len(lengths), width, generator=draw)
    return Experience(
        torch.randint(VOCABULARY, (len(lengths), prompt_width), generator=draw),
        torch.arange(prompt_width) >= prompt_width - prompts,
        torch.randint(VOCABULARY, (len(lengths), width), generator=draw),
        mask,
        -5.7 + 0.2 * noise[0],
        -5.7 + 0.2 * noise[1],
        *(noise[[1, 2, 0]] * mask),
    )


@pytest.fixture(scope="module")
def module(tiny_base_folder: Path) -> ActorCritic:
    torch.manual_seed(1)
    actor = load_actor(tiny_base_folder, torch.float32)
    return ActorCritic(actor, load_reward(tiny_base_folder, torch.float32)).eval()


@of_models
@given(
    LENGTHS, st.integers(0, 2**31), st.sampled_from([1, 2, 4]), st.integers(0, 3), st.integers(0, 3)
)
def test_no_cut_order_or_padding_changes_a_minibatchs_gradient(
    module: ActorCritic,
    lengths: list[tuple[int, int]],
    seed: int,
    micro: int,
    before: int,
    behind: int,
) -> None:
    rows = experience_of(lengths, seed)
    order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed))
    pad = torch.nn.functional.pad
    padded = [pad(field[order], (before, 0)) for field in rows[:2]]
    padded += [pad(field[order], (0, behind)) for field in rows[2:]]
    found = []
    for experience, size in ((rows, None), (Experience(*padded), micro)):
        module.zero_grad()
        ppo = PpoSettings(beta_s=0.1, micro_batch_size=size)
        figures = minibatch_gradients(module, Accelerator(), experience, ppo)
        gradient = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        found.append((torch.cat(gradient), torch.tensor(figures)))
    (whole, figures), (cut, others) = found
    assert float((whole - cut).norm() / whole.norm()) < 1e-5
    torch.testing.assert_close(figures, others, rtol=1e-5, atol=1e-5)


@of_models
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=6),
    st.integers(1, 10),
    st.integers(0, 2**31),
    st.floats(0.5, 2.0),
    st.integers(1, 6),
)
def test_what_was_drawn_is_as_likely_where_it_is_read_again(
    module: ActorCritic,
    lengths: list[int],
    new_tokens: int,
    seed: int,
    temperature: float,
    at_once: int,
) -> None:
    draw = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(2, VOCABULARY, (n,), generator=draw).tolist() for n in lengths]
    found = sample_replies(
        module.actor, prompts, rollout_batch_size=at_once, max_new_tokens=new_tokens,
        temperature=temperature, stop_ids=[STOP, *range(7, 40)], pad_id=PAD, generator=draw,
    )  # fmt: skip
    read = response_logprobs(
        module.actor, *pad_left(prompts, PAD), found.response, found.action_mask,
        temperature=temperature,
    )  # fmt: skip
    torch.testing.assert_close(found.logp, read, rtol=1e-4, atol=1e-4)
    ends = [reply[-1] in {STOP, *range(7, 40)} for reply in found.reply_ids()]
    assert found.finished.tolist() == ends
    assert all(0 < len(reply) <= new_tokens for reply in found.reply_ids())
