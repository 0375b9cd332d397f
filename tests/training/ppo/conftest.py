"""What a PPO loads."""

from __future__ import annotations

from typing import Any

import pytest

from chatllama_pipeline.training.ppo import stage
from chatllama_pipeline.training.ppo.roles import Roles, load_roles


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Roles]:
    """The roles of each run of the test, in order."""
    found: list[Roles] = []

    def remember(*arguments: Any, **named: Any) -> Roles:
        found.append(load_roles(*arguments, **named))
        return found[-1]

    monkeypatch.setattr(stage, "load_roles", remember)
    return found
