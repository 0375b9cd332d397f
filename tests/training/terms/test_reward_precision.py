"""The reward model in bfloat16 where PPO computes so, as long as it scores as in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.test_utils.testing import AccelerateTestCase

from chatllama_pipeline.models.heads import RewardScorer
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import StageSpec, user_prompt
from chatllama_pipeline.training.ppo.stage import run
from chatllama_pipeline.training.terms import precision
from chatllama_pipeline.training.terms.precision import in_bfloat16
from tests.training.paid import SETTINGS, TRAINER

WORDS = ["alpha bravo", "charlie", "delta echo", "golf"]
PROMPTS = [user_prompt(word) for word in WORDS]


@pytest.fixture
def scorer(paid_inputs: dict[str, Path]) -> RewardScorer:
    return RewardScorer(paid_inputs["reward_model"])


def test_scores_are_rounded_and_stay_what_they_were(scorer: RewardScorer) -> None:
    said: list[str] = []
    rounded = in_bfloat16(scorer, PROMPTS, Progress("test", said.append))
    assert "the reward model scores in bfloat16: in bfloat16 its scores move by " in said[-1]
    found, exact = rounded(PROMPTS, WORDS), scorer(PROMPTS, WORDS)
    assert not torch.equal(found, exact)
    torch.testing.assert_close(found, exact, atol=precision.WITHIN, rtol=0)
    assert found.dtype == torch.float32


@pytest.mark.parametrize("beyond", ["far apart", "no number"])
def test_a_reward_model_that_says_other_things_in_bfloat16_is_asked_in_float32(
    scorer: RewardScorer, beyond: str
) -> None:
    def answer(module: Any, given: Any, found: Any) -> Any:
        if not torch.is_autocast_enabled("cpu"):
            return found
        return found + 1 if beyond == "far apart" else found * torch.nan

    scorer.model.score.register_forward_hook(answer)
    said: list[str] = []
    found = in_bfloat16(scorer, PROMPTS, Progress("test", said.append))
    assert found is scorer
    assert "the reward model scores in float32" in said[-1]


@pytest.fixture
def other_precision() -> Iterator[None]:
    """accelerate lets a process choose its precision once, but for what it offers to tests."""
    AccelerateTestCase().tearDown()
    yield
    AccelerateTestCase().tearDown()


@pytest.mark.usefixtures("other_precision")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_asks_its_reward_model_at_its_own_precision(
    make_spec: Callable[..., StageSpec], paid_inputs: dict[str, Path], precision: str
) -> None:
    trainer = {**TRAINER, "num_episodes": 1, "precision": precision}
    spec = make_spec("actor_ppo", {**SETTINGS, "trainer_config": trainer}, paid_inputs)
    said: list[str] = []
    outcome = run(spec, Progress("test", said.append))
    assert all(check.passed for check in outcome.checks)
    told = [line for line in said if "the reward model scores in bfloat16" in line]
    assert len(told) == (precision == "bfloat16")
