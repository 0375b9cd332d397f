"""Replies sampled from the actors, and how far one actor's replies stray from another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from chatllama_pipeline.models.bases.preflight import prompt_room
from chatllama_pipeline.models.chat.replies import Thoughts, reply_of, written_text
from chatllama_pipeline.models.chat.template import prompt_ids, stop_ids
from chatllama_pipeline.models.generation import end_ids
from chatllama_pipeline.models.heads import load_actor, pad_right
from chatllama_pipeline.models.loading import load_tokenizer
from chatllama_pipeline.models.memory.passes import batches, shape_of, writing_rows
from chatllama_pipeline.progress import Progress, phase
from chatllama_pipeline.records import Prompt
from chatllama_pipeline.seeds import stage_seed
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.training.ppo.rollout import pad_left, response_logprobs, sample_replies


@dataclass(frozen=True)
class Sampled:
    """One sampled reply: its ids, with the stop token if it came to one, and its text.

    `finished`: it came to its end, and so did any thought in it.
    """

    ids: list[int]
    text: str
    finished: bool


def answer(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    thoughts: Thoughts = "drop",
) -> list[Sampled]:
    """One sampled reply to each prompt (token ids); the same seed, the same replies.

    With `thoughts: drop` a reply's text is what follows its thoughts.
    """
    if not prompts:
        return []
    stops = end_ids(stop_ids(tokenizer), model)
    rollout = sample_replies(
        model,
        prompts,
        rollout_batch_size=writing_rows(
            shape_of(model), model.num_parameters(), max(map(len, prompts)), max_new_tokens
        ),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        stop_ids=stops,
        pad_id=tokenizer.pad_token_id,
        generator=torch.Generator(model.device).manual_seed(seed),
    )
    replies = []
    for ids, ended in zip(rollout.reply_ids(), rollout.finished.tolist(), strict=True):
        reply = reply_of(tokenizer, written_text(tokenizer, ids, stops), thoughts)
        replies.append(Sampled(ids, reply.reply, ended and reply.finished))
    return replies


def answers_of(
    folder: Path,
    who: str,
    settings: AssistantSettings,
    prompts: Sequence[Prompt],
    device: str,
    progress: Progress,
    takes: Sequence[int] = (0,),
) -> dict[int, list[str]]:
    """The replies of the model in `folder` by the number of their prompt, where it has room for it,
    one for each of `takes`.

    Sampled with the seeds of what is to be released, so that equal models give equal replies; take
    0 is what the evaluation compares with what came before.
    """
    if not (prompts and takes):
        return {}
    tokenizer = load_tokenizer(folder)
    model = load_actor(folder, torch.float32).to(device)
    room = prompt_room({"actor": model.config}, tokenizer, settings.actor_config)
    encoded = {n: prompt_ids(tokenizer, prompt, room) for n, prompt in enumerate(prompts)}
    encoded = {n: ids for n, ids in encoded.items() if len(ids) <= room}
    progress.say(f"{who} answers {len(encoded)} of them too")
    found: dict[int, list[str]] = {n: [] for n in encoded}
    for take in takes:
        names = (settings.release.stage, *([take] if take else []))
        replies = answer(
            model,
            tokenizer,
            list(encoded.values()),
            max_new_tokens=settings.actor_config.max_tokens,
            temperature=settings.evaluation.temperature,
            seed=stage_seed(settings.seed, "evaluation", *names),
            thoughts=settings.actor_config.thoughts,
        )
        for n, reply in zip(encoded, replies, strict=True):
            found[n].append(reply.text)
    return found


def divergences(
    policy: Any,
    reference: Any,
    pad_id: int,
    prompts: Sequence[list[int]],
    replies: Sequence[Sampled],
    temperature: float,
) -> list[float]:
    """Of each of `policy`'s own replies: the sum of log policy - log reference over its tokens.

    In nats, at `temperature`. Their mean estimates KL(policy, reference) per reply without bias
    (k1 in Schulman, "Approximating KL divergence").
    """
    found: list[float] = []
    lengths = [len(ids) + len(reply.ids) for ids, reply in zip(prompts, replies, strict=True)]
    counter = phase(f"compares {len(lengths):,} replies", sum(lengths), "tokens")
    for rows in batches(lengths, shape_of(policy), logits=True):
        ids, mask = pad_left(prompts[rows], pad_id)
        response, actions = pad_right([reply.ids for reply in replies[rows]], pad_id)
        inputs = [tensor.to(policy.device) for tensor in (ids, mask, response, actions.bool())]
        mine = response_logprobs(policy, *inputs, temperature=temperature)
        other = response_logprobs(reference, *inputs, temperature=temperature)
        found += (mine - other).double().sum(dim=1).tolist()
        counter.advance(sum(lengths[rows]))
    return found
