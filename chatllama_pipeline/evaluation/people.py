"""Whether the judge prefers what people do: the gate can't tell whether an assistant learned well
from people whose word the judge takes for the opposite of its own."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from chatllama_pipeline.data.feedback.rows import PAIRS_FILE, THUMBS_FILE
from chatllama_pipeline.data.splits import Row, content_hash
from chatllama_pipeline.data.tables import as_prompt, read_rows
from chatllama_pipeline.evaluation.figures import Agreement
from chatllama_pipeline.evaluation.incumbent import FEEDBACK
from chatllama_pipeline.evaluation.judging import Judged, is_free, judge_replies
from chatllama_pipeline.llm.providers import Judge
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Prompt, StageSpec
from chatllama_pipeline.seeds import stage_seed
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.statistics import bootstrap_interval, mean, preferences


class _Vote(NamedTuple):
    """People think the first reply better than the second, each with the prompt it answers."""

    better: tuple[Prompt, str]
    other: tuple[Prompt, str]


def judge_beside_people(
    spec: StageSpec, settings: AssistantSettings, judge: Judge | None, progress: Progress
) -> tuple[Agreement | None, list[Judged]]:
    """How often the judge says what people said, and what an LLM's answers came to; None where
    nobody rated or judges.

    A vote is a pair of `feedback`, whatever its split since nobody taught the judge by it; for a
    judge that scores also a thumb up beside a thumb down, since of one prompt people seldom give
    both. An LLM is asked about `evaluation.prompts` pairs at most.
    """
    if judge is None or FEEDBACK not in spec.inputs:
        return None, []
    folder = Path(spec.inputs[FEEDBACK])
    if is_free(judge):
        votes = [*_pairs(folder), *_thumbs(folder)]
        scores = [
            [one.score or 0.0 for one in judge.score_all(side)]
            for side in ([vote.other for vote in votes], [vote.better for vote in votes])
        ]
        wins, judged = preferences(*scores), []
    else:
        votes = _pairs(folder)[: settings.evaluation.prompts]
        progress.say(f"the judge is asked about {len(votes)} pairs of replies that people compared")
        found = judge_replies(
            judge,
            [vote.better[0] for vote in votes],
            [vote.other[1] for vote in votes],
            [vote.better[1] for vote in votes],
            progress,
            settings.llm.max_usd,
        )
        wins, judged = found.wins, [found]
    seed = stage_seed(settings.seed, "evaluation", FEEDBACK)
    low, high = bootstrap_interval(wins, settings.evaluation.bootstrap_samples, seed)
    return Agreement(len(wins), mean(wins), low, high), judged


def _pairs(folder: Path) -> list[_Vote]:
    rows = read_rows(folder, PAIRS_FILE)
    rows.sort(key=lambda row: content_hash(row["prompt"], row["chosen"]))
    return [_vote(row, row["chosen"], row, row["rejected"]) for row in rows]


def _thumbs(folder: Path) -> list[_Vote]:
    rows = read_rows(folder, THUMBS_FILE)
    up, down = ([row for row in rows if row["label"] is good] for good in (True, False))
    return [
        _vote(good, good["completion"], bad, bad["completion"])
        for good, bad in zip(up, down, strict=False)
    ]


def _vote(better: Row, text: str, other: Row, worse: str) -> _Vote:
    return _Vote((as_prompt(better["prompt"]), text), (as_prompt(other["prompt"]), worse))
