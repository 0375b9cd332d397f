"""The evaluation stage: SFT against PPO on test prompts, which no training has seen."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from chatllama_pipeline.data.feedback.figures import FeedbackFigures, Said
from chatllama_pipeline.data.tables import as_prompt, read_split, rows_by_hash
from chatllama_pipeline.evaluation import REPORT_FILE, gate
from chatllama_pipeline.evaluation.figures import (
    ActorFigures,
    Comparison,
    Evaluation,
    Figures,
    Reply,
    Verdict,
    flat_figures,
    write_comparisons,
)
from chatllama_pipeline.evaluation.incumbent import (
    FEEDBACK,
    RELEASE,
    answer_beside_release,
    answer_what_people_rated,
    meet_release,
)
from chatllama_pipeline.evaluation.judging import judge_replies
from chatllama_pipeline.evaluation.known_answers import ask_known_questions
from chatllama_pipeline.evaluation.people import judge_beside_people
from chatllama_pipeline.evaluation.replies import Sampled, answer, divergences
from chatllama_pipeline.evaluation.report import render
from chatllama_pipeline.llm.judge.rubric import RubricJudge
from chatllama_pipeline.llm.local.server import Machine
from chatllama_pipeline.llm.providers import Judge, open_judge
from chatllama_pipeline.llm.rules import RulesJudge, names_item
from chatllama_pipeline.llm.templates import Template, load_templates
from chatllama_pipeline.models.bases.preflight import prompt_room
from chatllama_pipeline.models.chat.template import prompt_ids
from chatllama_pipeline.models.heads import RewardScorer, load_actor
from chatllama_pipeline.models.loading import load_tokenizer
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import (
    CURVES_FILE,
    SAMPLES_FILE,
    Curve,
    Message,
    Outcome,
    Prompt,
    StageSpec,
)
from chatllama_pipeline.seeds import stage_seed
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.settings.training.rewards import REWARD_MODEL
from chatllama_pipeline.statistics import bootstrap_interval, mean, preferences
from chatllama_pipeline.training.ppo.equations import distinct_2
from chatllama_pipeline.training.reward.report import RewardReport
from chatllama_pipeline.training.terms.cheats import CheatsReport
from chatllama_pipeline.training.watching.judges import judges_what_it_paid
from chatllama_pipeline.training.watching.report import WatchReport

ACTORS = ("actor_sft", "actor_ppo")
TRAINED = ("actor_sft", "reward_model", "actor_ppo")


@dataclass(frozen=True)
class _TestPrompt:
    prompt: Prompt
    source: str
    ids: list[int]


def run(spec: StageSpec, progress: Progress) -> Outcome:
    """Write `evaluation.json`, `report.html` and `table.jsonl`; the verdict is a check.

    Without test prompts, test pairs or a judge the figures that rest on them are None, and the
    gate holds the release.
    """
    settings = AssistantSettings.of_stage(spec)
    quiet_transformers()
    # A judge without a key is told before anything is sampled.
    with open_judge(
        settings.role("evaluation_judge"),
        _template(spec),
        Path(spec.run_folder),
        Machine(spec.device, spec.threads),
    ) as judge:
        return _compare(spec, settings, judge, progress)


def _template(spec: StageSpec) -> Template:
    """The rules that an LLM judges by; the assistant's own where they are among the inputs."""
    personal = spec.inputs.get("personal_data")
    return load_templates(Path(personal) if personal else Path(spec.output))["reward"]


