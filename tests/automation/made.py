"""Assistants of own rows alone, and files in the place of what a training would make of them."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from chatllama_pipeline.data.own.personal import build_personal_data
from chatllama_pipeline.data.sources.catalog import SOURCES
from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.lineage.recipes import current_upstream, is_made, recipe_for
from chatllama_pipeline.records import Outcome
from chatllama_pipeline.settings.folder import load_assistant
from chatllama_pipeline.store.versions import Store, Workbench


def write_assistant(folder: Path, rows: int = 3, **sections: Any) -> None:
    (folder / "datasets").mkdir(parents=True, exist_ok=True)
    config = {"data": {"sources": []}, **sections}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    table = [{"user_input": f"What is {n}?", "completion": f"It is {n}."} for n in range(rows)]
    (folder / "datasets" / "actor_training_data.json").write_text(json.dumps(table))


def make_versions(store: Store, name: str, all_but: Collection[str], others: str = "") -> None:
    """A version of every asset of an assistant's, but for sources and those that runs make.

    With `others` they are other versions than there were, told apart by it.
    """
    mine = load_assistant(name)

    def build(bench: Workbench) -> Outcome:
        if asset == "personal_data":
            return build_personal_data(mine.folder, mine.settings, bench.output)
        (bench.output / "content").write_text(f"{asset} of {name}{others}")
        return Outcome()

    for asset in ASSETS:
        if asset in SOURCES or asset in all_but:
            continue
        upstream = current_upstream(asset, mine, store)
        recipe = recipe_for(asset, mine, upstream, store, [])
        if is_made(recipe):
            store.make(recipe, build, overrides={}, force=bool(others))
