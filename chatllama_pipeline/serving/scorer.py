"""The reward model of the command `score`, with torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from chatllama_pipeline.models.heads import RewardScorer
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.serving.scores import DECIMALS, Reply
from chatllama_pipeline.settings.folder import Assistant
from chatllama_pipeline.store.manifests import RUNS
from chatllama_pipeline.store.versions import store_root
from chatllama_pipeline.training.terms.asking import open_rewards


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


def every_reward(
    assistant: Assistant, replies: Sequence[Reply], scores: Sequence[float]
) -> tuple[list[dict[str, float | None]], list[str]]:
    """What each reward that PPO is paid by says of each reply, unweighted, and warnings.

    `scores` are the reward model's. A judge is asked within llm.max_usd, which a second try at the
    same replies goes on with; None is a verdict that can't be read. Raises what `open_rewards` and
    its columns raise.
    """
    told = repr([(reply.prompt, reply.reply) for reply in replies])
    digest = hashlib.sha256(told.encode()).hexdigest()[:16]
    run_folder = store_root() / RUNS / "score" / assistant.name / digest
    with open_rewards(assistant.settings, assistant.folder, run_folder) as asking:
        prompts, texts = [one.prompt for one in replies], [one.reply for one in replies]
        columns = asking.columns(prompts, texts, lambda *_: torch.tensor(scores))
        names = assistant.settings.rewards.weights
        values = [[round(value, DECIMALS) for value in row] for row in columns.tolist()]
        rows = [
            {
                name: None if math.isnan(value) else value
                for name, value in zip(names, row, strict=True)
            }
            for row in values
        ]
        return rows, asking.warnings()