def _compare(
    spec: StageSpec, settings: AssistantSettings, judge: Judge | None, progress: Progress
) -> Outcome:
    started = time.monotonic()
    # 1. Sample both actors on the same prompts; they are gone before a local judge is loaded.
    known = ask_known_questions(spec, settings, progress)
    prompts, warnings, sampled, kl = _answered(spec, settings, progress)
    asked = [row.prompt for row in prompts]
    candidate = [reply.text for reply in sampled[settings.release.stage]]
    tested = answer_beside_release(spec, settings, judge, asked, progress, candidate)
    rated = answer_what_people_rated(spec, settings, judge, progress)

    # 2. Score every reply, by the reward model and by the judge.
    scorer = _scorer(spec)
    before, after = ([reply.text for reply in sampled[actor]] for actor in ACTORS)
    judged = judge_replies(judge, asked, before, after, progress, settings.llm.max_usd)
    replies = {
        actor: _score(scorer, judge, prompts, sampled[actor], scores)
        for actor, scores in zip(ACTORS, (judged.before, judged.after), strict=True)
    }
    accuracy, pairs = _reward_accuracy(scorer, spec.inputs["preference_data"])
    met = meet_release(spec, settings, judge, tested, rated, progress)
    people, on_votes = judge_beside_people(spec, settings, judge, progress)
    said_by_judge = [judged, *met.judged, *on_votes]

    # 3. Figures, verdict and files.
    curves = _curves(spec, judge)
    low, high = _interval(judged.wins, settings)
    figures = Figures(
        actor_sft=_actor_figures(replies["actor_sft"], sampled["actor_sft"]),
        actor_ppo=_actor_figures(replies["actor_ppo"], sampled["actor_ppo"]),
        kl=mean(kl),
        win_rate=mean(judged.wins),
        win_rate_low=low,
        win_rate_high=high,
        reward_model_accuracy=accuracy,
        reward_model_pairs=pairs,
        sft_validation_loss=_last(curves["actor_sft"], "validation_loss"),
        prompts=len(prompts),
        judged=len(judged.wins),
        judge_flip_rate=judged.flip_rate,
        known_answers=known,
        over_release=met.over,
        on_feedback=met.on_feedback,
        with_people=people,
    )
    verdict = _verdict(spec, settings, judge, figures)
    comparisons = _comparisons(prompts, replies, kl, judged.after_wins)
    _write(spec, settings, judge, Evaluation(figures, verdict), curves, comparisons)
    seconds = {"seconds": round(time.monotonic() - started, 2)}
    return Outcome(
        rows=len(comparisons),
        metrics=flat_figures(figures) | said_by_judge[-1].ledger | seconds,
        checks=[
            *gate.checks(figures, verdict, settings.release, settings.checks, bool(scorer)),
            judged.readable(settings.checks.max_judge_unread),
        ],
        curves=[Curve(f"{s}/{curve.name}", curve.points) for s in curves for curve in curves[s]],
        warnings=[*warnings, *(told for one in said_by_judge for told in one.warnings())],
    )


def _scorer(spec: StageSpec) -> RewardScorer | None:
    """The reward model, where the way to the actor needed one."""
    folder = spec.inputs.get("reward_model")
    return RewardScorer(folder, device=spec.device) if folder else None


def _interval(
    wins: Sequence[float], settings: AssistantSettings
) -> tuple[float | None, float | None]:
    """The bounds of 95 % of the win rates that as many prompts would have given."""
    seed = stage_seed(settings.seed, "evaluation")
    return bootstrap_interval(wins, settings.evaluation.bootstrap_samples, seed)


def _comparisons(
    prompts: Sequence[_TestPrompt],
    replies: dict[str, list[Reply]],
    kl: Sequence[float],
    wins: Sequence[float | None],
) -> list[Comparison]:
    columns = zip(prompts, *(replies[actor] for actor in ACTORS), kl, wins, strict=True)
    return [
        Comparison(row.prompt, row.source, old, new, round(nats, 6), win)
        for row, old, new, nats, win in columns
    ]


def _answered(
    spec: StageSpec, settings: AssistantSettings, progress: Progress
) -> tuple[list[_TestPrompt], list[str], dict[str, list[Sampled]], list[float]]:
    """The test prompts with warnings, each actor's replies, and the KL of each of PPO's."""
    tokenizer = load_tokenizer(spec.inputs["actor_sft"])
    actors = {
        actor: load_actor(spec.inputs[actor], torch.float32).to(spec.device) for actor in ACTORS
    }
    config = actors["actor_sft"].config
    room = prompt_room({"actor": config}, tokenizer, settings.actor_config)
    prompts, warnings = _test_prompts(spec, settings, tokenizer, room)
    progress.say(f"both actors answer {len(prompts)} test prompts")
    sampled, kl = _sample(actors, tokenizer, settings, [row.ids for row in prompts])
    return prompts, warnings, sampled, kl


