"""Who writes and who judges: the two roles, and the providers that can play them."""

from __future__ import annotations

from typing import Protocol

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.llm.rules import RulesJudge, RulesWriter
from chatllama_pipeline.records import Prompt

NO_PROVIDER = "none"
PROVIDERS = (NO_PROVIDER, "rules")


class Judge(Protocol):
    """Scores replies 0..5; raises ProviderError for what it cannot read."""

    name: str

    def score(self, prompt: Prompt, reply: str) -> float: ...


class Writer(Protocol):
    """Writes exactly `count` distinct texts of a kind, the same ones for the same seed."""

    name: str

    def conversations(self, count: int, seed: int) -> list[tuple[Prompt, str]]: ...

    def prompts(self, count: int, seed: int) -> list[Prompt]: ...

    def completions(self, count: int, seed: int) -> list[tuple[Prompt, str]]: ...


def _check(name: str) -> None:
    if name not in PROVIDERS:
        raise SettingsError(
            f"llm.provider: unknown provider {name!r}; there are: {', '.join(PROVIDERS)}"
        )


def open_judge(name: str) -> Judge | None:
    """The judge of that provider; None for `none`."""
    _check(name)
    return None if name == NO_PROVIDER else RulesJudge()


def open_writer(name: str) -> Writer | None:
    """The writer of that provider; None for `none`."""
    _check(name)
    return None if name == NO_PROVIDER else RulesWriter()
