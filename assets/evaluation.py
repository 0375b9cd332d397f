"""Evaluation: is the actor better after PPO than before?"""

from assets.making import stage_asset

evaluation = stage_asset(
    "evaluation",
    group="evaluation",
    kinds=("pytorch", "html"),
    description="SFT against PPO on test prompts, with the verdict of the release gate.",
)
