"""What every asset declares alike, so that an asset's own lines say only what is its own."""

from collections.abc import Callable
from typing import Any

import dagster as dg

from assets.partitions import ASSISTANTS
from chatllama_pipeline.data.checks import CHECK_NAMES as DATA_CHECKS
from chatllama_pipeline.data.sources import SOURCES
from chatllama_pipeline.evaluation.gate import CHECK_NAMES as EVALUATION_CHECKS
from chatllama_pipeline.recipes import CODE_VERSION, UPSTREAM
from chatllama_pipeline.training import CHECK_NAMES as TRAINING_CHECKS

OWNERS = ["team:assistants"]
CHECK_NAMES = {**DATA_CHECKS, **TRAINING_CHECKS, **EVALUATION_CHECKS}


def pipeline_asset(
    name: str, group: str, *kinds: str, output_required: bool = True
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`dg.asset` with its place in the graph, partitions, code version and checks by `name`.

    Upstream assets are `deps`: what is read of them is read from the store, verified.
    """
    return dg.asset(
        name=name,
        deps=UPSTREAM[name],
        partitions_def=None if name in SOURCES else ASSISTANTS,
        group_name=group,
        kinds=set(kinds),
        owners=OWNERS,
        code_version=CODE_VERSION[name],
        check_specs=asset_checks(name),
        output_required=output_required,
    )


def asset_checks(asset: str) -> list[dg.AssetCheckSpec]:
    """The checks that a version of `asset` comes with; failed blocking ones keep it unpublished."""
    return [
        dg.AssetCheckSpec(name, asset=asset, blocking=blocking)
        for name, blocking in CHECK_NAMES.get(asset, [])
    ]
