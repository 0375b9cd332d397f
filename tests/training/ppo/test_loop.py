"""The loop of the RL methods on a tiny model, with rewards of the tests' own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import AutoTokenizer

from chatllama_pipeline.models.families.cached import Cached
from chatllama_pipeline.models.heads import (
    load_actor,
    load_reward,
)
from chatllama_pipeline.records import user_prompt
from chatllama_pipeline.settings import PpoSettings
from chatllama_pipeline.settings.training.methods import MethodName
from chatllama_pipeline.training.ppo import rollout
from chatllama_pipeline.training.ppo.collect import Task
from chatllama_pipeline.training.ppo.loop import Training, train
from chatllama_pipeline.training.ppo.methods import METHODS
from chatllama_pipeline.training.ppo.model import ActorCritic
from tests.tiny import QUIET
from tests.training.ppo.tiny import PROMPTS, TRAINER


def prefers_short(prompts: Any, texts: list[str], replies: list[list[int]]) -> Tensor:
    return -torch.tensor([float(len(reply)) for reply in replies])


def trained(
    base: Path, reward: Any, decode: Any = None, method: MethodName = "ppo", **changes: Any
) -> tuple[ActorCritic, Training]:
    """Some iterations of the loop with a reward of the test's own."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    critic = fresh_critic(base) if METHODS[method].has_critic else None
    module = ActorCritic(load_actor(base, torch.float32), critic)
    ids = [tokenizer.encode(text) for text in PROMPTS]
    task = Task(
        prompts=[user_prompt(text) for text in PROMPTS],
        prompt_ids=ids,
        reward=reward,
        decode=decode or tokenizer.batch_decode,
        stop_ids=[tokenizer.eos_token_id, *range(5, 45)],  # so that random replies end
        pad_id=tokenizer.eos_token_id,
        max_new_tokens=8,
    )
    training = train(
        module,
        load_actor(base, torch.float32),
        task,
        PpoSettings(**(TRAINER | changes)),
        method=METHODS[method],
        accelerator=Accelerator(),
        seed=0,
        progress=QUIET,
    )
    return module, training


def test_a_reply_that_never_came_to_replying_is_unfinished_and_scored_as_nothing(
    tiny_base_folder: Path,
) -> None:
    read: list[str] = []

    def reward(prompts: Any, texts: list[str], replies: Any) -> Tensor:
        read.extend(texts)
        return torch.zeros(len(texts))

    _, training = trained(
        tiny_base_folder, reward, decode=lambda replies: [None] * len(replies), num_episodes=1
    )
    assert {value for _, value in training.log.curves["share_finished"]} == {0.0}
    assert read and set(read) == {""}


def fresh_critic(base: Path) -> Any:
    torch.manual_seed(1)
    return load_reward(base, torch.float32)


def test_the_first_update_starts_at_ratio_one_and_kl_zero(tiny_base_folder: Path) -> None:
    _, training = trained(
        tiny_base_folder, prefers_short, num_episodes=1, batch_size=None, epochs=1
    )
    first = {name: points[0][1] for name, points in training.log.curves.items()}
    assert first["ratio_min"] == pytest.approx(1, abs=1e-5)
    assert first["ratio_max"] == pytest.approx(1, abs=1e-5)
    assert first["clip_fraction"] == 0
    assert first["value_clip_fraction"] == 0
    assert first["kl"] == pytest.approx(0, abs=1e-5)
    assert first["update_kl"] == pytest.approx(0, abs=1e-6)
    # A random model's choice among 300 tokens is all but uniform: ln 300 = 5.704.
    assert first["entropy"] == pytest.approx(5.70, abs=0.05)
    assert first["sampled_apart"] < 1e-5
    assert training.log.warnings() == []


def test_replies_drawn_from_what_is_not_scored_are_told(
    tiny_base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sharper(Cached):
        def next_logits(self) -> Tensor:
            return 20 * super().next_logits()

    monkeypatch.setattr(rollout, "decoding", lambda *begun, record: Sharper(*begun))
    _, training = trained(
        tiny_base_folder, prefers_short, num_episodes=1, batch_size=None, epochs=1
    )
    (warning,) = training.log.warnings()
    assert "another distribution than the one that is scored" in warning


@pytest.mark.parametrize(("method", "replies"), [("ppo", 1), ("rloo", 4), ("grpo", 4)])
def test_replies_become_shorter_where_short_replies_are_rewarded(
    tiny_base_folder: Path, method: MethodName, replies: int
) -> None:
    _, training = trained(
        tiny_base_folder,
        prefers_short,
        method=method,
        num_episodes=24,
        update_timesteps=32 // replies,
        max_timesteps=32 // replies,
        replies_per_prompt=replies,
        batch_size=16,
        actor_lr=1e-2,
        kl_beta=0.0,
    )
    lengths = [value for _, value in training.log.curves["reply_tokens"]]
    assert sum(lengths[:2]) / 2 > 4
    assert sum(lengths[-2:]) / 2 < 2.5


def test_a_policy_that_moved_too_far_ends_the_update(tiny_base_folder: Path) -> None:
    _, training = trained(tiny_base_folder, prefers_short, num_episodes=1, update_kl_limit=1e-9)
    # Two epochs of two minibatches; the second sees the first one's step.
    assert training.log.curves["optimizer_steps"] == [(1.0, 1.0)]


def test_non_finite_losses_move_no_weight_and_end_the_training(tiny_base_folder: Path) -> None:
    def broken(prompts: Any, texts: Any, replies: list[list[int]]) -> Tensor:
        return torch.full((len(replies),), math.nan)

    module, training = trained(tiny_base_folder, broken)
    before = load_actor(tiny_base_folder, torch.float32).state_dict()
    assert all(torch.equal(before[name], w) for name, w in module.actor.state_dict().items())
    # Four steps an iteration: the fifth, in the second, is the last.
    assert (training.iterations_done, training.guard.steps, training.guard.skipped) == (2, 5, 5)
    assert not training.guard.passed


def test_the_reward_sees_the_end_token_that_a_finished_reply_has(tiny_base_folder: Path) -> None:
    seen: list[list[int]] = []

    def remember(prompts: Any, texts: list[str], replies: list[list[int]]) -> Tensor:
        seen.extend(replies)
        return torch.zeros(len(replies))

    eos = AutoTokenizer.from_pretrained(tiny_base_folder).eos_token_id
    stops = {eos, *range(5, 45)}
    _, training = trained(tiny_base_folder, remember, num_episodes=2)
    ended = [reply[-1] in stops for reply in seen]
    assert ended == [sample["finished"] for sample in training.log.samples]
    assert any(ended) and all(len(reply) == 8 for reply in seen if reply[-1] not in stops)
