"""What every asset declares alike: owners, and its checks by name."""

import dagster as dg

from chatllama_pipeline.data.checks import CHECK_NAMES as DATA_CHECKS
from chatllama_pipeline.evaluation.gate import CHECK_NAMES as EVALUATION_CHECKS
from chatllama_pipeline.training import CHECK_NAMES as TRAINING_CHECKS

OWNERS = ["team:assistants"]
CHECK_NAMES = {**DATA_CHECKS, **TRAINING_CHECKS, **EVALUATION_CHECKS}


def asset_checks(asset: str) -> list[dg.AssetCheckSpec]:
    """The checks that a version of `asset` comes with; failed blocking ones keep it unpublished."""
    return [
        dg.AssetCheckSpec(name, asset=asset, blocking=blocking)
        for name, blocking in CHECK_NAMES.get(asset, [])
    ]
