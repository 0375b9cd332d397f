"""The update of one iteration: epochs, minibatches, micro-batches."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from chatllama_pipeline.progress import phase
from chatllama_pipeline.seeds import stage_seed
from chatllama_pipeline.settings import PpoSettings
from chatllama_pipeline.training.distributed import by_deepspeed, share_of
from chatllama_pipeline.training.guards import Guard
from chatllama_pipeline.training.ppo import equations
from chatllama_pipeline.training.ppo.methods import METHODS, Method, Part
from chatllama_pipeline.training.ppo.parts import alike

PPO = METHODS["ppo"]
# The place of `update_kl` among the figures.
DRIFT = 4


class Experience(NamedTuple):
    """What B rollouts taught: prompts `[B,P]` (left-padded), everything else `[B,T]`.

    Advantages are as the method gives credit; they and the returns are 0 outside the action mask.
    Without a critic values and returns are 0.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    response: Tensor
    action_mask: Tensor
    logp_old: Tensor
    logp_ref: Tensor
    values_old: Tensor
    advantages: Tensor
    returns: Tensor

    def rows(self, index: Tensor) -> Self:
        """These rows, without the columns that are padding in all of them."""
        prompt = self.prompt_mask[index].any(0)
        response = self.action_mask[index].any(0)
        return type(self)(
            *(field[index][:, prompt] for field in self[:2]),
            *(field[index][:, response] for field in self[2:]),
        )


class MinibatchFigures(NamedTuple):
    """Means over a minibatch's action tokens, and the extremes of its probability ratios.

    `update_kl` is k3 of the policy that sampled against the one updated, in nats per token.
    """

    policy_loss: float
    value_loss: float
    clip_fraction: float
    value_clip_fraction: float
    update_kl: float
    loss: float
    ratio_min: float
    ratio_max: float


def minibatch_gradients(
    module: Any,
    accelerator: Any,
    minibatch: Experience,
    settings: PpoSettings,
    tokens: Tensor | None = None,
    on_part: Callable[[float], None] = lambda share: None,
    *,
    method: Method = PPO,
    beta: float = 0.0,
) -> MinibatchFigures:
    """Add the gradient of the minibatch's loss to the parameters' `.grad`.

    The loss is a sum over action tokens (or replies: as the method has it) divided by their number
    in the whole minibatch, so the size of a micro-batch costs memory and changes nothing else. Rows
    of like length share one, see `parts`.
    With several processes, `minibatch` holds this one's rows and `tokens` counts those of all; the
    figures are of all. Under DeepSpeed the last backward is the optimizer's step as well; it is
    skipped where the policy has moved further than `update_kl_limit`. `on_part` hears what share
    is done. `beta` is the price of a nat, for a method that has it in its loss.
    """
    rows, ranks = minibatch.response.shape[0], accelerator.num_processes
    tokens = minibatch.action_mask.sum() if tokens is None else tokens
    sums = torch.zeros(6, device=tokens.device)
    low, high = torch.ones_like(sums[0]), torch.ones_like(sums[0])
    apart = ranks == 1 and not by_deepspeed(accelerator)
    most = min(settings.micro_batch_size or rows, rows)
    parts = alike(minibatch.prompt_mask, minibatch.action_mask, most, as_few=not apart)
    for number, index in enumerate(parts, 1):
        on_part(1 / len(parts) if number > 1 else 0.0)
        last = number == len(parts)
        # Wrapped for several processes, a module has one forward and one backward.
        alone = accelerator.backward if apart and module.has_own_critic else None
        whole = Whole(method, settings, tokens, rows * ranks, beta)
        loss, figures, ratio = _micro_loss(module, minibatch.rows(index), whole, alone)
        sums += figures
        low, high = torch.minimum(low, ratio.min()), torch.maximum(high, ratio.max())
        accelerator.gradient_state._set_sync_gradients(last)
        if not by_deepspeed(accelerator):
            with contextlib.nullcontext() if last else accelerator.no_sync(module):
                accelerator.backward(loss * ranks)
            continue
        if last and accelerator.reduce(sums[DRIFT], "sum") > settings.update_kl_limit:
            # What DeepSpeed has gathered so far it clears itself after a step that isn't finite.
            loss = loss * math.nan
        accelerator.backward(loss * ranks, scale_wrt_gas=False)
    found = accelerator.gather(torch.cat([sums, torch.stack([low, high])])[None]).view(ranks, -1)
    extremes = [found[:, 6].min(), found[:, 7].max()]
    return MinibatchFigures(*torch.stack([*found[:, :6].sum(0), *extremes]).tolist())


class Whole(NamedTuple):
    """What holds of all of a minibatch: `tokens` and `replies` count those of all processes."""

    method: Method
    settings: PpoSettings
    tokens: Tensor
    replies: int
    beta: float = 0.0


