"""The release in use on the same test prompts: a candidate that loses to it is not released.

Retraining week by week compares each PPO with its own SFT, so that a chain of small losses would
pass unseen: here a candidate meets what people use. Both sample with the same seeds, so that equal
models give equal replies, which are ties. A reply is chance, and what a retraining changes is
small: by several replies to each prompt the win rate is known twice as well as by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from chatllama_pipeline.data.splits import content_hash
from chatllama_pipeline.data.tables import as_prompt, read_split
from chatllama_pipeline.evaluation.figures import OverRelease
from chatllama_pipeline.evaluation.judging import Judged, is_free, judge_replies
from chatllama_pipeline.evaluation.replies import answers_of
from chatllama_pipeline.llm.providers import Judge
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Prompt, StageSpec
from chatllama_pipeline.seeds import stage_seed
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.statistics import bootstrap_interval, mean

RELEASE, FEEDBACK = "release", "feedback"


class Asked(NamedTuple):
    """Prompts with the replies of the release in use and of the candidate, as many of each."""

    prompts: list[Prompt]
    released: list[list[str]]
    candidate: list[list[str]]


class Met(NamedTuple):
    """How the candidate did against the release in use, on all test prompts and on those of them
    that people rated, None where that was not compared; and what the judge said."""

    over: OverRelease | None
    on_feedback: OverRelease | None
    judged: list[Judged]


class _Word(NamedTuple):
    """The judge's on one prompt: means over its replies, None where there is nothing to average."""

    win: float | None
    released: float | None
    candidate: float | None


def answer_beside_release(
    spec: StageSpec,
    settings: AssistantSettings,
    judge: Judge | None,
    prompts: Sequence[Prompt],
    progress: Progress,
    first: Sequence[str] | None = None,
) -> Asked | None:
    """The replies of release and candidate to `prompts` that both have room for; None without a
    release or a judge. `first` holds the candidate's replies of take 0 where they are known."""
    if judge is None or RELEASE not in spec.inputs:
        return None
    takes = range(settings.evaluation.replies if is_free(judge) else 1)
    released = answers_of(
        Path(spec.inputs[RELEASE]), "the release in use", settings, prompts, spec.device, progress,
        takes,
    )  # fmt: skip
    known: dict[int, list[str]] = {n: [text] for n, text in enumerate(first or ())}
    more = answers_of(
        Path(spec.inputs[settings.release.stage]), "the candidate", settings, prompts, spec.device,
        progress, takes[1:] if first else takes,
    )  # fmt: skip
    candidate = {n: known.get(n, []) + more.get(n, []) for n in known.keys() | more.keys()}
    both = [n for n in sorted(released) if len(candidate.get(n, ())) == len(takes)]
    return Asked(
        [prompts[n] for n in both], [released[n] for n in both], [candidate[n] for n in both]
    )


def answer_what_people_rated(
    spec: StageSpec, settings: AssistantSettings, judge: Judge | None, progress: Progress
) -> Asked | None:
    """The replies of release and candidate to the held-out prompts of `feedback`, at most
    `evaluation.prompts`; None where there is no release or judge, or nothing was rated."""
    if judge is None or RELEASE not in spec.inputs or FEEDBACK not in spec.inputs:
        return None
    rows = read_split(spec.inputs[FEEDBACK], "test")
    rows.sort(key=lambda row: content_hash(row["prompt"]))
    prompts = [as_prompt(row["prompt"]) for row in rows[: settings.evaluation.prompts]]
    progress.say(f"{len(prompts)} held-out prompts that people rated are asked, too")
    return answer_beside_release(spec, settings, judge, prompts, progress)


def meet_release(
    spec: StageSpec,
    settings: AssistantSettings,
    judge: Judge | None,
    tested: Asked | None,
    rated: Asked | None,
    progress: Progress,
) -> Met:
    """Judge release and candidate on what both were asked: test prompts, and what people rated.

    A prompt that is among both counts once.
    """
    if judge is None or tested is None:
        return Met(None, None, [])
    judged, words = _judge(judge, settings, tested, progress)
    met = dict(zip(map(tuple, tested.prompts), words, strict=True))
    of_people, told = None, [judged]
    if rated is not None and rated.prompts:
        judged, words = _judge(judge, settings, rated, progress)
        met |= dict(zip(map(tuple, rated.prompts), words, strict=True))
        of_people, told = _figures(spec, settings, rated, words), [*told, judged]
    return Met(_figures(spec, settings, tested, [*met.values()]), of_people, told)


def _judge(
    judge: Judge, settings: AssistantSettings, asked: Asked, progress: Progress
) -> tuple[Judged, list[_Word]]:
    """What the judge said of all replies, and of each prompt."""
    takes = len(asked.released[0]) if asked.released else 1
    judged = judge_replies(
        judge,
        [prompt for prompt in asked.prompts for _ in range(takes)],
        [text for texts in asked.released for text in texts],
        [text for texts in asked.candidate for text in texts],
        progress,
        settings.llm.max_usd,
    )
    told = (judged.after_wins, judged.before, judged.after)
    words = [
        _Word(*(_mean(column[at : at + takes]) for column in told))
        for at in range(0, takes * len(asked.prompts), takes)
    ]
    return judged, words


def _mean(values: Sequence[float | None]) -> float | None:
    return mean(value for value in values if value is not None)


def _figures(
    spec: StageSpec, settings: AssistantSettings, asked: Asked, words: Sequence[_Word]
) -> OverRelease:
    wins = [word.win for word in words if word.win is not None]
    seed = stage_seed(settings.seed, "evaluation", RELEASE)
    low, high = bootstrap_interval(wins, settings.evaluation.bootstrap_samples, seed)
    return OverRelease(
        version=Path(spec.inputs[RELEASE]).name,
        prompts=len(words),
        judged=len(wins),
        win_rate=mean(wins),
        win_rate_low=low,
        win_rate_high=high,
        rubric_score=mean(word.released / 5 for word in words if word.released is not None),
        candidate_score=mean(word.candidate / 5 for word in words if word.candidate is not None),
        replies=len(asked.released[0]) if asked.released else 1,
    )
