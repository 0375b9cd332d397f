"""PPO's values from a head on the actor's own trunk: its gradient, its payload, its refusals."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor
from transformers import FSMTConfig, FSMTForConditionalGeneration

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.families.manner import Manner, set_manner
from chatllama_pipeline.models.heads import load_actor, load_reward, response_values
from chatllama_pipeline.models.memory.means import Means
from chatllama_pipeline.models.memory.plan import memory_plan
from chatllama_pipeline.records import Outcome, StageSpec
from chatllama_pipeline.settings import AssistantSettings, PpoSettings
from chatllama_pipeline.training.ppo.model import ActorCritic, head_on
from chatllama_pipeline.training.ppo.roles import Roles
from chatllama_pipeline.training.ppo.stage import run
from chatllama_pipeline.training.ppo.update import Experience, minibatch_gradients
from tests.tiny import QUIET
from tests.training.ppo.test_update import random_experience
from tests.training.ppo.tiny import TRAINER

SETTINGS = PpoSettings(
    beta_s=0.1, value_coefficient=0.7, critic_eps_clip=0.3, temperature=0.8, micro_batch_size=4
)
OWN, SHARED = "own", "shared"


def on_one_trunk(base: Path) -> ActorCritic:
    """An actor with a head of random weights, so that its values reach the trunk."""
    actor = load_actor(base, torch.float32)
    head = head_on(actor)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        head.score.weight.copy_(torch.randn(head.score.weight.shape, generator=draw))
    return ActorCritic(actor, head).eval()


def slow_gradient(base: Path, head: Tensor, rows: Experience) -> tuple[float, Tensor]:
    """PPO's whole loss by its equations, token by token in float64, and its gradient.

    By transformers' own forward on one unpadded row after the other.
    """
    model = load_actor(base, torch.float64)
    weight = head.double().clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for row in range(len(rows.response)):
        prompt = rows.prompt_ids[row][rows.prompt_mask[row]].tolist()
        reply = rows.response[row][rows.action_mask[row]].tolist()
        ids = torch.tensor([prompt + reply])
        said = model(input_ids=ids, output_hidden_states=True, use_cache=False)
        for t, token in enumerate(reply):
            column = len(prompt) + t - 1
            logp = (said.logits[0, column] / SETTINGS.temperature).log_softmax(-1)
            ratio = (logp[token] - rows.logp_old[row, t].double()).exp()
            advantage = rows.advantages[row, t].double()
            low, high = 1 - SETTINGS.actor_eps_clip, 1 + SETTINGS.actor_eps_clip
            total = total - torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage)
            total = total + SETTINGS.beta_s * (logp.exp() * logp).sum()
            value = said.hidden_states[-1][0, column] @ weight[0]
            old, wanted = rows.values_old[row, t].double(), rows.returns[row, t].double()
            near = value.clamp(old - SETTINGS.critic_eps_clip, old + SETTINGS.critic_eps_clip)
            worse = torch.maximum((value - wanted).square(), (near - wanted).square())
            total = total + SETTINGS.value_coefficient * worse / 2
    loss = total / rows.action_mask.sum()
    loss.backward()
    every = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    assert weight.grad is not None
    return loss.item(), torch.cat([*every, weight.grad.flatten()])


def test_one_forward_and_one_backward_give_the_gradient_of_the_equations(
    tiny_base_folder: Path,
) -> None:
    module, rows = on_one_trunk(tiny_base_folder), random_experience()
    read: list[int] = []
    module.actor.register_forward_pre_hook(
        lambda part, given, named: read.append(len(named["input_ids"])), with_kwargs=True
    )
    figures = minibatch_gradients(module, Accelerator(), rows, SETTINGS)
    assert sum(read) == 6  # each row once: values and logits come of the same forward
    found = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    loss, expected = slow_gradient(tiny_base_folder, module.critic.score.weight.detach(), rows)
    assert figures.loss == pytest.approx(loss, rel=1e-5)
    assert figures.value_clip_fraction > 0 and figures.clip_fraction > 0
    assert float((found - expected).norm() / expected.norm()) < 1e-5
    # The values' part reaches the trunk, too: without it another gradient comes out.
    policy_alone = SETTINGS.model_copy(update={"value_coefficient": 0.0})
    module.zero_grad()
    minibatch_gradients(module, Accelerator(), rows, policy_alone)
    other = torch.cat([p.grad.flatten() for p in module.actor.parameters() if p.grad is not None])
    assert float((found[: len(other)] - other).norm() / other.norm()) > 0.1


def test_a_head_says_of_a_trunk_what_a_critic_on_the_same_weights_does(
    tiny_base_folder: Path,
) -> None:
    module, rows = on_one_trunk(tiny_base_folder), random_experience()
    critic = load_reward(tiny_base_folder, torch.float32)
    critic.score.load_state_dict(module.critic.score.state_dict())
    columns = rows.prompt_ids, rows.prompt_mask, rows.response, rows.action_mask
    with torch.no_grad():
        found = module(*columns, 1.0, False)
        values = response_values(critic, *columns)
        alone = ActorCritic(module.actor, None).eval()(*columns, 1.0, False)
    mask = rows.action_mask
    torch.testing.assert_close(found.values[mask], values[mask], rtol=1e-5, atol=1e-5)
    assert torch.equal(found.logp[mask], alone.logp[mask])
    # Where padding before a row would disturb a family, it is moved behind; values follow.
    set_manner(module.actor.config, Manner(left_padded=False))
    with torch.no_grad():
        moved = module(*columns, 1.0, False)
    torch.testing.assert_close(moved.values[mask], values[mask], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(moved.logp[mask], found.logp[mask], rtol=1e-5, atol=1e-5)


def test_an_actor_without_a_layer_that_makes_its_logits_is_refused() -> None:
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1}
    sizes |= {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
    sizes |= {f"{side}_ffn_dim": 16 for side in ("encoder", "decoder")}
    config = FSMTConfig(langs=["a", "b"], src_vocab_size=40, tgt_vocab_size=40, **sizes)
    with pytest.raises(SettingsError, match=r"hidden states.*: set critic_config\.trunk: own"):
        head_on(FSMTForConditionalGeneration(config).eval())


@pytest.fixture
def done(
    make_spec: Callable[..., StageSpec], paid_inputs: dict[str, Path]
) -> Callable[..., tuple[StageSpec, Outcome]]:
    """The stage, run with a trunk of either kind."""

    def make(trunk: str, **trainer: Any) -> tuple[StageSpec, Outcome]:
        settings = {
            "actor_config": {"model": "scratch", "max_sequence_length": 64, "max_tokens": 8},
            "trainer_config": {**TRAINER, **trainer},
            "critic_config": {"trunk": trunk},
        }
        spec = make_spec("actor_ppo", settings, paid_inputs, trunk)
        return spec, run(spec, QUIET)

    return make


def test_on_one_trunk_three_models_are_loaded_planned_and_a_head_is_written(
    done: Callable[..., tuple[StageSpec, Outcome]], loaded: list[Roles]
) -> None:
    spec, outcome = done(SHARED, num_episodes=2)
    assert loaded[0].sharing == [["reference"], ["policy"], ["reward"]]
    assert all(check.passed for check in outcome.checks) and outcome.warnings == []
    folders = {role: Path(spec.inputs["actor_sft"]) for role in ("policy", "reference", "reward")}
    plan = memory_plan("actor_ppo", folders, AssistantSettings(), Means())
    assert outcome.metrics["planned_peak_in"] in plan.phases and "critic" not in str(plan.held)

    # The actor is as plain a model as it was; of the critic there is its head.
    output = Path(spec.output)
    weights, before = (
        set(load_file(folder / "model.safetensors"))
        for folder in (output, Path(spec.inputs["actor_sft"]))
    )
    assert weights == before
    assert [file.name for file in (output / "critic").iterdir()] == ["head.safetensors"]
    head = load_file(output / "critic" / "head.safetensors")
    assert head.keys() == {"score.weight"} and head["score.weight"].any()
    assert torch.equal(head["score.weight"], loaded[0].critic.score.weight)


def test_a_shared_trunk_changes_neither_scores_nor_kl_before_it_learns(
    done: Callable[..., tuple[StageSpec, Outcome]],
) -> None:
    curves = {}
    for trunk in (OWN, SHARED):
        spec, _ = done(trunk, num_episodes=1)
        curves[trunk] = json.loads((Path(spec.output) / "curves.json").read_text())
    own, shared = curves[OWN], curves[SHARED]
    assert own.keys() == shared.keys()
    for name in ("score", "kl", "entropy", "reply_tokens", "sampled_apart"):
        assert own[name] == shared[name], name
    # A head begins at zero: it says nothing of what a reply is worth.
    (explained,) = (value for _, value in shared["explained_variance"])
    assert explained == pytest.approx(0, abs=1e-6)
    assert math.isfinite(shared["value_loss"][0][1]) and shared["value_loss"][0][1] > 0
