"""What may not change a minibatch's gradient and figures: micro-batches, order, padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from chatllama_pipeline.models.heads import load_actor, load_reward
from chatllama_pipeline.settings import PpoSettings
from chatllama_pipeline.settings.training.methods import MethodName
from chatllama_pipeline.training.ppo.collect import Loop, Written, policy_pass
from chatllama_pipeline.training.ppo.methods import METHODS
from chatllama_pipeline.training.ppo.model import ActorCritic
from chatllama_pipeline.training.ppo.parts import PART_COST, alike
from chatllama_pipeline.training.ppo.rollout import Rollout
from chatllama_pipeline.training.ppo.update import (
    Experience,
    Whole,
    _micro_loss,
    minibatch_gradients,
)


def fresh_critic(base: Path) -> Any:
    torch.manual_seed(1)
    return load_reward(base, torch.float32)


def random_experience(vocabulary: int = 300) -> Experience:
    """Six rows of random prompts (1 to 6 tokens) and replies (1 to 8 tokens)."""
    draw = torch.Generator().manual_seed(0)
    prompts = torch.arange(6) >= torch.tensor([5, 3, 0, 2, 4, 1])[:, None]
    mask = torch.arange(8) < torch.tensor([8, 1, 5, 2, 7, 3])[:, None]
    noise = torch.randn(3, 6, 8, generator=draw)
    return Experience(
        torch.randint(vocabulary, (6, 6), generator=draw),
        prompts,
        torch.randint(vocabulary, (6, 8), generator=draw),
        mask,
        -5.7 + 0.2 * noise[0],
        -5.7 + 0.2 * noise[1],
        noise[1] * mask,
        noise[2] * mask,
        noise[0] * mask,
    )


def gradient(
    base: Path, experience: Experience, method: MethodName = "ppo", **changes: Any
) -> tuple[Tensor, Tensor]:
    """The flat gradient and the figures of a minibatch."""
    critic = fresh_critic(base) if METHODS[method].has_critic else None
    module = ActorCritic(load_actor(base, torch.float32), critic).eval()
    settings = PpoSettings(beta_s=0.1, **changes)
    figures = minibatch_gradients(
        module, Accelerator(), experience, settings, method=METHODS[method], beta=0.1
    )
    grads = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
    return torch.cat(grads), torch.tensor(figures)


def assert_equal_within(actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    """Relative difference below 1e-5: of gradients as vectors, of each figure."""
    assert float((actual[0] - expected[0]).norm() / expected[0].norm()) < 1e-5
    torch.testing.assert_close(actual[1], expected[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_parts_of_like_length_change_nothing(
    tiny_base_folder: Path, method: MethodName, monkeypatch: pytest.MonkeyPatch
) -> None:
    experience = random_experience()
    masks = experience.prompt_mask, experience.action_mask
    assert len(alike(*masks, most=6)) == 1
    whole = gradient(tiny_base_folder, experience, method)
    monkeypatch.setitem(PART_COST, "cpu", 0)
    assert len(alike(*masks, most=6)) > 3
    assert_equal_within(gradient(tiny_base_folder, experience, method), whole)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_size_of_a_micro_batch_changes_nothing(
    tiny_base_folder: Path, size: int, method: MethodName
) -> None:
    whole = gradient(tiny_base_folder, random_experience(), method)
    assert_equal_within(
        gradient(tiny_base_folder, random_experience(), method, micro_batch_size=size), whole
    )


def test_the_order_of_rows_changes_nothing(tiny_base_folder: Path) -> None:
    shuffled = Experience(*(field[[3, 5, 0, 1, 4, 2]] for field in random_experience()))
    whole = gradient(tiny_base_folder, random_experience())
    assert_equal_within(gradient(tiny_base_folder, shuffled, micro_batch_size=4), whole)


def test_more_padding_changes_nothing(
    tiny_base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = random_experience()
    padded = Experience(
        *(torch.nn.functional.pad(field, (3, 0)) for field in plain[:2]),
        *(torch.nn.functional.pad(field, (0, 4)) for field in plain[2:]),
    )
    assert_equal_within(
        gradient(tiny_base_folder, padded), gradient(tiny_base_folder, random_experience())
    )
    # Also where the common padding is not cut away before the forward.
    monkeypatch.setattr(
        Experience, "rows", lambda self, index: Experience(*(f[index] for f in self))
    )
    assert_equal_within(gradient(tiny_base_folder, padded), gradient(tiny_base_folder, plain))


def test_actor_and_critic_one_after_the_other_learn_as_both_at_once(tiny_base_folder: Path) -> None:
    experience, settings = random_experience(), PpoSettings(beta_s=0.1)
    apart, figures = gradient(tiny_base_folder, experience)
    module = ActorCritic(
        load_actor(tiny_base_folder, torch.float32), fresh_critic(tiny_base_folder)
    )
    tokens = experience.action_mask.sum()
    whole = Whole(METHODS["ppo"], settings, tokens, replies=6)
    loss, *_ = _micro_loss(module.eval(), experience, whole, None)
    loss.backward()
    at_once = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    assert torch.equal(at_once, apart)
    assert loss.item() == pytest.approx(figures[5].item(), rel=1e-6)


def test_what_models_read_of_short_replies_is_not_padded_to_the_longest(
    tiny_base_folder: Path,
) -> None:
    rows, prompt, longest, short = 32, 22, 48, 12
    vocabulary, draws = 300, torch.Generator().manual_seed(0)
    lengths = torch.where(torch.arange(rows) % 2 == 0, longest, short)
    mask = torch.arange(longest) < lengths[:, None]
    ids = torch.randint(vocabulary, (rows, prompt + longest), generator=draws)
    prompts = ids[:, :prompt], torch.ones(rows, prompt, dtype=torch.bool)
    zeros = torch.zeros(5, rows, longest)
    experience = Experience(*prompts, ids[:, prompt:], mask, *zeros)
    critic = fresh_critic(tiny_base_folder)
    module = ActorCritic(load_actor(tiny_base_folder, torch.float32), critic).eval()
    read: list[int] = []
    for model in (module.actor, critic.base_model):
        model.register_forward_pre_hook(
            lambda part, args, given: read.append(given["input_ids"].numel()), with_kwargs=True
        )
    # The last response column predicts nothing.
    needed = 2 * (rows * (prompt - 1) + int(lengths.sum()))

    settings = PpoSettings()
    minibatch_gradients(module, Accelerator(), experience, settings)
    assert sum(read) == needed

    read.clear()
    reference = load_actor(tiny_base_folder, torch.float32).eval()
    loop = Loop(
        module, module, reference, cast(Any, None), cast(Any, None), settings, METHODS["ppo"],
        Accelerator(), seed=0,
    )  # fmt: skip
    rollout = Rollout(ids[:, prompt:], mask, lengths < longest, torch.zeros(mask.shape))
    said = policy_pass(loop, Written(*prompts, rollout))
    assert sum(read) == needed
    columns = (*prompts, ids[:, prompt:], mask)
    with torch.no_grad():
        whole = module(*columns, settings.temperature, True)
    for found, expected in ((said.logp, whole.logp), (said.values, whole.values)):
        torch.testing.assert_close(found[mask], expected[mask], rtol=1e-5, atol=1e-5)