def _verdict(
    spec: StageSpec, settings: AssistantSettings, judge: Judge | None, figures: Figures
) -> Verdict:
    paid = "reward_model" in spec.inputs
    return gate.decide(
        figures,
        settings.release,
        assistant=spec.assistant,
        judge=judge.name if judge else None,
        judge_in_reward=paid and judges_what_it_paid(settings, Path(spec.inputs["reward_model"])),
        reward_model_pays=paid and settings.rewards.pays_by(REWARD_MODEL),
        unpromoted_overrides=spec.unpromoted_overrides,
    )


def _write(
    spec: StageSpec,
    settings: AssistantSettings,
    judge: Judge | None,
    evaluation: Evaluation,
    curves: dict[str, list[Curve]],
    comparisons: list[Comparison],
) -> None:
    output, name = Path(spec.output), judge.name if judge else None
    evaluation.write(output)
    write_comparisons(output, comparisons)
    folder = spec.inputs.get("reward_model")
    trust = RewardReport.read(Path(folder)) if folder else None
    actor = Path(spec.inputs["actor_ppo"])
    page = render(
        spec.assistant, settings, name, evaluation, curves, comparisons, trust, _said(spec),
        CheatsReport.read(actor), WatchReport.read(actor),
    )  # fmt: skip
    (output / REPORT_FILE).write_text(page, encoding="utf-8")


def _said(spec: StageSpec) -> Said | None:
    """What people said of the release in use; None where there is none, or nobody said a word."""
    if RELEASE not in spec.inputs or FEEDBACK not in spec.inputs:
        return None
    figures = FeedbackFigures.read(Path(spec.inputs[FEEDBACK]))
    return figures.said.get(Path(spec.inputs[RELEASE]).name)


def _test_prompts(
    spec: StageSpec, settings: AssistantSettings, tokenizer: Any, room: int
) -> tuple[list[_TestPrompt], list[str]]:
    """At most `evaluation.prompts` test prompts of at most `room` tokens, and warnings."""
    found: list[_TestPrompt] = []
    too_long = 0
    for row in rows_by_hash(spec.inputs["rlhf_training_data"], "test"):
        if len(found) == settings.evaluation.prompts:
            break
        prompt = as_prompt(row["prompt"])
        ids = prompt_ids(tokenizer, prompt, room)
        if len(ids) <= room:
            found.append(_TestPrompt(prompt, row["source"], ids))
        else:
            too_long += 1
    if not too_long:
        return found, []
    actor = settings.actor_config
    return found, [
        f"{too_long} test prompts are longer than {room} tokens, which is what actor_config."
        f"max_tokens {actor.max_tokens} leaves of max_sequence_length {actor.max_sequence_length}, "
        "and were left out"
    ]


def _sample(
    actors: dict[str, Any], tokenizer: Any, settings: AssistantSettings, prompts: list[list[int]]
) -> tuple[dict[str, list[Sampled]], list[float]]:
    """Each actor's replies, sampled with a seed of its own, and the KL of each of PPO's."""
    temperature = settings.evaluation.temperature
    sampled = {
        name: answer(
            actor,
            tokenizer,
            prompts,
            max_new_tokens=settings.actor_config.max_tokens,
            temperature=temperature,
            seed=stage_seed(settings.seed, "evaluation", name),
            thoughts=settings.actor_config.thoughts,
        )
        for name, actor in actors.items()
    }
    pad_id, own = tokenizer.pad_token_id, sampled["actor_ppo"]
    kl = divergences(actors["actor_ppo"], actors["actor_sft"], pad_id, prompts, own, temperature)
    return sampled, kl


