"""What a file is tried on."""

from __future__ import annotations

from typing import NamedTuple

from chatllama_pipeline.records import Prompt


class Probe(NamedTuple):
    """A test prompt and a reply to it, whoever wrote that."""

    prompt: Prompt
    reply: str
