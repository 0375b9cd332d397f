"""The source `assistant`: what config.yaml, own files, templates, pins and local models say.

Everything of an assistant's stands below it, so that whatever changes there is a change to Dagster
too. `tell` then says of each asset what `status` says: those that a run would reuse are reported as
they stand, and what is left "Unsynced" is what a run would make.
"""

import warnings
from collections.abc import Iterator

import dagster as dg
from dagster._core.events import DagsterEvent, StepMaterializationData

from assets.metadata import version_metadata
from assets.partitions import ASSISTANTS
from assets.specs import ASSISTANT, OWNERS, partitions_of
from chatllama_pipeline.data.sources.catalog import SOURCES
from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.lineage.recipes import ABSENT, version_in_use
from chatllama_pipeline.lineage.status import asked_version, asset_statuses
from chatllama_pipeline.settings.folder import Assistant, load_assistant
from chatllama_pipeline.store.versions import Store
from resources.refusals import refusing
from resources.store import StoreResource

# What Dagster's staleness goes by; it exports no names for these tags.
DATA_VERSION = "dagster/data_version"
IS_OURS = "dagster/data_version_is_user_provided"
CODE_VERSION = "dagster/code_version"
INPUT_VERSION = "dagster/input_data_version/"
INPUT_EVENT = "dagster/input_event_pointer/"
NO_EVENT = "NULL"
# The version of what Dagster was told of and the store no longer has.
GONE = "gone"


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
        version = tell(context.instance, load_assistant(context.partition_key), store.open())
        yield dg.ObserveResult(asset_key=ASSISTANT, data_version=dg.DataVersion(version))


def tell(instance: dg.DagsterInstance, assistant: Assistant, store: Store) -> str:
    """Have Dagster call fresh what a run would reuse, and nothing else; returns the version."""
    version = observe(instance, assistant, store)
    for status in asset_statuses(assistant, store):
        asset = status.asset
        if asset in SOURCES:
            continue
        known = _newest(instance, asset, assistant.name)
        if status.version is None and known is None:
            continue
        # Where nothing is to be made, there never was anything.
        version_now = status.version or (GONE if status.stale else ABSENT)
        tags = _tags(instance, asset, assistant.name, version_now)
        if status.stale:
            tags.pop(INPUT_VERSION + ASSISTANT)
            tags.pop(INPUT_EVENT + ASSISTANT)
        if known is None or _says(instance, known, asset, assistant.name) != (
            version_now,
            not status.stale,
        ):
            found = version_in_use(asset, assistant, store)
            event = dg.AssetMaterialization(
                asset,
                description="as it stands in the store",
                metadata=version_metadata(found, reused=True, before=found) if found else {},
                partition=assistant.name,
                tags=tags,
            )
            _report(instance, event, known)
    return version


def observe(instance: dg.DagsterInstance, assistant: Assistant, store: Store) -> str:
    """Record what the assistant's folder says now, where that is not what was recorded last."""
    version = asked_version(assistant, store)
    last = _newest(instance, ASSISTANT, assistant.name)
    if last is None or _version(last) != version:
        instance.report_runless_asset_event(
            dg.AssetObservation(ASSISTANT, partition=assistant.name, tags={DATA_VERSION: version})
        )
    return version


def _report(
    instance: dg.DagsterInstance, event: dg.AssetMaterialization, known: dg.EventLogRecord | None
) -> None:
    """Record how an asset stands; the version of the last run that told of it stays that run's.

    Dagster shows the results of checks with what their own run materialized, and else none.
    """
    told = (event.tags or {})[DATA_VERSION]
    run = instance.get_run_by_id(known.run_id) if known and _version(known) == told else None
    if run is None:
        instance.report_runless_asset_event(event)
        return
    materialized = DagsterEvent(
        event_type_value=dg.DagsterEventType.ASSET_MATERIALIZATION.value,
        job_name=run.job_name,
        event_specific_data=StepMaterializationData(event),
    )
    instance.report_dagster_event(materialized, run.run_id)


def observed_tags(instance: dg.DagsterInstance, name: str) -> dict[str, str]:
    """The tags of a materialization that was made from what was observed last."""
    last = _newest(instance, ASSISTANT, name)
    return _made_from(ASSISTANT, last) if last else {}


def _tags(instance: dg.DagsterInstance, asset: str, name: str, version: str) -> dict[str, str]:
    """What the event of a materialization says that was made from what there is now."""
    tags = {DATA_VERSION: version, IS_OURS: "true", CODE_VERSION: ASSETS[asset].code_version}
    for upstream in (*ASSETS[asset].upstream, ASSISTANT):
        tags |= _made_from(upstream, _newest(instance, upstream, name))
    return tags


def _made_from(upstream: str, record: dg.EventLogRecord | None) -> dict[str, str]:
    version, event = (_version(record), str(record.storage_id)) if record else ("NULL", NO_EVENT)
    return {INPUT_VERSION + upstream: version, INPUT_EVENT + upstream: event}


def _says(
    instance: dg.DagsterInstance, known: dg.EventLogRecord, asset: str, name: str
) -> tuple[str, bool]:
    """The version that Dagster knows of an asset, and whether it calls it fresh."""
    tags = _tags_of(known)
    fresh = tags.get(CODE_VERSION) == ASSETS[asset].code_version
    for upstream in (*ASSETS[asset].upstream, ASSISTANT):
        latest, event = _newest(instance, upstream, name), tags.get(INPUT_EVENT + upstream)
        if event is None:
            fresh = False
        elif latest is not None and event != str(latest.storage_id):
            before = _at(instance, upstream, name, event)
            fresh = fresh and before is not None and _version(before) == _version(latest)
    return _version(known), fresh


def _newest(instance: dg.DagsterInstance, asset: str, name: str) -> dg.EventLogRecord | None:
    return _first(instance, asset, _filter(asset, name))


def _at(
    instance: dg.DagsterInstance, asset: str, name: str, event: str
) -> dg.EventLogRecord | None:
    if event == NO_EVENT:
        return None
    return _first(instance, asset, _filter(asset, name, [int(event)]))


def _filter(asset: str, name: str, events: list[int] | None = None) -> dg.AssetRecordsFilter:
    partitions = [name] if asset == ASSISTANT or partitions_of(asset) else None
    return dg.AssetRecordsFilter(
        dg.AssetKey(asset), asset_partitions=partitions, storage_ids=events
    )


def _first(
    instance: dg.DagsterInstance, asset: str, wanted: dg.AssetRecordsFilter
) -> dg.EventLogRecord | None:
    observed = asset == ASSISTANT
    fetch = instance.fetch_observations if observed else instance.fetch_materializations
    found = fetch(wanted, limit=1).records
    return found[0] if found else None


def _tags_of(record: dg.EventLogRecord) -> dict[str, str]:
    event = record.asset_materialization or record.event_log_entry.asset_observation
    return dict(event.tags or {}) if event else {}


def _version(record: dg.EventLogRecord) -> str:
    return _tags_of(record).get(DATA_VERSION, "")
