"""How an assistant and its assets stand, as Dagster is told: what was observed, and what is fresh.

`tell` says of each asset what `status` says: those that a run would reuse are reported as they
stand, and what is left "Unsynced" is what a run would make.
"""

import dagster as dg
from dagster._core.events import DagsterEvent, StepMaterializationData

from assets.runs.metadata import version_metadata
from assets.specs import ASSISTANT, partitions_of
from assets.tags import CODE_VERSION, DATA_VERSION, INPUT_EVENT, INPUT_VERSION, IS_OURS, NO_EVENT
from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.lineage.recipes import ABSENT, version_in_use
from chatllama_pipeline.lineage.status import asked_version, asset_statuses
from chatllama_pipeline.settings.data import SOURCES
from chatllama_pipeline.settings.folder import Assistant
from chatllama_pipeline.store.versions import Store

NEWEST = "newest"
# The version of what Dagster was told of and the store no longer has.
GONE = "gone"


def tell(instance: dg.DagsterInstance, assistant: Assistant, store: Store) -> str:
    """Have Dagster call fresh what a run would reuse, and nothing else; returns the version."""
    version, known = observe(instance, assistant, store), _Known(instance, assistant.name)
    for status in asset_statuses(assistant, store):
        asset = status.asset
        if asset in SOURCES:
            continue
        last = known.newest(asset)
        if status.version is None and last is None:
            continue
        # Where nothing is to be made, there never was anything.
        version_now = status.version or (GONE if status.stale else ABSENT)
        tags = _tags(known, asset, version_now)
        if status.stale:
            tags.pop(INPUT_VERSION + ASSISTANT)
            tags.pop(INPUT_EVENT + ASSISTANT)
        if last is None or _says(known, last, asset) != (
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
            known.report_standing(event, last)
    return version


def observe(instance: dg.DagsterInstance, assistant: Assistant, store: Store) -> str:
    """Record what the assistant's folder says now, where that is not what was recorded last."""
    version = asked_version(assistant, store)
    known = _Known(instance, assistant.name)
    last = known.newest(ASSISTANT)
    if last is None or _version(last) != version:
        tags = {DATA_VERSION: version}
        known.report(dg.AssetObservation(ASSISTANT, partition=assistant.name, tags=tags))
    return version


def observed_tags(instance: dg.DagsterInstance, name: str) -> dict[str, str]:
    """The tags of a materialization that was made from what was observed last."""
    last = _Known(instance, name).newest(ASSISTANT)
    return _made_from(ASSISTANT, last) if last else {}


class _Known:
    """What an instance of Dagster knows of one assistant's assets, each asked for once."""

    def __init__(self, instance: dg.DagsterInstance, name: str) -> None:
        self._instance, self._name = instance, name
        self._found: dict[tuple[str, str], dg.EventLogRecord | None] = {}

    def newest(self, asset: str) -> dg.EventLogRecord | None:
        return self._first(asset, NEWEST)

    def at(self, asset: str, event: str) -> dg.EventLogRecord | None:
        return None if event == NO_EVENT else self._first(asset, event)

    def report(self, event: dg.AssetMaterialization | dg.AssetObservation) -> None:
        self._instance.report_runless_asset_event(event)
        self._found.pop((event.asset_key.to_user_string(), NEWEST), None)

    def report_standing(
        self, event: dg.AssetMaterialization, last: dg.EventLogRecord | None
    ) -> None:
        """Record how an asset stands; the version of the last run that told of it stays that run's.

        Dagster shows the results of checks with what their own run materialized, and else none.
        """
        told = (event.tags or {})[DATA_VERSION]
        run = self._instance.get_run_by_id(last.run_id) if last and _version(last) == told else None
        if run is None:
            self.report(event)
            return
        materialized = DagsterEvent(
            event_type_value=dg.DagsterEventType.ASSET_MATERIALIZATION.value,
            job_name=run.job_name,
            event_specific_data=StepMaterializationData(event),
        )
        self._instance.report_dagster_event(materialized, run.run_id)
        self._found.pop((event.asset_key.to_user_string(), NEWEST), None)

    def _first(self, asset: str, event: str) -> dg.EventLogRecord | None:
        if (asset, event) not in self._found:
            self._found[asset, event] = self._fetched(asset, event)
        return self._found[asset, event]

    def _fetched(self, asset: str, event: str) -> dg.EventLogRecord | None:
        partitions = [self._name] if asset == ASSISTANT or partitions_of(asset) else None
        wanted = dg.AssetRecordsFilter(
            dg.AssetKey(asset),
            asset_partitions=partitions,
            storage_ids=None if event == NEWEST else [int(event)],
        )
        observed = asset == ASSISTANT
        instance = self._instance
        fetch = instance.fetch_observations if observed else instance.fetch_materializations
        found = fetch(wanted, limit=1).records
        return found[0] if found else None


def _tags(known: _Known, asset: str, version: str) -> dict[str, str]:
    """What the event of a materialization says that was made from what there is now."""
    tags = {DATA_VERSION: version, IS_OURS: "true", CODE_VERSION: ASSETS[asset].code_version}
    for upstream in (*ASSETS[asset].upstream, ASSISTANT):
        tags |= _made_from(upstream, known.newest(upstream))
    return tags


def _made_from(upstream: str, record: dg.EventLogRecord | None) -> dict[str, str]:
    version, event = (_version(record), str(record.storage_id)) if record else ("NULL", NO_EVENT)
    return {INPUT_VERSION + upstream: version, INPUT_EVENT + upstream: event}


def _says(known: _Known, last: dg.EventLogRecord, asset: str) -> tuple[str, bool]:
    """The version that Dagster knows of an asset, and whether it calls it fresh."""
    tags = _tags_of(last)
    fresh = tags.get(CODE_VERSION) == ASSETS[asset].code_version
    for upstream in (*ASSETS[asset].upstream, ASSISTANT):
        latest, event = known.newest(upstream), tags.get(INPUT_EVENT + upstream)
        if event is None:
            fresh = False
        elif latest is not None and event != str(latest.storage_id):
            before = known.at(upstream, event)
            fresh = fresh and before is not None and _version(before) == _version(latest)
    return _version(last), fresh


def _tags_of(record: dg.EventLogRecord) -> dict[str, str]:
    event = record.asset_materialization or record.event_log_entry.asset_observation
    return dict(event.tags or {}) if event else {}


def _version(record: dg.EventLogRecord) -> str:
    return _tags_of(record).get(DATA_VERSION, "")
