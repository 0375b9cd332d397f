"""The reward model of the command `score`, with torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from chatllama_pipeline.models.heads import RewardScorer
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.serving.scores import Reply


def reward_scores(folder: Path, replies: Sequence[Reply]) -> list[float]:
    """The normalised score of each reply, on the GPU where there is one."""
    quiet_transformers()
    scorer = RewardScorer(folder, "cuda" if torch.cuda.is_available() else "cpu")
    found: list[float] = scorer([r.prompt for r in replies], [r.reply for r in replies]).tolist()
    return found
