"""An assistant of own rows alone: data assets that are made in a second, with nothing trained."""

from __future__ import annotations

import json

import dagster as dg

from chatllama_pipeline.definitions import definitions
from chatllama_pipeline.store.versions import Store

DATA = "actor_training_data"
MADE = ("personal_data", "preference_data", "synthetic_conversations", DATA)
# The definitions were loaded with this one; its folder in a test is another.
NAME = "quickstart"


def write_rows(store: Store, rows: int, limit: int = 512) -> None:
    """Give the assistant beside the store so many rows, and replies of at most `limit` tokens."""
    folder = store.root.parent / "assistants" / NAME
    (folder / "datasets").mkdir(exist_ok=True, parents=True)
    (folder / "config.yaml").write_text(
        f"data: {{sources: [], validation_share: 0.2, max_reply_length: {limit}}}"
    )
    table = [{"user_input": f"What is {n}?", "completion": f"It is {n}."} for n in range(rows)]
    (folder / "datasets" / f"{DATA}.json").write_text(json.dumps(table))


def make_data(
    instance: dg.DagsterInstance, *more: str, **resources: object
) -> dg.ExecuteInProcessResult:
    """Materialize the actor's data and what it is made from, and `more`, with other resources."""
    return dg.materialize(
        definitions.assets or [],
        selection=[*MADE, *more],
        partition_key=NAME,
        resources={**(definitions.resources or {}), **resources},
        instance=instance,
    )
