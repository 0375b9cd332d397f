"""The reward functions that the docs show run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from chatllama_pipeline.records import user_prompt
from chatllama_pipeline.settings.folder import load_assistant
from chatllama_pipeline.training.terms.functions import Functions

PAGE = Path(__file__).parents[3] / "docs" / "making" / "training.md"


def test_the_docs_rewards_are_taken_and_give_what_is_said(tmp_path: Path) -> None:
    page = PAGE.read_text()
    section = page[page.index("## Rewards of your own") :]
    [config, source] = re.findall(r"```(?:yaml|python)\n(.*?)```", section, re.DOTALL)[:2]
    assert yaml.safe_load(config)["rewards"]["weights"]["reward_model"] == 1
    (tmp_path / "mia").mkdir()
    (tmp_path / "mia" / "config.yaml").write_text(config)
    (tmp_path / "mia" / "rewards.py").write_text(source)
    rewards = load_assistant("mia", root=tmp_path).settings.rewards
    with Functions(rewards) as functions:
        prompts = [user_prompt("How do I brew green tea?")] * 2
        functions.begin(prompts, ["Brew your green leaves.", "well " * 25])
        assert functions.finish() == {"brief": [0.0, -5.0], "on_topic": [1.0, 0.0]}