def _score(
    scorer: RewardScorer | None,
    judge: Judge | None,
    prompts: Sequence[_TestPrompt],
    replies: Sequence[Sampled],
    scores: Sequence[float | None],
) -> list[Reply]:
    rewards: list[float | None] = [None] * len(replies)
    if scorer is not None:
        texts = [reply.text for reply in replies]
        given = scorer([row.prompt for row in prompts], texts).tolist()
        rewards = [round(reward, 6) for reward in given]
    return [
        Reply(
            text=reply.text,
            tokens=len(reply.ids),
            finished=reply.finished,
            reward=reward,
            score=score,
            names_item=_names_item(judge, row.prompt, reply.text),
        )
        for row, reply, reward, score in zip(prompts, replies, rewards, scores, strict=True)
    ]


def _names_item(judge: Judge | None, prompt: Prompt, reply: str) -> bool | None:
    """Only the grammar's judge knows which item a prompt asks about."""
    return names_item(prompt, reply) if isinstance(judge, RulesJudge) else None


def _scores(replies: Sequence[Reply]) -> list[float]:
    return [reply.score for reply in replies if reply.score is not None]


def _actor_figures(replies: Sequence[Reply], sampled: Sequence[Sampled]) -> ActorFigures:
    return ActorFigures(
        rubric_score=mean(score / 5 for score in _scores(replies)),
        reward=mean(reply.reward for reply in replies if reply.reward is not None),
        reply_tokens=mean(reply.tokens for reply in replies),
        share_finished=mean(reply.finished for reply in replies),
        names_item=mean(r.names_item for r in replies if r.names_item is not None),
        distinct_2=mean([distinct_2([reply.ids for reply in sampled])]) if sampled else None,
    )


def _reward_accuracy(scorer: RewardScorer | None, folder: str) -> tuple[float | None, int]:
    """Share of all test pairs whose chosen reply scores higher (ties half), and their number."""
    if scorer is None:
        return None, 0
    rows = read_split(folder, "test")
    prompts = [as_prompt(row["prompt"]) for row in rows]
    rejected = scorer(prompts, [row["rejected"] for row in rows]).tolist()
    chosen = scorer(prompts, [row["chosen"] for row in rows]).tolist()
    return mean(preferences(rejected, chosen)), len(rows)


def _curves(spec: StageSpec, judge: Judge | None) -> dict[str, list[Curve]]:
    """What each training drew, and the judge's score over PPO's rollouts."""
    trained = [stage for stage in TRAINED if stage in spec.inputs]
    curves = {stage: _read_curves(Path(spec.inputs[stage])) for stage in trained}
    curves["actor_ppo"] += _rubric_curve(Path(spec.inputs["actor_ppo"]), judge)
    return curves


def _read_curves(folder: Path) -> list[Curve]:
    raw = json.loads((folder / CURVES_FILE).read_text())
    return [Curve(name, [(x, y) for x, y in points]) for name, points in raw.items()]


def _rubric_curve(folder: Path, judge: Judge | None) -> list[Curve]:
    """The rubric's mean score / 5 over the rollouts that PPO kept, by iteration.

    Only of `rules` and `rubric`: an LLM would have to be paid for each of them.
    """
    if not isinstance(judge, RulesJudge | RubricJudge):
        return []
    if not (folder / SAMPLES_FILE).exists():
        return []  # DPO writes no replies
    scores: defaultdict[int, list[float]] = defaultdict(list)
    with (folder / SAMPLES_FILE).open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            prompt = [Message(**turn) for turn in row["prompt"]]
            scores[row["iteration"]].append(judge.score(prompt, row["reply"]) / 5)
    points = [(float(i), sum(found) / len(found)) for i, found in sorted(scores.items())]
    return [Curve("rubric", points)] if points else []


def _last(curves: Sequence[Curve], name: str) -> float | None:
    """The last value of the curve of that name."""
    return next((mean([curve.points[-1][1]]) for curve in curves if curve.name == name), None)
