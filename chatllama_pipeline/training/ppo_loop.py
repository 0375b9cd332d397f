"""The PPO loop: seven numbered steps an iteration, from prompts to log."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from chatllama_pipeline.models.language import response_logits
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Prompt
from chatllama_pipeline.seeds import stage_seed
from chatllama_pipeline.settings import PpoSettings
from chatllama_pipeline.training import ppo_math
from chatllama_pipeline.training.ppo_log import PpoLog, Stopwatch, rollout_figures
from chatllama_pipeline.training.ppo_math import KlController
from chatllama_pipeline.training.ppo_model import ActorCritic
from chatllama_pipeline.training.ppo_update import Experience, Guard, update
from chatllama_pipeline.training.resume import load_state, save_state
from chatllama_pipeline.training.rollout import (
    Rollout,
    pad_left,
    row_chunks,
    sample_replies,
)

STATE_FILE = "ppo.pt"
ADAM_EPS = 1e-5
# Learning rates fall linearly to this share of their first value.
LAST_LEARNING_RATE_SHARE = 0.1

# (prompts, reply texts, reply ids with their stop token), B each -> scores [B].
Reward = Callable[[list[Prompt], list[str], list[list[int]]], Tensor]


@dataclass(frozen=True)
class Task:
    """What is learned: replies to `prompts`, whose token ids are `prompt_ids`, that earn `reward`.

    `decode` turns B replies' ids into texts. A reply ends at any of `stop_ids` or after
    `max_new_tokens`.
    """

    prompts: Sequence[Prompt]
    prompt_ids: Sequence[list[int]]
    reward: Reward
    decode: Callable[[list[list[int]]], list[str]]
    stop_ids: Sequence[int]
    pad_id: int
    max_new_tokens: int


@dataclass
class Training:
    """The state beside weights and optimizer; randomness follows from the seed and these counts."""

    kl: KlController
    iterations_done: int = 0
    guard: Guard = field(default_factory=Guard)
    log: PpoLog = field(default_factory=PpoLog)
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    warnings: list[str] = field(default_factory=list)


def make_optimizer(module: ActorCritic, settings: PpoSettings) -> torch.optim.Optimizer:
    """One AdamW over both models, each at its own learning rate."""
    groups = [
        {"params": [p for p in model.parameters() if p.requires_grad], "lr": rate}
        for model, rate in ((module.actor, settings.actor_lr), (module.critic, settings.critic_lr))
    ]
    return torch.optim.AdamW(groups, eps=ADAM_EPS, weight_decay=0.0, fused=True)


def set_learning_rates(
    optimizer: torch.optim.Optimizer, settings: PpoSettings, iteration: int
) -> None:
    """The rates of iteration 0, 1, ...: they follow from its number, so none is ever saved."""
    done = iteration / max(1, settings.iterations - 1)
    share = 1 - (1 - LAST_LEARNING_RATE_SHARE) * done
    for group, rate in zip(
        optimizer.param_groups, (settings.actor_lr, settings.critic_lr), strict=True
    ):
        group["lr"] = rate * share


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


def train(
    module: ActorCritic,
    reference: Any,
    task: Task,
    settings: PpoSettings,
    *,
    accelerator: Accelerator,
    seed: int,
    progress: Progress,
    run_folder: Path | None = None,
) -> Training:
    """Train `module` in place by PPO against the frozen `reference`.

    Every model stays in eval mode, so that dropout is off. With a `run_folder`, the state is saved
    there every `checkpoint_steps` timesteps and continued from. Too many non-finite losses in a
    row end the training early: see the guard.
    """
    reference = reference.to(accelerator.device).eval()
    prepared, optimizer = accelerator.prepare(module, make_optimizer(module, settings))
    prepared.eval()
    loop = Loop(module, prepared, reference, optimizer, task, settings, accelerator, seed)
    state = Training(KlController(settings.kl_beta, settings.kl_target, settings.kl_horizon))
    if run_folder is not None:
        _continue(run_folder, loop, state, progress)
    while state.iterations_done < settings.iterations and not state.guard.tripped:
        _iterate(loop, state)
        done = state.iterations_done
        progress.step(done, settings.iterations, **state.log.newest("score", "kl", "reply_tokens"))
        if run_folder is not None and _due(done, settings):
            with state.stopwatch.phase("save"):
                _save(run_folder, loop, state)
    return state


@dataclass(frozen=True)
class Loop:
    """What stays the same through the iterations; `prepared` is `models` as accelerate wraps it."""

    models: ActorCritic
    prepared: Any
    reference: Any
    optimizer: torch.optim.Optimizer
    task: Task
    settings: PpoSettings
    accelerator: Accelerator
    seed: int


def _iterate(loop: Loop, state: Training) -> None:
    settings, task, device = loop.settings, loop.task, loop.accelerator.device
    iteration, watch = state.iterations_done, state.stopwatch

    # 1. Prompts
    rows = prompt_rows(len(task.prompts), settings.prompts_per_iteration, iteration, loop.seed)
    prompts, ids = [task.prompts[row] for row in rows], [task.prompt_ids[row] for row in rows]
    prompt_ids, prompt_mask = (columns.to(device) for columns in pad_left(ids, task.pad_id))

    # 2. Rollout
    with watch.phase("rollout"):
        rollout = _roll_out(loop, ids, iteration)
    mask = rollout.action_mask
    watch.tokens += int(mask.sum())

    # 3. Score pass
    with watch.phase("score"):
        seen = score_pass(loop, prompt_ids, prompt_mask, rollout)

    # 4. Rewards
    with watch.phase("reward"):
        replies = rollout.reply_ids()
        texts = task.decode(replies)
        raw_scores = task.reward(prompts, texts, replies).float().to(device)
    scores = ppo_math.final_scores(
        raw_scores, rollout.finished, missing_eos_penalty=settings.missing_eos_penalty
    )
    kl = ppo_math.k1(seen.logp_old, seen.logp_ref)
    beta, score_clip = state.kl.beta, settings.score_clip
    rewards = ppo_math.shaped_rewards(scores, kl, mask, beta=beta, score_clip=score_clip)

    # 5. Advantages
    gamma, lam = settings.gamma_discounted, settings.gae_lambda
    advantages, returns = ppo_math.gae(rewards, seen.values_old, mask, gamma=gamma, lam=lam)
    white = torch.where(mask, ppo_math.whiten(advantages, mask), 0.0)

    # 6. Update
    set_learning_rates(loop.optimizer, settings, iteration)
    with watch.phase("update"):
        experience = Experience(
            prompt_ids, prompt_mask, rollout.response, mask, seen.logp_old, seen.values_old,
            white, returns,
        )  # fmt: skip
        update_seed = stage_seed(loop.seed, "update", iteration)
        updated = update(
            loop.prepared, loop.optimizer, loop.accelerator, experience, settings, state.guard,
            update_seed,
        )  # fmt: skip

    # 7. Log
    figures = rollout_figures(
        raw_scores, rollout.finished, seen.logp_old, seen.logp_ref, seen.entropy, mask, replies
    )
    explained = ppo_math.explained_variance(seen.values_old, returns, mask)
    state.iterations_done = iteration + 1
    state.log.record(
        iteration + 1, {**figures, **updated, "beta": beta, "explained_variance": explained}
    )
    state.log.keep(iteration + 1, prompts, texts, raw_scores, rollout.finished)
    state.kl = state.kl.updated(figures["kl"], len(rows))


def _roll_out(loop: Loop, prompt_ids: list[list[int]], iteration: int) -> Rollout:
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
        )


@dataclass(frozen=True)
class Seen:
    """What the models said of a rollout before its update, each `[B,T]`."""

    logp_old: Tensor
    logp_ref: Tensor
    values_old: Tensor
    entropy: Tensor


@torch.no_grad()
def score_pass(loop: Loop, prompt_ids: Tensor, prompt_mask: Tensor, rollout: Rollout) -> Seen:
    """Actor, reference and critic on a rollout, in chunks of rows."""
    response, temperature = rollout.response, loop.settings.temperature
    columns = (prompt_ids, prompt_mask, response, rollout.action_mask)
    parts: list[tuple[Any, ...]] = []
    for rows in row_chunks(loop.models.actor, response, loop.settings.micro_batch_size):
        with loop.accelerator.autocast():
            chunk = [column[rows] for column in columns]
            scores = loop.models(*chunk, temperature, True)
            logits = response_logits(loop.reference, *chunk, temperature=temperature)
        logp_ref = ppo_math.token_logp(logits, response[rows])
        parts.append((scores.logp, logp_ref, scores.values, scores.entropy))
    return Seen(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _due(done: int, settings: PpoSettings) -> bool:
    """Whether a multiple of `checkpoint_steps` lies in the last iteration's timesteps."""
    steps, every = settings.update_timesteps, settings.checkpoint_steps
    return done * steps // every > (done - 1) * steps // every


def _save(run_folder: Path, loop: Loop, state: Training) -> None:
    saved = {
        "models": loop.models.trained_state(),
        "optimizer": loop.optimizer.state_dict(),
        "iterations_done": state.iterations_done,
        "beta": state.kl.beta,
        "guard": dataclasses.asdict(state.guard),
        "log": dataclasses.asdict(state.log),
    }
    save_state(run_folder, lambda folder: torch.save(saved, folder / STATE_FILE))


def _continue(run_folder: Path, loop: Loop, state: Training, progress: Progress) -> None:
    folder = load_state(run_folder, state.warnings.append)
    if folder is None:
        return
    saved = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
    loop.models.load_trained_state(saved["models"])
    loop.optimizer.load_state_dict(saved["optimizer"])
    state.iterations_done = saved["iterations_done"]
    state.kl = dataclasses.replace(state.kl, beta=saved["beta"])
    state.guard = Guard(**saved["guard"])
    state.log = PpoLog(**saved["log"])
    progress.say(f"continues after iteration {state.iterations_done}")
