"""The stage of best of n: the SFT actor imitates the best of several replies of its own.

That is rejection sampling (Nakano et al., 2021; Touvron et al., 2023), distilled by SFT.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from chatllama_pipeline.errors import DataError, ProviderError
from chatllama_pipeline.llm.judge.questions import LlmJudge
from chatllama_pipeline.llm.plans import Plan, estimate_lines
from chatllama_pipeline.models.bases.preflight import prompt_room
from chatllama_pipeline.models.chat.replies import reply_texts
from chatllama_pipeline.models.chat.template import Example, stop_ids
from chatllama_pipeline.models.generation import end_ids, generate_plainly
from chatllama_pipeline.models.heads import RewardScorer, load_actor
from chatllama_pipeline.models.memory.efficiency import make_efficient
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.progress import Progress, counted
from chatllama_pipeline.records import SAMPLES_FILE, Outcome, Split, StageSpec
from chatllama_pipeline.seeds import stage_seed
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.training.best_of_n.sampling import (
    Asked,
    Best,
    Parts,
    Sampler,
    choose,
    sample_part,
)
from chatllama_pipeline.training.course import Task
from chatllama_pipeline.training.distributed import place, rank
from chatllama_pipeline.training.offline import load_policy, no_climb, no_replies
from chatllama_pipeline.training.plan import TrainingPlan, begin, decide
from chatllama_pipeline.training.ppo.preparation import Prompts, read_prompts
from chatllama_pipeline.training.sft.stage import (
    collate_completions,
    completion_loss_sum,
    validate,
)
from chatllama_pipeline.training.terms.asking import Asking, open_of_stage, terms_of
from chatllama_pipeline.training.trainer import save_trained, train

_ESTIMATED = "word "


def run(spec: StageSpec, progress: Progress) -> Outcome:
    """Train the actor; writes its folder, `curves.json`, and the best replies as `samples.jsonl`.

    Raises DataError where no prompt fits, or no reply ends, CheckError where memory would not do.
    Too many non-finite losses give a failed check and no payload.
    """
    quiet_transformers()
    settings = AssistantSettings.of_stage(spec)
    # A function that doesn't import, or a judge without a key, is told before models are loaded.
    with open_of_stage(spec, settings) if rank() == 0 else contextlib.nullcontext() as asking:
        return _improve(spec, settings, asking, progress)


@dataclass(frozen=True)
class _Replies:
    """The best replies of a split, and how many prompts had none that ended."""

    best: list[Best]
    examples: list[Example]
    none_ended: int


def _improve(
    spec: StageSpec, settings: AssistantSettings, asking: Asking | None, progress: Progress
) -> Outcome:
    plan, prompts = prepare(spec, settings, progress)
    asked = _asked(prompts.train, settings), _asked(prompts.held_out, settings)
    tokenizer = plan.tokenizer
    for line in _forecast(asked, settings, asking):
        progress.say(line)

    train_replies, held_out = _replies(plan, asked, asking)
    if not train_replies.examples:
        raise DataError(
            f"improve_by: best_of_n imitates replies that end, and none of those to "
            f"{len(asked[0].ids)} prompts does within actor_config.max_tokens "
            f"{settings.actor_config.max_tokens}: raise it, or train SFT for longer"
        )
    policy, pad_id = load_policy(plan, progress), tokenizer.pad_token_id
    make_efficient(policy, plan.section, plan.section_name, plan.memory.checkpointing)
    task = Task(
        rows=train_replies.examples,
        collate=partial(collate_completions, pad_id=pad_id),
        loss_sum=completion_loss_sum,
        validate=partial(validate, held_out.examples, pad_id),
        judged_by=("validation_loss", False),
        length=lambda example: len(example.ids),
    )
    training = train(policy, task, plan.for_rows(len(task.rows)), progress)
    with training.whole():
        if training.finite_loss.passed and training.is_main:
            generate_plainly(policy, tokenizer, stop_ids(tokenizer))
            save_trained(Path(spec.output), policy, tokenizer, training.curves)
            _write_samples(Path(spec.output), asked[0], train_replies.best)
    asking_metrics, asking_warnings = _told_by(asking)
    return Outcome(
        rows=len(train_replies.examples),
        metrics={
            "dropped_too_long": prompts.train.dropped,
            "replies_per_prompt": asked[0].replies,
            **_gain(train_replies),
            "steps": training.steps,
            "train_seconds": training.seconds,
            **plan.memory.metrics(),
            **training.last_figures,
            **asking_metrics,
        },
        checks=[plan.fits, training.finite_loss, no_replies("best_of_n"), *no_climb("best_of_n")],
        curves=training.curves,
        warnings=[*plan.before.warnings, *training.warnings, *asking_warnings],
    )


_SPLITS: tuple[Split, Split] = ("train", "validation")


@dataclass(frozen=True)
class _Prompts:
    """The prompts of both splits that fit."""

    train: Prompts
    held_out: Prompts

    @property
    def longest(self) -> int:
        return max(self.train.longest, self.held_out.longest)


def prepare(
    spec: StageSpec, settings: AssistantSettings, progress: Progress
) -> tuple[TrainingPlan, _Prompts]:
    """The prompts that fit, and the plan for as many rows as there are prompts."""
    sft, actor = Path(spec.inputs["actor_sft"]), settings.actor_config
    known = begin(spec, settings, sft)
    room = prompt_room({"actor": known.config}, known.tokenizer, actor)
    folders = Path(spec.inputs["rlhf_training_data"]), Path(spec.run_folder)
    prompts = _Prompts(
        *(read_prompts(*folders, known.tokenizer, room, settings, split) for split in _SPLITS)
    )
    models = {"policy": sft, "reward": Path(spec.inputs["reward_model"])}
    longest = prompts.longest + actor.max_tokens
    plan = decide(known, models, longest, len(prompts.train.ids))
    progress.say(f"{plan.before}; {prompts.train.in_words}; {plan.fits.description}")
    return plan, prompts


def _asked(prompts: Prompts, settings: AssistantSettings) -> Asked:
    section = settings.best_of_n_config
    most = section.prompts
    return Asked(prompts.messages[:most], prompts.ids[:most], section.replies_per_prompt)


def _forecast(
    asked: tuple[Asked, Asked], settings: AssistantSettings, asking: Asking | None
) -> list[str]:
    """What the replies will cost, in tokens, and in money where an LLM scores them."""
    n, tokens = asked[0].replies, settings.actor_config.max_tokens
    prompts = [prompt for each in asked for prompt in each.prompts]
    told = [
        f"{n} replies to each of {len(prompts):,} prompts: {n * len(prompts):,} replies, at most "
        f"{n * len(prompts) * tokens:,} tokens to write"
    ]
    if asking is not None and isinstance(judge := asking.judge, LlmJudge):
        reply = _ESTIMATED * (3 * tokens // 4)
        rows = [(prompt, f"{number} {reply}") for prompt in prompts for number in range(n)]
        requests = judge.score_requests(rows, asking.judge_samples)
        plan = Plan(requests, [], exact=False)
        told += estimate_lines(judge.client, plan, settings.llm.max_usd)
    return told


def _replies(
    plan: TrainingPlan, asked: tuple[Asked, Asked], asking: Asking | None
) -> tuple[_Replies, _Replies]:
    """The best replies of both splits, made by all processes; what a killed run made stays."""
    actor, section = plan.settings.actor_config, plan.settings.best_of_n_config
    home, tokenizer = Path(plan.spec.run_folder) / "replies", plan.tokenizer
    model = load_actor(plan.folders["policy"], torch.float32).eval()
    place(model, plan.means.device)
    stops = end_ids(stop_ids(tokenizer), model)
    sampled, scored = [], []
    for split, each in zip(_SPLITS, asked, strict=True):
        parts = Parts(home / f"{split}_sampled")
        sampled.append(parts)
        sampler = Sampler(
            model=model,
            read=partial(reply_texts, tokenizer, stops, actor.thoughts),
            at_once=section.rollout_batch_size,
            max_new_tokens=actor.max_tokens,
            temperature=section.temperature,
            stop_ids=stops,
            pad_id=tokenizer.pad_token_id,
            seed=stage_seed(plan.settings.seed, plan.spec.stage, split),
        )
        mine = range(plan.shares.rank, len(each.parts), plan.means.processes)
        for number in counted(f"answers {split} prompts", mine, len(mine), "parts"):
            if not parts.has(number):
                parts.write(number, sample_part(each, number, sampler))
    del model, sampler
    for split, each, parts in zip(_SPLITS, asked, sampled, strict=True):
        scored.append(Parts(home / f"{split}_scored"))
        if asking is not None:
            _score(plan, each, parts, scored[-1], asking)
    terms = terms_of(plan.settings.rewards)
    found = []
    for each, parts, scores in zip(asked, sampled, scored, strict=True):
        numbers = range(len(each.parts))
        given = [torch.tensor(scores.wait_for(number)) for number in numbers]
        best = choose(each, [parts.wait_for(number) for number in numbers], given, terms)
        examples = [one.example(each) for one in best]
        found.append(_Replies(best, examples, len(each.ids) - len(best)))
    return found[0], found[1]


def _score(plan: TrainingPlan, asked: Asked, sampled: Parts, scored: Parts, asking: Asking) -> None:
    """Score the parts that nobody has scored; ProviderError says that the others are kept."""
    numbers = [number for number in range(len(asked.parts)) if not scored.has(number)]
    if not numbers:
        return
    scorer = RewardScorer(plan.folders["reward"], device=plan.means.device)
    for number in counted("scores replies", numbers, len(numbers), "parts"):
        prompts = [asked.prompts[row] for row in asked.rows(asked.parts[number])]
        texts = sampled.wait_for(number)["texts"]
        try:
            if asking.terms:
                given = asking.columns(prompts, texts, scorer)
            else:
                given = scorer(prompts, texts)
        except (DataError, ProviderError) as error:
            told = f"{error}. What was sampled and scored is saved: run again to go on"
            error.args = (told, *error.args[1:])
            raise
        scored.write(number, given.tolist())


def _gain(replies: _Replies) -> dict[str, float]:
    """What the best replies earn beside what all do, and how many prompts have none."""
    count = len(replies.best)
    return {
        "best_score": sum(one.score for one in replies.best) / count,
        "mean_score": sum(one.mean_score for one in replies.best) / count,
        "prompts_without_an_end": replies.none_ended,
    }


def _told_by(asking: Asking | None) -> tuple[dict[str, Any], list[str]]:
    return (asking.metrics(), asking.warnings()) if asking is not None else ({}, [])


def _write_samples(output: Path, asked: Asked, best: list[Best]) -> None:
    """The replies that were imitated, a prompt a line."""
    with (output / SAMPLES_FILE).open("w", encoding="utf-8") as file:
        for one in best:
            row = {
                "iteration": 1,
                "prompt": [asdict(message) for message in asked.prompts[one.prompt]],
                "reply": one.text,
                "score": one.score,
                "mean_score": one.mean_score,
                "finished": True,
            }
            file.write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")
