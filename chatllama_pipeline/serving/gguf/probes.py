"""What a file is tried on."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from chatllama_pipeline.evaluation.figures import read_comparisons
from chatllama_pipeline.records import Prompt


class Probe(NamedTuple):
    """A test prompt and a reply to it, whoever wrote that."""

    prompt: Prompt
    reply: str


def evaluated(evaluation: Path, stage: str) -> list[Probe]:
    """The test prompts of the evaluation in that folder, with the replies that `stage` gave."""
    return [Probe(row.prompt, getattr(row, stage).text) for row in read_comparisons(evaluation)]
