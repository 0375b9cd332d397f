"""Our side: `python -m benchmarks.against_trl.ours CASE`, started by benchmarks/ppo.py."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, cast

import torch
from accelerate import Accelerator
from torch import Tensor

from benchmarks.against_trl.case import (
    ACTOR_LR,
    CRITIC_LR,
    KL_BETA,
    STOP,
    TEMPERATURE,
    Case,
    models,
    prompt_rows,
)
from benchmarks.against_trl.turns import OverError, Turns
from chatllama_pipeline.models.chat.template import Example
from chatllama_pipeline.models.heads import score_rows
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Prompt, user_prompt
from chatllama_pipeline.settings import PpoSettings
from chatllama_pipeline.training.ppo import collect, loop, rollout
from chatllama_pipeline.training.ppo.collect import Task
from chatllama_pipeline.training.ppo.model import ActorCritic, head_on
from chatllama_pipeline.training.trackers import Trackers

# As good as endless: the parent ends it.
ITERATIONS = 10**6
# Chances below this share would draw the stop token, the vocabulary's first, with weights as they
# begin: it has about 1 / V of the probability.
NEVER_DRAWN = 0.05


class Watch:
    """Hears of every iteration's end where trackers would."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.warnings: list[str] = []

    def log(self, step: int, figures: dict[str, float]) -> None:
        self.turns.over()

    def __enter__(self) -> Self:
        self.turns.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None


def main() -> None:
    case = Case.from_json(sys.argv[1])
    quiet_transformers()
    run(case, Turns(case))


def run(case: Case, turns: Turns) -> None:
    """Iterate until the parent has seen enough."""
    found = models(case)
    if case.half_early:
        end_half_early(case)
    critic = found.critic
    if case.shared_trunk:
        critic, found = head_on(found.actor), replace(found, critic=None)
    turns.timed(collect, "sample_replies", "decode")
    for name in ("policy_pass", "reference_pass"):
        turns.timed(collect, name, "score")
    with contextlib.suppress(OverError):
        loop.train(
            ActorCritic(found.actor, critic),
            found.reference,
            task(case, found.reward, turns),
            settings(case),
            accelerator=Accelerator(
                cpu=case.device == "cpu", mixed_precision="bf16" if case.bfloat16 else "no"
            ),
            seed=0,
            progress=Progress("benchmark", lambda line: None),
            open_trackers=lambda steps_done: cast(Trackers, Watch(turns)),
        )


def settings(case: Case) -> PpoSettings:
    return PpoSettings(
        num_episodes=ITERATIONS,
        max_timesteps=case.prompts,
        update_timesteps=case.prompts,
        checkpoint_steps=ITERATIONS * case.prompts,
        batch_size=case.minibatch,
        micro_batch_size=case.micro,
        epochs=case.epochs,
        temperature=TEMPERATURE,
        kl_beta=KL_BETA,
        actor_lr=ACTOR_LR,
        critic_lr=CRITIC_LR,
        # Every minibatch is learned from, as on the other side.
        update_kl_limit=float("1e9"),
        collapse="ignore",
    )


def task(case: Case, scorer: Any, turns: Turns) -> Task:
    ids = prompt_rows(case)

    def reward(asked: list[Prompt], texts: list[str], replies: list[list[int]]) -> Tensor:
        turns.tokens += sum(map(len, replies))
        rows = [
            Example([*ids[int(prompt[0].content)], *reply], case.prompt_tokens)
            for prompt, reply in zip(asked, replies, strict=True)
        ]
        with torch.autocast(case.device, torch.bfloat16, enabled=case.bfloat16):
            return score_rows(scorer, rows, pad_id=0)

    return Task(
        prompts=[user_prompt(str(row)) for row in range(case.prompts)],
        prompt_ids=ids,
        reward=turns.measured(reward, "reward"),
        decode=lambda replies: ["" for _ in replies],
        stop_ids=[STOP] if case.half_early else [case.actor.vocabulary],
        pad_id=0,
        max_new_tokens=case.new_tokens,
    )


def end_half_early(case: Case) -> None:
    """Let every other row draw the stop token at its column, and no row draw it elsewhere."""
    levels_of = rollout.uniform_levels

    def levels(rows: int, columns: int, generator: torch.Generator) -> Tensor:
        found = NEVER_DRAWN + (1 - NEVER_DRAWN) * levels_of(rows, columns, generator)
        found[1::2, case.early_column] = 0.0
        return found

    rollout.uniform_levels = levels


if __name__ == "__main__":
    main()
