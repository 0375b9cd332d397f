"""Who judges and who writes: the roles of `llm`, opened by whoever plays them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from chatllama_pipeline.llm.client.requests import OnProgress
from chatllama_pipeline.llm.clients import open_client
from chatllama_pipeline.llm.judge.questions import Judgement, LlmJudge
from chatllama_pipeline.llm.judge.rubric import RubricJudge
from chatllama_pipeline.llm.local.server import Machine
from chatllama_pipeline.llm.rules import RulesJudge
from chatllama_pipeline.llm.templates import Template
from chatllama_pipeline.records import Prompt
from chatllama_pipeline.settings import RoleSettings


class Judge(Protocol):
    """Scores replies 0..5. `rules` raises ProviderError for what it cannot read; the judgement of
    others then has no score and a reason."""

    name: str

    def score_all(
        self,
        rows: Sequence[tuple[Prompt, str]],
        samples: int = 1,
        progress: OnProgress | None = None,
    ) -> list[Judgement]: ...


@contextlib.contextmanager
def open_judge(
    role: RoleSettings, template: Template, run_folder: Path, machine: Machine | None = None
) -> Iterator[Judge | None]:
    """The judge of a role, None where nobody plays it.

    `run_folder` is that of the asset being made: what its restarts paid counts against
    llm.max_usd. A local model runs on `machine`, the CPU if None.
    """
    if role.provider == "none":
        yield None
    elif role.provider == "rules":
        yield RulesJudge()
    elif role.provider == "rubric":
        yield RubricJudge(role.rubric)
    else:
        with open_client(role, run_folder, machine) as client:
            yield LlmJudge(
                client, template, temperature=role.temperature, max_tokens=role.max_tokens
            )
