"""What a materialization says in Dagster of what changed since the version that was in use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from chatllama_pipeline.definitions import definitions
from chatllama_pipeline.store.versions import Store

DATA = "actor_training_data"
BEFORE = ("personal_data", "preference_data", "synthetic_conversations")
# The definitions were loaded with this one; its folder here is another.
NAME = "quickstart"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(tmp_path / "assistants"))
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "storage"))
    return Store(tmp_path / "storage")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as opened:
        yield opened


def changed(instance: dg.DagsterInstance, store: Store, rows: int, limit: int) -> Any:
    """What the data's materialization says changed, once it has so many rows and that limit."""
    folder = store.root.parent / "assistants" / NAME
    (folder / "datasets").mkdir(exist_ok=True, parents=True)
    (folder / "config.yaml").write_text(
        f"data: {{sources: [], validation_share: 0.2, max_reply_length: {limit}}}"
    )
    table = [{"user_input": f"What is {n}?", "completion": f"It is {n}."} for n in range(rows)]
    (folder / "datasets" / f"{DATA}.json").write_text(json.dumps(table))
    done = dg.materialize(
        definitions.assets or [],
        selection=[*BEFORE, DATA],
        partition_key=NAME,
        resources=definitions.resources,
        instance=instance,
    )
    [event] = done.asset_materializations_for_node(DATA)
    told = event.metadata["changed"]
    if isinstance(told, dg.TableMetadataValue):
        return [record.data for record in told.records]
    return told.value


def test_a_materialization_says_what_changed_since_the_version_that_was_in_use(
    instance: dg.DagsterInstance, store: Store
) -> None:
    assert changed(instance, store, rows=20, limit=512) == "the first version"
    older = store.read(DATA, NAME).id
    found = changed(instance, store, rows=30, limit=256)
    newer = store.read(DATA, NAME).id
    assert {"what": "data", "name": "rows", older: "20", newer: "30"} in found
    limit = {"what": "settings", "name": "data.max_reply_length", older: "512", newer: "256"}
    assert limit in found
    assert changed(instance, store, 30, 256) == "the version that was in use already"
    # Back again: against what was in use until then, not against what was made before it.
    back = changed(instance, store, 20, 512)
    assert {"what": "data", "name": "rows", newer: "30", older: "20"} in back
