"""Steps 1 to 4 of an iteration: prompts, rollouts, the score pass, rewards.

With several processes each samples and scores its share of the prompts; then all of them hold all
rows, as one process would have made them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from chatllama_pipeline.models.families.language import response_logits
from chatllama_pipeline.models.sharding.parts import whole
from chatllama_pipeline.progress import counted
from chatllama_pipeline.records import Prompt
from chatllama_pipeline.seeds import stage_seed
from chatllama_pipeline.settings import PpoSettings
from chatllama_pipeline.training.distributed import (
    all_or_none,
    gather_rows,
    share_of,
    whole_weights,
)
from chatllama_pipeline.training.ppo import equations
from chatllama_pipeline.training.ppo.log import Stopwatch
from chatllama_pipeline.training.ppo.methods import Method
from chatllama_pipeline.training.ppo.model import ActorCritic
from chatllama_pipeline.training.ppo.parts import alike
from chatllama_pipeline.training.ppo.rollout import (
    Rollout,
    pad_left,
    rows_at_most,
    sample_replies,
    widened,
)
from chatllama_pipeline.training.terms.weighing import Term
from chatllama_pipeline.training.watching.looks import Answers

# (prompts, reply texts, reply ids with their stop token), B each -> scores [B]; [B,K] of K terms.
Reward = Callable[[list[Prompt], list[str], list[list[int]]], Tensor]


@dataclass(frozen=True)
class Task:
    """What is learned: replies to `prompts`, whose token ids are `prompt_ids`, that earn `reward`.

    `decode` turns B replies' ids into texts; None is the text of one that never came to replying.
    A reply ends at any of `stop_ids` or after `max_new_tokens`. A reward of several `terms` gives a
    column for each, which the loop brings to one scale and adds up. `scored_by` is the model that
    the reward asks, if any. `begin` hears of prompts and replies before models read them, so that
    whoever else the reward asks may answer meanwhile.
    """

    prompts: Sequence[Prompt]
    prompt_ids: Sequence[list[int]]
    reward: Reward
    decode: Callable[[list[list[int]]], Sequence[str | None]]
    stop_ids: Sequence[int]
    pad_id: int
    max_new_tokens: int
    terms: Sequence[Term] = ()
    scored_by: Any = None
    begin: Callable[[list[Prompt], list[str]], None] = lambda prompts, replies: None

    def paying(self) -> contextlib.AbstractContextManager[None]:
        """Within it the reward may be asked: the model that it asks is whole in every process."""
        return whole(() if self.scored_by is None else self.scored_by.parameters())


@dataclass(frozen=True)
class Loop:
    """What stays the same through the iterations; `prepared` is `models` as accelerate wraps it."""

    models: ActorCritic
    prepared: Any
    reference: Any
    optimizer: torch.optim.Optimizer
    task: Task
    settings: PpoSettings
    method: Method
    accelerator: Accelerator
    seed: int


class Written(NamedTuple):
    """Replies to B prompts `[B,P]`, left-padded."""

    prompt_ids: Tensor
    prompt_mask: Tensor
    rollout: Rollout


@dataclass(frozen=True)
class Seen:
    """What the models said of a rollout before its update, each `[B,T]`."""

    logp_old: Tensor
    logp_ref: Tensor
    values_old: Tensor
    entropy: Tensor


class Said(NamedTuple):
    """Of these what those said that learn."""

    logp: Tensor
    values: Tensor
    entropy: Tensor

    def beside(self, logp_ref: Tensor) -> Seen:
        """Together with the reference's word."""
        return Seen(self.logp, logp_ref, self.values, self.entropy)


@dataclass(frozen=True)
class Collected:
    """An iteration's B rows: prompts `[B,P]` (left-padded), replies, what was said of them.

    The replies to one prompt stand side by side. `scores[B]` are those of the reward, before
    penalties; `[B,K]` where it has K terms.
    """

    prompts: list[Prompt]
    prompt_ids: Tensor
    prompt_mask: Tensor
    rollout: Rollout
    seen: Seen
    texts: list[str]
    scores: Tensor


