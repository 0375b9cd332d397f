"""Recipes and builds of a store's tests."""

from __future__ import annotations

from datetime import UTC, datetime

from chatllama_pipeline.lineage.history.retention import old_of, remove_old
from chatllama_pipeline.records import Check, Curve, Outcome
from chatllama_pipeline.settings import StoreSettings
from chatllama_pipeline.store.manifests import Recipe
from chatllama_pipeline.store.versions import Build, Store, Workbench


def recipe(**changes: object) -> Recipe:
    parts = {
        "asset": "actor_sft",
        "assistant": "mine",
        "code_version": "1",
        "upstream": {"actor_base": "aa"},
        "settings": {"seed": 0, "actor_config.lr": 0.1},
        "inputs": {},
    }
    return Recipe(**{**parts, **changes})  # type: ignore[arg-type]


def writes(text: str, *checks: Check) -> Build:
    def build(bench: Workbench) -> Outcome:
        (bench.output / "weights").mkdir()
        (bench.output / "weights" / "model.bin").write_text(text)
        return Outcome(
            rows=3, metrics={"loss": 0.5}, checks=list(checks), curves=[Curve("loss", [(1, 2.0)])]
        )

    return build


def never(bench: Workbench) -> Outcome:
    raise AssertionError("built again")


def prune(
    store: Store, asset: str, assistant: str, keep: int, needed: frozenset[str] = frozenset()
) -> list[str]:
    """Remove what is older than the newest `keep` versions; returns the versions that went."""
    rule = StoreSettings(keep_versions=keep)
    old = old_of(asset, assistant, store, rule, set(needed), datetime.now(UTC))
    remove_old(store, old)
    return [version.id for version in old.versions]
