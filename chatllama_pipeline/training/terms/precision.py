"""The reward model at the precision of the training that it pays."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chatllama_pipeline.models.heads import RewardScorer
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Prompt
from chatllama_pipeline.training.terms.asking import Scorer

# Prompts on which bfloat16 is tried, and how far a score may move there, in standard deviations of
# the scores that the reward model was trained on.
TRIED, WITHIN = 16, 0.1


def in_bfloat16(scorer: RewardScorer, prompts: Sequence[Prompt], progress: Progress) -> Scorer:
    """`scorer` with matrix products in bfloat16, where some replies get the scores of float32.

    What is tried are the first `prompts`, answered by themselves: the same in every process, and
    after a resume. Says what came of it.
    """
    device = scorer.model.device.type

    def rounded(asked: list[Prompt], replies: list[str]) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            return scorer(asked, replies)

    asked = list(prompts[:TRIED])
    replies = [prompt[-1].content for prompt in asked]
    apart = float((rounded(asked, replies) - scorer(asked, replies)).abs().max())
    pays = apart <= WITHIN
    progress.say(
        f"the reward model scores in {'bfloat16' if pays else 'float32'}: in bfloat16 its scores "
        f"move by {apart:.2g} standard deviations at most ({WITHIN:g} may be)"
    )
    return rounded if pays else scorer