def prompt_rows(available: int, wanted: int, iteration: int, seed: int) -> list[int]:
    """The rows of an iteration's prompts: every row once per epoch, each epoch shuffled anew."""
    rows: list[int] = []
    first = iteration * wanted
    for epoch in range(first // available, (first + wanted - 1) // available + 1):
        shuffle = torch.Generator().manual_seed(stage_seed(seed, "prompts", epoch))
        order = torch.randperm(available, generator=shuffle).tolist()
        start, end = first - epoch * available, first + wanted - epoch * available
        rows += order[max(start, 0) : end]
    return rows


def collect(loop: Loop, iteration: int, watch: Stopwatch) -> Collected:
    """The prompts of an iteration with sampled and scored replies, the same in every process."""
    settings, task, accelerator = loop.settings, loop.task, loop.accelerator

    # 1. Prompts
    chosen = prompt_rows(len(task.prompts), settings.prompts_per_iteration, iteration, loop.seed)
    rows = [row for row in chosen for _ in range(settings.replies_per_prompt)]
    prompts, ids = [task.prompts[row] for row in rows], [task.prompt_ids[row] for row in rows]
    prompt_ids, prompt_mask = (
        columns.to(accelerator.device) for columns in pad_left(ids, task.pad_id)
    )
    mine = share_of(accelerator, len(rows))

    with whole_weights(loop.prepared):
        # 2. Rollout
        with watch.phase("rollout"):
            rollout = _roll_out(loop, ids, mine, iteration)
            replies = rollout.reply_ids()
            read = task.decode(replies)
            texts = [text or "" for text in read]
            task.begin(prompts[mine], texts)

        # 3. Score pass
        written = Written(prompt_ids[mine], prompt_mask[mine], rollout)
        with watch.phase("score"):
            said = policy_pass(loop, written)
    with watch.phase("score"):
        seen = said.beside(reference_pass(loop, written))

    # 4. Rewards
    with watch.phase("reward"), task.paying():
        replied = torch.tensor([text is not None for text in read], device=accelerator.device)
        rollout = rollout._replace(finished=rollout.finished & replied)
        given = all_or_none(accelerator, lambda: task.reward(prompts[mine], texts, replies))
        scores = given.float().to(accelerator.device)
    with watch.phase("gather"):
        return Collected(
            prompts,
            prompt_ids,
            prompt_mask,
            _rollout_of_all(accelerator, rollout, task.pad_id),
            Seen(*(gather_rows(accelerator, columns) for columns in vars(seen).values())),
            texts if accelerator.num_processes == 1 else gather_object(texts),
            gather_rows(accelerator, scores),
        )


def attempt(loop: Loop, prompt_ids: Sequence[list[int]]) -> tuple[Written, Said]:
    """The policy's replies to prompts that it doesn't learn from, by one process alone.

    It must have whole weights. The chances are the same each time, so that what differs from one
    policy to the next is the policy. No more is sampled at once than in an iteration's rollout.
    """
    settings, task, device = loop.settings, loop.task, loop.accelerator.device
    share = settings.rollouts_per_iteration // loop.accelerator.num_processes
    generator = torch.Generator(device).manual_seed(stage_seed(loop.seed, "held-out replies"))
    with loop.accelerator.autocast():
        rollout = sample_replies(
            loop.models.actor,
            prompt_ids,
            rollout_batch_size=settings.rollout_batch_size or share,
            max_new_tokens=task.max_new_tokens,
            temperature=settings.temperature,
            stop_ids=task.stop_ids,
            pad_id=task.pad_id,
            generator=generator,
        )
    ids, mask = (columns.to(device) for columns in pad_left(prompt_ids, task.pad_id))
    written = Written(ids, mask, rollout)
    return written, policy_pass(loop, written)


def answers(loop: Loop, written: Written, said: Said) -> Answers:
    """An `attempt` beside the reference, which the process that made it must have whole."""
    rollout, decode = written.rollout, loop.task.decode
    seen = said.beside(_reference_reads(loop, written))
    kl = torch.where(rollout.action_mask, equations.k1(seen.logp_old, seen.logp_ref), 0.0).sum(1)
    replies = rollout.reply_ids()
    read = decode(replies)
    ended = zip(rollout.finished.tolist(), read, strict=True)
    return Answers(
        texts=[text or "" for text in read],
        finished=[end and text is not None for end, text in ended],
        tokens=[len(reply) for reply in replies],
        kl=kl.tolist(),
        distinct_2=equations.distinct_2(replies),
        repeated=sum(map(equations.repeated, replies)) / len(replies),
    )


def _roll_out(loop: Loop, prompt_ids: list[list[int]], share: slice, iteration: int) -> Rollout:
    generator = torch.Generator(loop.accelerator.device)
    with loop.accelerator.autocast():
        return sample_replies(
            loop.models.actor,
            prompt_ids,
            rollout_batch_size=loop.settings.rollout_batch_size,
            max_new_tokens=loop.task.max_new_tokens,
            temperature=loop.settings.temperature,
            stop_ids=loop.task.stop_ids,
            pad_id=loop.task.pad_id,
            generator=generator.manual_seed(stage_seed(loop.seed, "rollout", iteration)),
            share=share,
        )


def policy_pass(loop: Loop, written: Written) -> Said:
    """What actor and critic, which must be whole, say of a rollout."""
    temperature = loop.settings.temperature

    def read(
        prompt_ids: Tensor, prompt_mask: Tensor, response: Tensor, action_mask: Tensor
    ) -> tuple[Tensor, ...]:
        columns = (prompt_ids, prompt_mask, response, action_mask)
        # Not by a call, where DeepSpeed's hook has processes wait that read more or fewer parts.
        scores = loop.models.forward(*columns, temperature, with_entropy=True)
        assert scores.entropy is not None
        return scores.logp, scores.values, scores.entropy

    return Said(*_rows_alike(loop, written, read))


def reference_pass(loop: Loop, written: Written) -> Tensor:
    """The reference's log-probabilities of a rollout, `[B,T]`; all processes take part."""
    with whole(loop.reference.parameters()):
        return _reference_reads(loop, written)


def _reference_reads(loop: Loop, written: Written) -> Tensor:
    temperature = loop.settings.temperature

    def read(*columns: Tensor) -> tuple[Tensor, ...]:
        logits = response_logits(loop.reference, *columns, temperature=temperature)
        return (equations.token_logp(logits, columns[2]),)

    (logp,) = _rows_alike(loop, written, read)
    return logp


@torch.no_grad()
def _rows_alike(
    loop: Loop, written: Written, read: Callable[..., tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """What `read` says of a rollout, rows of like length at once; 0 behind a part."""
    (prompt_ids, prompt_mask, rollout), response = written, written.rollout.response
    most = rows_at_most(loop.models.actor, prompt_ids, response, loop.settings.micro_batch_size)
    parts = alike(prompt_mask, rollout.action_mask, most)
    said: list[tuple[Tensor, ...]] = []
    for rows in counted("reads what was written", parts, len(parts), "parts"):
        prompt = prompt_mask[rows].any(0)
        width = int(rollout.action_mask[rows].sum(1).max())
        with loop.accelerator.autocast():
            found = read(
                prompt_ids[rows][:, prompt], prompt_mask[rows][:, prompt],
                response[rows, :width], rollout.action_mask[rows, :width],
            )  # fmt: skip
        said.append(tuple(widened(column, response.shape[1], 0) for column in found))
    inverse = torch.cat(parts).argsort()
    return tuple(torch.cat(column)[inverse] for column in zip(*said, strict=True))


def _rollout_of_all(accelerator: Accelerator, mine: Rollout, pad_id: int) -> Rollout:
    return Rollout(
        gather_rows(accelerator, mine.response, pad_id),
        gather_rows(accelerator, mine.action_mask, False),
        gather_rows(accelerator, mine.finished),
        gather_rows(accelerator, mine.logp),
    )
