"""A training that improves the tiny base by a module's rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatllama_pipeline.records import StageSpec


@pytest.fixture
def spec(
    request: pytest.FixtureRequest,
    make_spec: Callable[..., StageSpec],
    tiny_base_folder: Path,
    rows_folder: Path,
) -> Callable[..., StageSpec]:
    """By the module's `rows_folder` and `SETTINGS`, unless others are given."""

    def make(
        take: str = "a", settings: dict[str, Any] = request.module.SETTINGS, **inputs: Path
    ) -> StageSpec:
        folders = {"actor_sft": tiny_base_folder, "preference_data": rows_folder}
        return make_spec("actor_ppo", settings, folders | inputs, take)

    return make
