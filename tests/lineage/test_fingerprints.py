"""Which settings an asset's fingerprint holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.lineage.neutral import NEUTRAL
from chatllama_pipeline.settings import AssistantSettings


def dotted_keys(settings: dict[str, Any], above: str = "") -> Iterator[str]:
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from dotted_keys(value, f"{above}{key}.")
        elif above or not isinstance(value, dict):
            yield above + key


def test_every_setting_is_either_part_of_a_fingerprint_or_known_to_change_no_result() -> None:
    every = set(dotted_keys(AssistantSettings().model_dump()))
    listed = {key for asset in ASSETS.values() for key in asset.settings}
    assert listed | NEUTRAL == every
    assert not listed & NEUTRAL
