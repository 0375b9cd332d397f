"""The reward model of the command `score`, with torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from chatllama_pipeline.models.heads import RewardScorer
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.serving.scores import Reply


def reward_scores(folder: Path, replies: Sequence[Reply]) -> tuple[list[float], str]:
    """The normalised score of each reply, on the GPU where there is one; and a warning, or ""."""
    quiet_transformers()
    scorer = RewardScorer(folder, "cuda" if torch.cuda.is_available() else "cpu")
    found: list[float] = scorer([r.prompt for r in replies], [r.reply for r in replies]).tolist()
    if not scorer.cut:
        return found, ""
    return found, (
        f"{scorer.cut} of {len(found)} are longer with their prompts than the {scorer.max_length} "
        "tokens that the reward model reads: it was shown the end of them"
    )
