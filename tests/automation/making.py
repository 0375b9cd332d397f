"""A finished run of the cheapest asset."""

from __future__ import annotations

import dagster as dg

from chatllama_pipeline.definitions import definitions


def made(instance: dg.DagsterInstance, name: str) -> str:
    """Make an assistant's own rows; returns the run's id."""
    done = dg.materialize(
        definitions.assets or [],
        selection=["personal_data"],
        partition_key=name,
        resources=definitions.resources,
        instance=instance,
    )
    return done.run_id
