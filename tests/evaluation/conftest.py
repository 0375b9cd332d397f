"""A small evaluation: two tiny actors, a reward model, and prompts of the grammar."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatllama_pipeline.evaluation.figures import ActorFigures, Comparison, Figures, Reply
from chatllama_pipeline.records import user_prompt
from chatllama_pipeline.schemas import PREFERENCE_SCHEMA, PROMPT_SCHEMA

QUESTIONS = ["Can you help me cook noodles?", "Can you help me grow lavender?"]


@pytest.fixture
def make_figures() -> Callable[..., Figures]:
    """Figures that the gate releases by its default settings, with what is asked for changed."""

    def make(**changed: Any) -> Figures:
        content: dict[str, Any] = {
            "actor_sft": ActorFigures(0.5, 0.1, 24.0, 0.98, 0.4, 0.3),
            "actor_ppo": ActorFigures(0.85, 1.9, 30.0, 1.0, 0.65, 0.2),
            "kl": 2.25,
            "win_rate": 0.9,
            "win_rate_low": 0.86,
            "win_rate_high": 0.94,
            "reward_model_accuracy": 0.88,
            "reward_model_pairs": 431,
            "sft_validation_loss": 0.34,
            "prompts": 200,
            "judged": 200,
        }
        return Figures(**(content | changed))

    return make


@pytest.fixture
def make_comparison() -> Callable[..., Comparison]:
    """A test prompt whose replies the judge scored as given; without scores nobody judged."""

    def make(
        prompt: str = "Why?",
        before: float | None = 1.0,
        after: float | None = 4.0,
        text: str = "So.",
    ) -> Comparison:
        sft = Reply(text, 2, True, 0.25, before, None if before is None else False)
        ppo = Reply(text, 3, True, 1.5, after, None if after is None else True)
        return Comparison(user_prompt(prompt), "grammar", sft, ppo, 0.5)

    return make


@pytest.fixture(scope="session")
def evaluation_inputs(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_base_folder: Path,
    write_table: Callable[..., Path],
) -> dict[str, Path]:
    """The five inputs of `evaluation`; actor_ppo is a sharper copy of actor_sft."""
    import torch
    from transformers import AutoTokenizer

    from chatllama_pipeline.models.heads import load_actor, load_reward

    root = tmp_path_factory.mktemp("evaluation")
    sft = shutil.copytree(tiny_base_folder, root / "actor_sft")
    (sft / "curves.json").write_text(
        json.dumps({"loss": [[1, 6.5], [2, 3.5]], "validation_loss": [[1, 5.5], [2, 3.25]]})
    )
    ppo = shutil.copytree(tiny_base_folder, root / "actor_ppo")
    actor = load_actor(tiny_base_folder, torch.float32)
    with torch.no_grad():
        actor.model.norm.weight.mul_(1.5)
    actor.save_pretrained(ppo)
    (ppo / "curves.json").write_text(json.dumps({"score": [[1, 0.0], [2, 1.0]], "kl": [[1, 0.0]]}))
    perfect = (
        "I am happy to help! If you want to cook noodles, heat the pan slowly and stir often. "
    )
    prompt = [{"role": "user", "content": QUESTIONS[0]}]
    samples = [
        {"iteration": iteration, "prompt": prompt, "reply": reply, "score": 0.0, "finished": True}
        for iteration, reply in [
            (1, "no"),
            (1, "no"),
            (2, "no"),
            (2, perfect + "Good luck, and enjoy it!"),
        ]
    ]
    (ppo / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    reward = root / "reward_model"
    torch.manual_seed(0)
    load_reward(tiny_base_folder, torch.float32).save_pretrained(reward)
    AutoTokenizer.from_pretrained(tiny_base_folder).save_pretrained(reward)
    (reward / "curves.json").write_text(json.dumps({"validation_accuracy": [[1, 0.5], [2, 0.75]]}))
    prompts = [
        {"prompt": [{"role": "user", "content": text}], "source": "grammar", "split": split}
        for text, split in [(QUESTIONS[0], "test"), (QUESTIONS[1], "test"), ("Hello!", "train")]
    ]
    pair = {"chosen": "yes", "rejected": "no", "strength": 1.0, "source": "grammar", "domain": ""}
    pairs = [
        {**pair, **prompts[0]},
        {**pair, **prompts[1], "chosen": "same", "rejected": "same"},
        {**pair, **prompts[2]},
    ]
    return {
        "actor_sft": sft,
        "actor_ppo": ppo,
        "reward_model": reward,
        "rlhf_training_data": write_table(root / "prompts", prompts, PROMPT_SCHEMA),
        "preference_data": write_table(root / "pairs", pairs, PREFERENCE_SCHEMA),
    }
