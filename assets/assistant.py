"""The source `assistant`: what config.yaml, own files, templates, pins and local models say.

Everything of an assistant's stands below it, so that whatever changes there is a change to Dagster
too.
"""

import warnings
from collections.abc import Iterator

import dagster as dg

from assets.partitions import ASSISTANTS
from assets.specs import ASSISTANT, OWNERS
from chatllama_pipeline.settings.folder import load_assistant
from resources.refusals import refusing
from resources.store import StoreResource

with warnings.catch_warnings():
    # Beta in Dagster, and the only way to let it know that a folder changed.
    warnings.filterwarnings("ignore", "Function `multi_observable_source_asset`")

    @dg.multi_observable_source_asset(  # type: ignore[untyped-decorator]
        name=ASSISTANT,
        partitions_def=ASSISTANTS,
        specs=[
            dg.AssetSpec(
                ASSISTANT,
                group_name="sources",
                owners=OWNERS,
                kinds={"yaml"},
                description="What an assistant's folder says: config.yaml, own files, templates, "
                "pins, local models. Observe it to see what a run would make again.",
            )
        ],
    )
    @refusing
    def assistant(
        context: dg.AssetExecutionContext, store: StoreResource
    ) -> Iterator[dg.ObserveResult]:
        from assets.runs.standing import tell

        version = tell(context.instance, load_assistant(context.partition_key), store.open())
        yield dg.ObserveResult(asset_key=ASSISTANT, data_version=dg.DataVersion(version))
