"""The assistant's judge on the pairs that people voted on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from chatllama_pipeline.errors import ProviderError
from chatllama_pipeline.evaluation.judging import judge_replies
from chatllama_pipeline.evaluation.trials.results import (
    agreement_line,
    agreement_with,
    preferred,
)
from chatllama_pipeline.evaluation.trials.votes import Vote
from chatllama_pipeline.llm.providers import open_judge
from chatllama_pipeline.llm.templates import load_templates
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.store.trials import Trial


def judge_lines(
    trial: Trial,
    votes: Sequence[Vote],
    settings: AssistantSettings,
    personal: Path | None,
    progress: Progress,
) -> Iterator[str]:
    """How often `evaluation.judge` prefers what people do, on the same pairs; it is asked, which
    an LLM is paid for once. `personal` is the version of `personal_data` with its templates."""
    people = preferred(votes)
    if not people:
        yield "the judge wasn't asked: people prefer neither version on any prompt"
        return
    with tempfile.TemporaryDirectory() as folder:
        template = load_templates(personal or Path(folder))["reward"]
        with open_judge(settings.role("evaluation_judge"), template, Path(folder)) as judge:
            if judge is None:
                yield "nobody else judges: evaluation.judge is none"
                return
            pairs = [trial.pairs[number] for number in people]
            try:
                judged = judge_replies(
                    judge,
                    [pair.prompt for pair in pairs],
                    [pair.first for pair in pairs],
                    [pair.second for pair in pairs],
                    progress,
                    settings.llm.max_usd,
                )
            except ProviderError as error:
                yield f"the judge {judge.name} can't judge them: {error}"
                return
    wins = dict(zip(people, judged.after_wins, strict=True))
    yield agreement_line(agreement_with(judge.name, people, wins, settings), judge.name)
    yield from (f"warning: {told}" for told in judged.warnings())
