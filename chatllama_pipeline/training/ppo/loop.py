"""The loop of PPO, RLOO and GRPO: seven numbered steps an iteration, from prompts to log."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import torch
from accelerate import Accelerator

from chatllama_pipeline.errors import ChatllamaError, DataError, ProviderError
from chatllama_pipeline.models.sharding.parts import is_in_parts, whole
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.seeds import stage_seed
from chatllama_pipeline.settings import PpoSettings
from chatllama_pipeline.training.distributed import (
    agree,
    by_one,
    load_whole,
    narrow_what_is_in_parts,
    whole_weights,
)
from chatllama_pipeline.training.guards import Collapse, Guard
from chatllama_pipeline.training.ppo import equations
from chatllama_pipeline.training.ppo.collect import (
    Collected,
    Loop,
    Said,
    Task,
    Written,
    answers,
    attempt,
    collect,
)
from chatllama_pipeline.training.ppo.equations import KlController
from chatllama_pipeline.training.ppo.log import SAMPLED_APART, PpoLog, Stopwatch, rollout_figures
from chatllama_pipeline.training.ppo.methods import METHODS, Judged, Method
from chatllama_pipeline.training.ppo.model import ActorCritic
from chatllama_pipeline.training.ppo.update import Experience, update
from chatllama_pipeline.training.resume.snapshot import (
    Engine,
    Layout,
    Snapshot,
    best_weights,
    bring_back_best,
)
from chatllama_pipeline.training.resume.state import States
from chatllama_pipeline.training.stopping import StopSignals, stopped
from chatllama_pipeline.training.terms.weighing import Earned, Scales
from chatllama_pipeline.training.trackers import Trackers
from chatllama_pipeline.training.watching.looks import WATCHED, Answers, Look, Watched
from chatllama_pipeline.training.watching.watch import Watch

ADAM_EPS = 1e-5
# Learning rates fall linearly to this share of their first value.
LAST_LEARNING_RATE_SHARE = 0.1


@dataclass
class Training:
    """The state beside weights and optimizer; randomness follows from the seed and these counts."""

    kl: KlController
    iterations_done: int = 0
    guard: Guard = field(default_factory=Guard)
    collapse: Collapse = field(default_factory=Collapse)
    log: PpoLog = field(default_factory=PpoLog)
    scales: Scales = field(default_factory=Scales)
    watched: Watched = field(default_factory=Watched)
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    warnings: list[str] = field(default_factory=list)
    # A context in which every process has all weights of the trained models.
    whole: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext


def make_optimizer(module: ActorCritic, settings: PpoSettings) -> torch.optim.Optimizer:
    """One AdamW over the models that learn, each at its own learning rate."""
    rates = (settings.actor_lr, settings.critic_lr)
    groups = [
        {"params": [p for p in model.parameters() if p.requires_grad], "lr": rate}
        for model, rate in zip(module.trained, rates, strict=False)
    ]
    return torch.optim.AdamW(groups, eps=ADAM_EPS, weight_decay=0.0, fused=True)


def set_learning_rates(
    optimizer: torch.optim.Optimizer, settings: PpoSettings, iteration: int
) -> None:
    """The rates of iteration 0, 1, ...: they follow from its number, so none is ever saved."""
    done = iteration / max(1, settings.iterations - 1)
    share = 1 - (1 - LAST_LEARNING_RATE_SHARE) * done
    rates = (settings.actor_lr, settings.critic_lr)
    for group, rate in zip(optimizer.param_groups, rates, strict=False):
        group["lr"] = rate * share


def train(
    module: ActorCritic,
    reference: Any,
    task: Task,
    settings: PpoSettings,
    *,
    method: Method = METHODS["ppo"],
    accelerator: Accelerator,
    seed: int,
    progress: Progress,
    states: States | None = None,
    open_trackers: Callable[..., Trackers] | None = None,
    watch: Watch | None = None,
) -> Training:
    """Train `module` in place by `method` against the frozen `reference`.

    Every model stays in eval mode, so that dropout is off. With `states`, the training is saved
    there every `checkpoint_steps` timesteps and `checkpoint_seconds`, and continued from there.
    Too many non-finite losses in a row end it early, as collapsed replies may: see guard and
    collapse. Raises StoppedError after a SIGTERM, its state saved. `open_trackers(steps_done=...)`
    gives the trackers of each iteration's figures. With a `watch`, which needs `states`, the judge
    looks on, may end the training, and `module` is in the end the policy that it liked best.
    """
    state = Training(KlController(settings.kl_beta, settings.kl_target, settings.kl_horizon))
    layout = Layout.prepared_by(accelerator)
    snapshot = Snapshot.newest(states, state.warnings.append) if states else None
    if snapshot is not None:
        _read(snapshot.counts, state)
        progress.say(f"continues after iteration {state.iterations_done}")
        state.warnings += filter(None, [snapshot.continued_in(layout)])
        load_whole(module, snapshot.weights())
    if states is not None and accelerator.is_main_process:
        bring_back_best(snapshot, states.run_folder)
    narrow_what_is_in_parts(module, accelerator)
    prepared, optimizer = accelerator.prepare(module, make_optimizer(module, settings))
    prepared.eval()
    # DeepSpeed's bfloat16 holds weights of that type: the reference reads as the policy does.
    reference = reference.to(accelerator.device).eval()
    if is_in_parts(reference):
        narrow_what_is_in_parts(reference, accelerator)  # not its buffers, as in the policy
    else:
        reference = reference.to(next(module.parameters()).dtype)
    loop = Loop(module, prepared, reference, optimizer, task, settings, method, accelerator, seed)
    engine = Engine(accelerator, module, prepared, optimizer, layout)
    if snapshot is not None:
        engine.restore(snapshot)
    state.whole = lambda: whole_weights(prepared)
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(StopSignals())
        trackers = open_trackers(steps_done=state.iterations_done) if open_trackers else None
        if trackers is not None:
            stack.enter_context(trackers)
        keeper = Keeper(states, engine, signals, settings)
        look = partial(_look, loop, state, keeper, watch, progress)
        _climb(loop, state, keeper, look, trackers, progress)
    state.warnings += trackers.warnings if trackers is not None else []
    best = state.watched.best_look
    if best is not None and states is not None and best.iteration < state.iterations_done:
        load_whole(module, best_weights(states.run_folder))
    return state


def _climb(
    loop: Loop,
    state: Training,
    keeper: Keeper,
    look: Callable[[], None],
    trackers: Trackers | None,
    progress: Progress,
) -> None:
    """Iterate until the training is over; `look` before the first iteration and after each."""
    settings = loop.settings
    look()
    while not _is_over(state, settings):
        _iterate(loop, state, keeper)
        look()
        done = state.iterations_done
        figures = state.log.newest("score", "kl", "reply_tokens")
        progress.step(done, settings.iterations, **figures)
        if trackers is not None:
            trackers.log(done, state.log.of(done))
        # What follows the last iteration may be killed as well; nothing follows bad losses.
        ending = _is_over(state, settings)
        if not ending or state.guard.passed:
            warn = progress.say if ending else state.warnings.append
            keeper.save_if_due(state, _due(done, settings) or ending, warn)


def _is_over(state: Training, settings: PpoSettings) -> bool:
    collapsed = settings.collapse == "stop" and state.collapse.found is not None
    ended = state.guard.tripped or collapsed or state.watched.stopped is not None
    return state.iterations_done >= settings.iterations or ended


@dataclass
class Keeper:
    """Saves the training's state when it is time, and leaves when it was asked to."""

    states: States | None
    engine: Engine
    signals: StopSignals
    settings: PpoSettings
    saved_at: float = field(default_factory=time.monotonic)

    def save_if_due(self, state: Training, due: bool, warn: Callable[[str], None]) -> None:
        """Save where it is `due` by step or by time; save and raise StoppedError after a signal.

        `warn` is told where the disk has no room.
        """
        late = time.monotonic() - self.saved_at >= self.settings.checkpoint_seconds
        wishes = [self.signals.received is not None, late and self.engine.is_main]
        stop, late = agree(self.engine.accelerator, wishes)
        if not (stop or due or late):
            return
        saved = self._save(state, warn)
        if stop:
            raise stopped(self.signals, f"iteration {state.iterations_done}", saved)

    def leave(self, state: Training, error: ChatllamaError) -> NoReturn:
        """Save what was learnt before an iteration's rewards were refused, and raise the error."""
        done = state.iterations_done
        if done and self._save(state, state.warnings.append):
            told = f"{error}. What was learnt until iteration {done} is saved: run again to go on"
            error.args = (told, *error.args[1:])
        raise error

    def _save(self, state: Training, warn: Callable[[str], None]) -> bool:
        self.saved_at = time.monotonic()
        if self.states is None:
            return False
        with state.stopwatch.phase("save"):
            return self.engine.save(self.states, _counts(state), warn)


