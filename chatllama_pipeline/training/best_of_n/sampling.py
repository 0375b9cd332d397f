"""Replies sampled and scored in parts that outlive a kill, whichever process made them.

Each process samples every so-manieth part, and the first one scores them all. What a part holds
follows from its number alone, so it is the same however many processes there are.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatllama_pipeline.models.chat.template import Example
from chatllama_pipeline.records import Prompt
from chatllama_pipeline.seeds import stage_seed
from chatllama_pipeline.training.ppo.rollout import sample_replies
from chatllama_pipeline.training.terms.weighing import Scales, Term

# What a kill costs at most is the sampling of one part in each process.
PROMPTS_PER_PART = 16
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Asked:
    """The prompts with their token ids, and how many replies each gets."""

    prompts: Sequence[Prompt]
    ids: Sequence[list[int]]
    replies: int

    @property
    def parts(self) -> list[slice]:
        """The prompts of each part."""
        starts = range(0, len(self.ids), PROMPTS_PER_PART)
        return [slice(start, min(start + PROMPTS_PER_PART, len(self.ids))) for start in starts]

    def rows(self, part: slice) -> list[int]:
        """The prompt of each reply of a part."""
        return [row for row in range(part.start, part.stop) for _ in range(self.replies)]


@dataclass(frozen=True)
class Sampler:
    """How replies are written, `at_once` of them; `read` gives the texts of ids, None for none."""

    model: Any
    read: Callable[[list[list[int]]], list[str | None]]
    at_once: int
    max_new_tokens: int
    temperature: float
    stop_ids: Sequence[int]
    pad_id: int
    seed: int


@dataclass(frozen=True)
class Best:
    """The best reply to a prompt: ids, text, what it earns, and what all n earn on average."""

    prompt: int
    ids: list[int]
    text: str
    score: float
    mean_score: float

    def example(self, asked: Asked) -> Example:
        """The conversation as it was sampled, token by token."""
        prompt = asked.ids[self.prompt]
        return Example([*prompt, *self.ids], len(prompt))


def sample_part(asked: Asked, number: int, sampler: Sampler) -> dict[str, Any]:
    """Replies of a part as plain data: `ids`, `texts`, and which are `finished`."""
    prompts = [asked.ids[row] for row in asked.rows(asked.parts[number])]
    generator = torch.Generator(sampler.model.device)
    rollout = sample_replies(
        sampler.model,
        prompts,
        rollout_batch_size=sampler.at_once,
        max_new_tokens=sampler.max_new_tokens,
        temperature=sampler.temperature,
        stop_ids=sampler.stop_ids,
        pad_id=sampler.pad_id,
        generator=generator.manual_seed(stage_seed(sampler.seed, "best of n", number)),
    )
    ids = rollout.reply_ids()
    texts = sampler.read(ids)
    ended = zip(rollout.finished.tolist(), texts, strict=True)
    return {
        "ids": ids,
        "texts": [text or "" for text in texts],
        "finished": [end and text is not None for end, text in ended],
    }


def choose(
    asked: Asked, sampled: Sequence[dict[str, Any]], scores: Sequence[Tensor], terms: Sequence[Term]
) -> list[Best]:
    """The best finished reply to each prompt that has one; of equals the first.

    `sampled` and `scores` are those of each part; `[B]`, or `[B,K]` of K terms.
    """
    scales, found = Scales(), []
    for part, replies, given in zip(asked.parts, sampled, scores, strict=True):
        earned = scales.weigh(given, terms).total.tolist()
        for place, prompt in enumerate(range(part.start, part.stop)):
            rows = range(place * asked.replies, (place + 1) * asked.replies)
            ended = [row for row in rows if replies["finished"][row]]
            if ended:
                best = max(ended, key=lambda row: earned[row])
                mean = sum(earned[row] for row in rows) / asked.replies
                ids, text = replies["ids"][best], replies["texts"][best]
                found.append(Best(prompt, ids, text, earned[best], mean))
    return found


@dataclass(frozen=True)
class Parts:
    """Parts of one kind as files, each written whole or not at all."""

    folder: Path

    def file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.json"

    def write(self, number: int, content: Any) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = self.file(number).with_suffix(".unfinished")
        unfinished.write_text(json.dumps(content))
        unfinished.replace(self.file(number))

    def has(self, number: int) -> bool:
        return self.file(number).exists()

    def wait_for(self, number: int) -> Any:
        """A part that another process may be making still; where it fails, all are ended."""
        while not self.has(number):
            time.sleep(_POLL_SECONDS)
        return json.loads(self.file(number).read_text())
