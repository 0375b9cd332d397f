"""What a training by rollouts writes down: curves and samples (payload), seconds (metrics)."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatllama_pipeline.records import CURVES_FILE, SAMPLES_FILE, Curve, Prompt
from chatllama_pipeline.training.ppo import equations
from chatllama_pipeline.training.terms.weighing import Earned

# Rollouts kept of each iteration: enough for a judge's mean over time to be worth drawing.
SAMPLES_PER_ITERATION = 64
# Nats per token between what a token was drawn by and what the score pass says of it: rounding
# alone gives some 1e-6 in float32 and .02 in bfloat16.
SAMPLED_APART, MOST_APART = "sampled_apart", 0.1


@dataclass
class PpoLog:
    """Figures by name as (iteration, value), iterations counted from 1, and the rollouts kept."""

    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)

    def record(self, iteration: int, figures: dict[str, float]) -> None:
        """Add a point to each curve; a value that isn't finite leaves a gap."""
        for name, value in figures.items():
            if math.isfinite(value):
                self.curves.setdefault(name, []).append((float(iteration), value))

    def keep(
        self,
        iteration: int,
        prompts: Sequence[Prompt],
        replies: Sequence[str],
        earned: Earned,
        finished: Tensor,
    ) -> None:
        """Keep the iteration's first rollouts and what each term gave them; `finished[B]`."""
        rows = zip(prompts, replies, earned.total.tolist(), finished.tolist(), strict=True)
        for row, (prompt, reply, score, ended) in enumerate(list(rows)[:SAMPLES_PER_ITERATION]):
            self.samples.append(
                {
                    "iteration": iteration,
                    "prompt": [asdict(message) for message in prompt],
                    "reply": reply,
                    "score": score,
                    "finished": ended,
                    **({"rewards": terms} if (terms := earned.of_row(row)) else {}),
                }
            )

    def newest(self, *names: str) -> dict[str, float]:
        """The last finite value of each of `names` that has one; of every curve without names."""
        wanted = names or tuple(self.curves)
        return {name: self.curves[name][-1][1] for name in wanted if name in self.curves}

    def of(self, iteration: int) -> dict[str, float]:
        """The figures of that iteration, of the curves that end there."""
        ends = {name: points[-1] for name, points in self.curves.items()}
        return {name: value for name, (at, value) in ends.items() if at == iteration}

    def warnings(self) -> list[str]:
        """Whether replies were drawn from what the score pass scores."""
        apart = max((value for _, value in self.curves.get(SAMPLED_APART, [])), default=0.0)
        if apart <= MOST_APART:
            return []
        return [
            "replies were drawn from another distribution than the one that is scored, "
            f"{apart:.2g} nats a token apart (curve {SAMPLED_APART}): what was learned is worth "
            "little; train in precision: float32, and if that is no cure, with another model"
        ]

    def as_curves(self) -> list[Curve]:
        return [Curve(name, points) for name, points in sorted(self.curves.items())]

    def write(self, folder: Path) -> None:
        """`curves.json` and `samples.jsonl` in `folder`."""
        plain = {name: [list(point) for point in points] for name, points in self.curves.items()}
        (folder / CURVES_FILE).write_text(json.dumps(plain, indent=1, sort_keys=True))
        with (folder / SAMPLES_FILE).open("w") as file:
            for sample in self.samples:
                file.write(json.dumps(sample, ensure_ascii=False, sort_keys=True) + "\n")


def rollout_figures(
    scores: Tensor,
    finished: Tensor,
    logp_old: Tensor,
    logp_ref: Tensor,
    entropy: Tensor,
    mask: Tensor,
    replies: Sequence[Sequence[int]],
) -> dict[str, float]:
    """An iteration's figures before its update, over action tokens alone.

    `scores[B]` as the reward gave them, `finished[B]`, the rest `[B,T]`; `replies` hold token ids.
    `kl` is k1 summed over a reply, in nats, `kl_k3` is k3 per token; lengths count the stop token.
    """
    lengths = mask.sum(1).float()
    kl = torch.where(mask, equations.k1(logp_old, logp_ref), 0.0).sum(1)
    return {
        "score": float(scores.mean()),
        "score_std": float(scores.std(correction=0)),
        "kl": float(kl.mean()),
        "kl_k3": float(equations.masked_mean(equations.k3(logp_old, logp_ref), mask)),
        "entropy": float(equations.masked_mean(entropy, mask)),
        "reply_tokens": float(lengths.mean()),
        "reply_tokens_p95": float(lengths.quantile(0.95)),
        "share_finished": float(finished.float().mean()),
        "score_length_spearman": equations.spearman(scores, lengths),
        "distinct_2": equations.distinct_2(replies),
    }


@dataclass
class Stopwatch:
    """Seconds by phase, and tokens sampled: what differs from run to run."""

    seconds: dict[str, float] = field(default_factory=dict)
    tokens: int = 0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def metrics(self) -> dict[str, float]:
        """`seconds_<phase>` and `tokens_per_second` (sampled tokens over all phases)."""
        found = {f"seconds_{name}": seconds for name, seconds in self.seconds.items()}
        total = sum(self.seconds.values())
        found["tokens_per_second"] = self.tokens / total if total else 0.0
        return found