def _look(
    loop: Loop, state: Training, keeper: Keeper, watch: Watch | None, progress: Progress
) -> None:
    """Where a look is due, one process looks for all; what the judge likes best is kept."""
    done, watched = state.iterations_done, state.watched
    if watch is None or keeper.states is None or watched.has(done) or not state.guard.passed:
        return
    if not watch.is_due(done, last=_is_over(state, loop.settings)):
        return
    try:
        with state.stopwatch.phase("watch"):
            look = _one_looks(loop, watch, done)
    except (DataError, ProviderError) as error:
        keeper.leave(state, error)
    pay = watch.pay_by(state.scales)
    if watched.record(look, pay, watch.falls):
        keeper.engine.save_best(keeper.states.run_folder)
    # Anew each time: the scale of a reward's terms is known after some iterations only.
    state.log.curves.update(watched.curves(pay))
    seen = state.log.newest("watched_judge", "watched_reward", "watched_kl")
    told = ", ".join(f"{name.removeprefix(WATCHED)} {value:.3g}" for name, value in seen.items())
    progress.say(f"{watch.name} looked after iteration {done}: {told}")
    if watched.stopped is not None:
        progress.say(f"training ends: {watched.stopped}")


def _one_looks(loop: Loop, watch: Watch, done: int) -> Look:
    """One process looks for all; what it reads with is whole in all of them, each in its turn."""
    accelerator, attempts = loop.accelerator, list[tuple[Written, Said]]()
    told = list[Answers]()
    with whole_weights(loop.prepared):
        by_one(accelerator, lambda: attempts.append(attempt(loop, watch.ids)))
    with whole(loop.reference.parameters()):
        by_one(accelerator, lambda: told.append(answers(loop, *attempts[0])))
    with loop.task.paying():
        return by_one(accelerator, lambda: watch.look(done, told[0]))


