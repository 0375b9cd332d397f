"""What stands in Dagster's event log after the tiny run: versions, metadata, curves, checks."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster._serdes import serialize_value

from assets.specs import CHECK_NAMES
from chatllama_pipeline.data.sources.catalog import SOURCES
from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.records import TABLE_FILE
from chatllama_pipeline.serving.reports.addresses import report_address
from tests.pipeline.place import Place

MADE = sorted(set(ASSETS) - {"release"})
MOST_BYTES = 50_000


@pytest.fixture(scope="module")
def instance(tiny_run: Place) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(tiny_run.root / "dagster_home")) as opened:
        yield opened


def newest(instance: dg.DagsterInstance, asset: str) -> dg.EventLogRecord:
    partitions = None if asset in SOURCES else ["tiny"]
    wanted = dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=partitions)
    return instance.fetch_materializations(wanted, limit=1).records[0]


@pytest.mark.parametrize("asset", MADE)
def test_a_materialization_carries_its_version_and_standard_metadata(
    tiny_run: Place, instance: dg.DagsterInstance, asset: str
) -> None:
    record = newest(instance, asset)
    materialization = record.asset_materialization
    assert materialization is not None
    shown, tags = materialization.metadata, materialization.tags or {}
    if asset in ("shp", "hh_rlhf", "feedback"):
        assert tags[DATA_VERSION_TAG] == "absent"
        return
    version = tiny_run.store.read(asset, None if asset in SOURCES else "tiny")
    assert tags[DATA_VERSION_TAG] == version.id
    assert shown["dagster/uri"].value == version.path.as_uri()
    if (version.path / TABLE_FILE).is_file():
        assert shown["dagster/row_count"].value == version.manifest.rows
        columns = shown["dagster/column_schema"].value.columns  # type: ignore[union-attr]
        assert "prompt" in [column.name for column in columns]
    if asset in ("data_audit", "evaluation"):
        assert shown["report"].value == report_address(asset, "tiny", version.id)
        assert shown["report_file"].value == str(version.path / "report.html")
    for curve in version.manifest.curves:
        text = str(shown[f"curve/{curve.name}"].value)
        # Longer Markdown hides behind a link.
        assert text.startswith("![") and len(text) < 1000
    assert len(serialize_value(record.event_log_entry)) < MOST_BYTES


def test_every_check_of_every_asset_was_recorded(instance: dg.DagsterInstance) -> None:
    for asset, checks in CHECK_NAMES.items():
        for name, blocking in checks:
            key = dg.AssetCheckKey(dg.AssetKey(asset), name)
            [execution] = instance.event_log_storage.get_asset_check_execution_history(key, 1)
            assert execution.event is not None
            assert execution.partition == (None if asset in SOURCES else "tiny")
            evaluation = execution.event.dagster_event.asset_check_evaluation_data  # type: ignore[union-attr]
            assert evaluation.blocking == blocking
            assert evaluation.passed or not blocking
