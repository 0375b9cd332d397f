"""What was seen of a training, as a file beside the model: figures by look, samples by prompt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from chatllama_pipeline.records import Message, Prompt
from chatllama_pipeline.training.watching.looks import Pay, Watched

WATCHED_FILE = "watched.json"


@dataclass(frozen=True)
class Sample:
    """A reply of the policy after `iteration`: what it earned, in all and by each term of the
    reward that has several, the judge's word 0..1 and the KL in nats."""

    iteration: int
    reply: str
    finished: bool
    reward: float
    terms: dict[str, float | None]
    judge: float | None
    kl: float


@dataclass(frozen=True)
class WatchReport:
    """`watched.json`: who judged, the iteration that is published, why the training ended if the
    rule ended it, and the replies to each prompt through the training."""

    judge: str
    published: int
    stopped: str | None
    samples: list[tuple[Prompt, list[Sample]]]

    @classmethod
    def of(
        cls, watched: Watched, judge: str, prompts: Sequence[Prompt], terms: Sequence[str], pay: Pay
    ) -> Self:
        """What was seen on `prompts` by a watch with these terms."""
        paid = [pay(look) for look in watched.looks]
        samples = [
            Sample(
                iteration=look.iteration,
                reply=look.answers.texts[row],
                finished=look.answers.finished[row],
                reward=rewards[row],
                terms=dict(zip(terms, look.scores[row], strict=False)),
                judge=look.judged[row],
                kl=look.answers.kl[row],
            )
            for row in range(len(prompts))
            for look, rewards in zip(watched.looks, paid, strict=True)
        ]
        looks, best = len(watched.looks), watched.best_look
        by_prompt = [
            (prompt, samples[row * looks : (row + 1) * looks]) for row, prompt in enumerate(prompts)
        ]
        published = best.iteration if best is not None else watched.looks[-1].iteration
        return cls(judge, published, watched.stopped, by_prompt)

    def write(self, folder: Path) -> None:
        text = json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n"
        (folder / WATCHED_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The report in an actor's folder; None where nobody looked."""
        file = folder / WATCHED_FILE
        if not file.is_file():
            return None
        raw = json.loads(file.read_text(encoding="utf-8"))
        samples = [
            ([Message(**turn) for turn in prompt], [Sample(**each) for each in replies])
            for prompt, replies in raw["samples"]
        ]
        return cls(raw["judge"], raw["published"], raw["stopped"], samples)