def _iterate(loop: Loop, state: Training, keeper: Keeper) -> None:
    settings, iteration, watch = loop.settings, state.iterations_done, state.stopwatch

    # 1. Prompts, 2. Rollout, 3. Score pass, 4. Rewards
    try:
        found = collect(loop, iteration, watch)
    except (DataError, ProviderError) as error:
        keeper.leave(state, error)
    mask, seen = found.rollout.action_mask, found.seen
    watch.tokens += int(mask.sum())
    # A signal is obeyed before the update too: until then the weights are those of the state.
    if agree(loop.accelerator, [keeper.signals.received is not None])[0]:
        keeper.save_if_due(state, due=False, warn=state.warnings.append)
    earned = state.scales.weigh(found.scores, loop.task.terms)
    scores = equations.final_scores(
        earned.total, found.rollout.finished, missing_eos_penalty=settings.missing_eos_penalty
    )
    kl, beta = equations.k1(seen.logp_old, seen.logp_ref), state.kl.beta

    # 5. Advantages
    judged = Judged(scores, kl, seen.values_old, mask, beta)
    advantages, returns = loop.method.credit(judged, settings)

    # 6. Update
    set_learning_rates(loop.optimizer, settings, iteration)
    with watch.phase("update"):
        experience = Experience(
            found.prompt_ids, found.prompt_mask, found.rollout.response, mask, seen.logp_old,
            seen.logp_ref, seen.values_old, advantages, returns,
        )  # fmt: skip
        update_seed = stage_seed(loop.seed, "update", iteration)
        updated = update(
            loop.prepared, loop.optimizer, loop.accelerator, experience, settings, state.guard,
            update_seed, method=loop.method, beta=beta,
        )  # fmt: skip

    # 7. Log
    more = {**updated, "beta": beta, **earned.figures()}
    if loop.method.has_critic:
        more["explained_variance"] = equations.explained_variance(seen.values_old, returns, mask)
    if settings.replies_per_prompt > 1:
        groups = scores.view(-1, settings.replies_per_prompt)
        more["score_std_per_prompt"] = float(groups.std(1, correction=0).mean())
    _log(state, found, earned, more, settings)


def _log(
    state: Training,
    found: Collected,
    earned: Earned,
    more: dict[str, float],
    settings: PpoSettings,
) -> None:
    seen, rollout = found.seen, found.rollout
    figures = rollout_figures(
        earned.total,
        rollout.finished,
        seen.logp_old,
        seen.logp_ref,
        seen.entropy,
        rollout.action_mask,
        rollout.reply_ids(),
    )
    apart = (rollout.logp - seen.logp_old).abs()
    figures[SAMPLED_APART] = float(equations.masked_mean(apart, rollout.action_mask))
    state.iterations_done += 1
    state.log.record(state.iterations_done, {**figures, **more})
    state.log.keep(state.iterations_done, found.prompts, found.texts, earned, rollout.finished)
    state.kl = state.kl.updated(figures["kl"], len(found.prompts))
    if settings.collapse != "ignore":
        share = settings.collapse_share
        state.collapse.record(state.iterations_done, figures, found.texts, share)


def _counts(state: Training) -> dict[str, Any]:
    """The training beside weights and optimizer, as plain data."""
    return {
        "iterations_done": state.iterations_done,
        "beta": state.kl.beta,
        "guard": dataclasses.asdict(state.guard),
        "collapse": dataclasses.asdict(state.collapse),
        "log": dataclasses.asdict(state.log),
        "scales": dataclasses.asdict(state.scales),
        "watched": dataclasses.asdict(state.watched),
    }


def _read(counts: dict[str, Any], state: Training) -> None:
    state.iterations_done = counts["iterations_done"]
    state.kl = dataclasses.replace(state.kl, beta=counts["beta"])
    state.guard = Guard(**counts["guard"])
    state.collapse = Collapse(**counts["collapse"])
    state.log = PpoLog(**counts["log"])
    state.scales = Scales(**counts["scales"])
    state.watched = Watched.read(counts["watched"])


def _due(done: int, settings: PpoSettings) -> bool:
    """Whether a multiple of `checkpoint_steps` lies in the last iteration's timesteps."""
    steps, every = settings.update_timesteps, settings.checkpoint_steps
    return done * steps // every > (done - 1) * steps // every