def _micro_loss(
    module: Any, part: Experience, whole: Whole, backward: Callable[[Tensor], None] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, detached figures (the first six of MinibatchFigures) and ratios of a micro-batch.

    Given `backward`, the actor's share of the loss has gone through it: its activations are free
    before the critic's are made, and the gradients, each of one model, are the same.
    """
    settings, tokens = whole.settings, whole.tokens
    mask, with_entropy = part.action_mask, settings.beta_s > 0
    score = partial(
        module, part.prompt_ids, part.prompt_mask, part.response, mask, settings.temperature,
        with_entropy,
    )  # fmt: skip
    scores = score() if backward is None else score(only="actor")
    policy = whole.method.policy_loss(
        Part(
            scores.logp, part.logp_old, part.logp_ref, part.advantages, mask, tokens,
            whole.replies, whole.beta, settings.actor_eps_clip,
        )
    )  # fmt: skip
    loss = policy.loss
    if scores.entropy is not None:
        loss = loss - settings.beta_s * equations.token_mean(scores.entropy, mask, tokens)
    if backward is not None:
        backward(loss)
        loss = loss.detach()
    value = equations.ClippedLoss(torch.zeros_like(loss), torch.zeros_like(loss))
    if whole.method.has_critic:
        value = equations.value_loss(
            scores.values if backward is None else score(only="critic").values,
            part.values_old,
            part.returns,
            mask,
            clip=settings.critic_eps_clip,
            tokens=tokens,
        )
        loss = loss + settings.value_coefficient * value.loss
    with torch.no_grad():
        drift = equations.token_mean(equations.k3(part.logp_old, scores.logp), mask, tokens)
        clipped = policy.clipped, value.clipped / tokens
        figures = torch.stack([policy.loss, value.loss, *clipped, drift, loss]).detach()
    return loss, figures, policy.ratio.detach()


def minibatches(rows: int, size: int, epochs: int, seed: int) -> Iterator[Tensor]:
    """The row numbers of each minibatch, every epoch in an order of its own."""
    for epoch in range(epochs):
        shuffle = torch.Generator().manual_seed(stage_seed(seed, "epoch", epoch))
        yield from torch.split(torch.randperm(rows, generator=shuffle), size)


def update(
    module: Any,
    optimizer: Any,
    accelerator: Any,
    experience: Experience,
    settings: PpoSettings,
    guard: Guard,
    seed: int,
    *,
    method: Method = PPO,
    beta: float = 0.0,
) -> dict[str, float]:
    """Step 6 of an iteration; returns the means of the figures over its optimizer steps.

    A minibatch whose policy has moved further than `update_kl_limit` ends the epoch before its
    step; the next epoch would begin just as far off, so it ends the update.
    """
    seen: list[MinibatchFigures] = []
    norms: list[float] = []
    rows = experience.response.shape[0]
    steps = settings.epochs * math.ceil(rows / settings.minibatch_size)
    counter = phase("learns from it", steps, "steps")
    chosen = minibatches(rows, settings.minibatch_size, settings.epochs, seed)
    for number, index in enumerate(chosen, 1):
        optimizer.zero_grad()
        index = index.to(experience.response.device)
        tokens = experience.action_mask[index].sum()
        minibatch = experience.rows(index[share_of(accelerator, len(index))])
        figures = minibatch_gradients(
            module, accelerator, minibatch, settings, tokens, counter.advance,
            method=method, beta=beta,
        )  # fmt: skip
        counter.reach(number)
        if figures.update_kl > settings.update_kl_limit:
            break
        norm = float(accelerator.clip_grad_norm_(module.parameters(), settings.max_grad_norm))
        finite = math.isfinite(figures.loss) and math.isfinite(norm)
        if by_deepspeed(accelerator):
            finite = finite and not optimizer.step_was_skipped
        guard.record(finite)
        if finite:
            optimizer.step()
            seen.append(figures)
            norms.append(norm)
        elif guard.tripped:
            break
    optimizer.zero_grad()
    return _summary(seen, norms, method)


def _summary(seen: list[MinibatchFigures], norms: list[float], method: Method) -> dict[str, float]:
    if not seen:
        return {"optimizer_steps": 0.0}
    count = len(seen)
    names = ["policy_loss", "clip_fraction"]
    if method.has_critic:
        names += ["value_loss", "value_clip_fraction"]
    summary = {name: sum(getattr(figures, name) for figures in seen) / count for name in names}
    summary["update_kl"] = seen[-1].update_kl
    summary["ratio_min"] = min(figures.ratio_min for figures in seen)
    summary["ratio_max"] = max(figures.ratio_max for figures in seen)
    summary["gradient_norm"] = sum(norms) / count
    summary["gradient_norm_max"] = max(norms)
    summary["optimizer_steps"] = float(count)
    return summary
