"""The replies of both versions of a blind trial, written before anybody rates."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from chatllama_pipeline.data.tables import as_prompt, rows_by_hash
from chatllama_pipeline.errors import AbsentError, DataError
from chatllama_pipeline.evaluation.replies import answers_of
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Prompt
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.store.manifests import Version
from chatllama_pipeline.store.trials import Pair, Trial, begin_trial

# What raters see where a version answered nothing at all.
NOTHING = "(no reply)"


def write_trial(
    first: Version,
    second: Version,
    settings: AssistantSettings,
    prompts: Path,
    count: int,
    progress: Progress,
) -> Trial:
    """A trial on the first `count` test prompts of the `rlhf_training_data` in folder `prompts`
    that both versions have room for.

    They are answered as the evaluation has release and candidate answer. Raises DataError where
    there is no such prompt, AbsentError where a version went meanwhile.
    """
    quiet_transformers()
    asked = _distinct(prompts)[:count]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    progress.say(f"{len(asked)} test prompts are asked")
    said = []
    for version in (first, second):
        with _still_there(version):
            said.append(answers_of(version.path, version.name, settings, asked, device, progress))
    before, after = said
    both = sorted(before.keys() & after.keys())
    if not both:
        raise DataError(
            f"{prompts}: holds no test prompt that both versions have room for; make "
            "rlhf_training_data with more rows or a larger data.test_share"
        )
    pairs = [Pair(asked[n], *(one[n][0].strip() or NOTHING for one in said)) for n in both]
    return begin_trial(first, second, pairs)


def _distinct(folder: Path) -> list[Prompt]:
    found = {tuple(as_prompt(row["prompt"])): None for row in rows_by_hash(folder, "test")}
    return [list(prompt) for prompt in found]


@contextlib.contextmanager
def _still_there(version: Version) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError):
        if version.path.is_dir():
            raise
        raise AbsentError(
            f"{version.name} was removed while it answered: name another, or make it again"
        ) from None
