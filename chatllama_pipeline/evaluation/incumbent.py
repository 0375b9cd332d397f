"""The release in use on the same test prompts: a candidate that loses to it is not released.

Retraining week by week compares each PPO with its own SFT, so that a chain of small losses would
pass unseen: here a candidate meets what people use. Both sample with the same seed, so that equal
models give equal replies, which are ties.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from chatllama_pipeline.data.splits import content_hash
from chatllama_pipeline.data.tables import as_prompt, read_split
from chatllama_pipeline.evaluation.figures import OverRelease
from chatllama_pipeline.evaluation.judging import Judged, judge_replies
from chatllama_pipeline.evaluation.replies import answers_of
from chatllama_pipeline.llm.providers import Judge
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Prompt, StageSpec
from chatllama_pipeline.seeds import stage_seed
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.statistics import bootstrap_interval, mean

RELEASE, FEEDBACK = "release", "feedback"


class Rated(NamedTuple):
    """Prompts with the replies of the release in use and of the candidate."""

    prompts: list[Prompt]
    released: list[str]
    candidate: list[str]


class Met(NamedTuple):
    """How the candidate did against the release in use, on test prompts and on what people rated,
    None where that was not compared; and what the judge said, in this order."""

    over: OverRelease | None
    on_feedback: OverRelease | None
    judged: list[Judged]


def answer_by_release(
    spec: StageSpec, settings: AssistantSettings, prompts: Sequence[Prompt], progress: Progress
) -> dict[int, str]:
    """The release's reply by the number of its prompt; one that it has no room for is left out.

    Empty where no release is among the inputs.
    """
    if RELEASE not in spec.inputs:
        return {}
    folder = Path(spec.inputs[RELEASE])
    return answers_of(folder, "the release in use", settings, prompts, spec.device, progress)


def answer_what_people_rated(
    spec: StageSpec, settings: AssistantSettings, progress: Progress
) -> Rated | None:
    """The replies of release and candidate to the held-out prompts of `feedback`, at most
    `evaluation.prompts`; None where there is no release, or nothing was rated."""
    if RELEASE not in spec.inputs or FEEDBACK not in spec.inputs:
        return None
    rows = read_split(spec.inputs[FEEDBACK], "test")
    rows.sort(key=lambda row: content_hash(row["prompt"]))
    prompts = [as_prompt(row["prompt"]) for row in rows[: settings.evaluation.prompts]]
    progress.say(f"{len(prompts)} held-out prompts that people rated are asked, too")
    folder = Path(spec.inputs[settings.release.stage])
    candidate = answers_of(folder, "the candidate", settings, prompts, spec.device, progress)
    released = answer_by_release(spec, settings, prompts, progress)
    both = sorted(candidate.keys() & released.keys())
    return Rated(
        [prompts[n] for n in both], [released[n] for n in both], [candidate[n] for n in both]
    )


def compare_with_release(
    spec: StageSpec,
    settings: AssistantSettings,
    judge: Judge | None,
    prompts: Sequence[Prompt],
    released: dict[int, str],
    candidate: Sequence[str],
    progress: Progress,
) -> tuple[OverRelease, Judged] | None:
    """Judge the release's replies against the candidate's (one a prompt); None without either."""
    if judge is None or RELEASE not in spec.inputs:
        return None
    judged = judge_replies(
        judge,
        [prompts[n] for n in released],
        list(released.values()),
        [candidate[n] for n in released],
        progress,
        settings.llm.max_usd,
    )
    seed = stage_seed(settings.seed, "evaluation", RELEASE)
    low, high = bootstrap_interval(judged.wins, settings.evaluation.bootstrap_samples, seed)
    scores = [score / 5 for score in judged.before if score is not None]
    found = OverRelease(
        version=Path(spec.inputs[RELEASE]).name,
        prompts=len(released),
        judged=len(judged.wins),
        win_rate=mean(judged.wins),
        win_rate_low=low,
        win_rate_high=high,
        rubric_score=mean(scores),
    )
    return found, judged


def meet_release(
    spec: StageSpec,
    settings: AssistantSettings,
    judge: Judge | None,
    tested: tuple[Sequence[Prompt], dict[int, str], Sequence[str]],
    rated: Rated | None,
    progress: Progress,
) -> Met:
    """Judge release and candidate on what both were asked: `tested` as `compare_with_release` takes
    it, and what people rated."""
    over = compare_with_release(spec, settings, judge, *tested, progress)
    by_people = None
    if rated is not None and rated.prompts:
        released = dict(enumerate(rated.released))
        asked = (rated.prompts, released, rated.candidate)
        by_people = compare_with_release(spec, settings, judge, *asked, progress)
    found = [one for one in (over, by_people) if one]
    return Met(
        over[0] if over else None,
        by_people[0] if by_people else None,
        [judged for _, judged in found],
    )
