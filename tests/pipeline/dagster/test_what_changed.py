"""What a materialization says in Dagster of what changed since the version that was in use."""

from __future__ import annotations

from typing import Any

import dagster as dg

from chatllama_pipeline.store.versions import Store
from tests.pipeline.own_rows import DATA, NAME, make_data, write_rows


def changed(instance: dg.DagsterInstance, store: Store, rows: int, limit: int) -> Any:
    """What the data's materialization says changed, once it has so many rows and that limit."""
    write_rows(store, rows, limit)
    done = make_data(instance)
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
