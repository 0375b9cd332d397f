"""An iteration's update, from scores to moved weights, against plain loops in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from chatllama_pipeline.models.heads import load_actor, load_reward
from chatllama_pipeline.settings import PpoSettings
from chatllama_pipeline.training.guards import Guard
from chatllama_pipeline.training.ppo.equations import k1
from chatllama_pipeline.training.ppo.loop import ADAM_EPS, make_optimizer
from chatllama_pipeline.training.ppo.methods import METHODS, Judged
from chatllama_pipeline.training.ppo.model import ActorCritic
from chatllama_pipeline.training.ppo.update import Experience, minibatches, update
from tests.training.ppo.test_update import random_experience

SETTINGS = PpoSettings(
    actor_lr=3e-3, critic_lr=1e-2, epochs=2, batch_size=3, micro_batch_size=3, temperature=0.8,
    update_timesteps=6, max_timesteps=6, gamma_discounted=0.98, gae_lambda=0.9, beta_s=0.05,
    value_coefficient=0.7, critic_eps_clip=0.3, score_clip=2.0, max_grad_norm=0.5,
    update_kl_limit=1e9,
)  # fmt: skip
BETA, SEED = 0.3, 11
SCORES = [0.5, -1.0, 3.0, 0.2, -0.3, -5.0]


def models(base: Path) -> tuple[Any, Any]:
    torch.manual_seed(1)
    return load_actor(base, torch.float64), load_reward(base, torch.float64)


def experience() -> Experience:
    """Six rows whose old values are near what the critic says, so that some clip and some don't."""
    rows = random_experience()
    return rows._replace(**{name: field.double() for name, field in rows._asdict().items()
                            if field.dtype == torch.float32})  # fmt: skip


def credit(rows: Experience) -> tuple[list[list[float]], list[list[float]]]:
    """Whitened advantages and returns of each row's tokens, one after the other."""
    gamma, lam = SETTINGS.gamma_discounted, SETTINGS.gae_lambda
    advantages, returns = [], []
    for row, score in enumerate(SCORES):
        kept = rows.action_mask[row]
        new, ref = rows.logp_old[row][kept].tolist(), rows.logp_ref[row][kept].tolist()
        values = [*rows.values_old[row][kept].tolist(), 0.0]
        rewards = [-BETA * (a - b) for a, b in zip(new, ref, strict=True)]
        rewards[-1] += min(max(score, -SETTINGS.score_clip), SETTINGS.score_clip)
        found, after = [0.0] * len(new), 0.0
        for t in reversed(range(len(new))):
            after = rewards[t] + gamma * values[t + 1] - values[t] + gamma * lam * after
            found[t] = after
        advantages.append(found)
        returns.append([a + v for a, v in zip(found, values, strict=False)])
    every = [a for row_ in advantages for a in row_]
    mean = sum(every) / len(every)
    variance = sum((a - mean) ** 2 for a in every) / (len(every) - 1)
    return [[(a - mean) / math.sqrt(variance + 1e-8) for a in row_] for row_ in advantages], returns


def loss_of(actor: Any, critic: Any, rows: Experience, chosen: list[int]) -> Tensor:
    """PPO's loss of a minibatch, token by token, by forwards of one unpadded row each."""
    advantages, returns = credit(rows)
    total, tokens = torch.zeros((), dtype=torch.float64), 0
    for row in chosen:
        prompt = rows.prompt_ids[row][rows.prompt_mask[row]].tolist()
        reply = rows.response[row][rows.action_mask[row]].tolist()
        ids = torch.tensor([prompt + reply])
        logits = actor(input_ids=ids, use_cache=False).logits[0] / SETTINGS.temperature
        states = critic.model(input_ids=ids, use_cache=False).last_hidden_state[0]
        for t, token in enumerate(reply):
            column = len(prompt) + t - 1
            logp = logits[column].log_softmax(-1)
            ratio = (logp[token] - rows.logp_old[row, t]).exp()
            gain, clip = advantages[row][t], SETTINGS.actor_eps_clip
            total = total - torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)
            total = total + SETTINGS.beta_s * (logp.exp() * logp).sum()
            value, old = critic.score(states[column])[0], rows.values_old[row, t]
            near = value.clamp(old - SETTINGS.critic_eps_clip, old + SETTINGS.critic_eps_clip)
            wanted = returns[row][t]
            worse = torch.maximum((value - wanted).square(), (near - wanted).square())
            total = total + SETTINGS.value_coefficient * worse / 2
            tokens += 1
    return total / tokens


class SlowAdam:
    """Adam by its paper, each model at its own rate, behind one clip of all gradients."""

    def __init__(self, groups: list[tuple[list[Any], float]]) -> None:
        self.groups, self.steps = groups, 0
        self.moments = {id(p): (0 * p.data, 0 * p.data) for group, _ in groups for p in group}

    def step(self) -> None:
        self.steps += 1
        every = [p.grad for group, _ in self.groups for p in group]
        norm = math.sqrt(sum(float(g.square().sum()) for g in every))
        scale = min(1.0, SETTINGS.max_grad_norm / (norm + 1e-6))
        for group, rate in self.groups:
            for p in group:
                g, (first, second) = p.grad * scale, self.moments[id(p)]
                first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
                self.moments[id(p)] = first, second
                mean, square = first / (1 - 0.9**self.steps), second / (1 - 0.999**self.steps)
                p.data -= rate * mean / (square.sqrt() + ADAM_EPS)
                p.grad = None


def test_an_update_moves_every_weight_where_plain_loops_move_it(tiny_base_folder: Path) -> None:
    rows = experience()
    actor, critic = models(tiny_base_folder)
    by_hand = SlowAdam(
        [
            ([p for p in model.parameters() if p.requires_grad], rate)
            for model, rate in ((actor, SETTINGS.actor_lr), (critic, SETTINGS.critic_lr))
        ]
    )
    before = torch.cat([p.detach().flatten() for m in (actor, critic) for p in m.parameters()])
    for chosen in minibatches(6, SETTINGS.minibatch_size, SETTINGS.epochs, SEED):
        loss_of(actor, critic, rows, chosen.tolist()).backward()  # type: ignore[no-untyped-call]
        by_hand.step()
    expected = torch.cat([p.detach().flatten() for m in (actor, critic) for p in m.parameters()])

    module = ActorCritic(*models(tiny_base_folder)).eval()
    kl, scores = k1(rows.logp_old, rows.logp_ref), torch.tensor(SCORES, dtype=torch.float64)
    judged = Judged(scores, kl, rows.values_old, rows.action_mask, BETA)
    advantages, returns = METHODS["ppo"].credit(judged, SETTINGS)
    given = rows._replace(advantages=advantages, returns=returns)
    accelerator = Accelerator()
    optimizer = accelerator.prepare(make_optimizer(module, SETTINGS))
    figures = update(module, optimizer, accelerator, given, SETTINGS, Guard(), SEED)
    found = torch.cat([p.detach().flatten() for p in module.parameters()])

    assert by_hand.steps == figures["optimizer_steps"] == 4
    assert figures["clip_fraction"] > 0 and figures["value_clip_fraction"] > 0
    assert figures["gradient_norm_max"] > SETTINGS.max_grad_norm
    moved, wanted = found - before, expected - before
    assert float((moved - wanted).norm() / wanted.norm()) < 1e-4
