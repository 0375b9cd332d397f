"""What Dagster shows of a version: standard table metadata, figures, curves, a sample."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

from chatllama_pipeline.evaluation.curves import sparkline_markdown
from chatllama_pipeline.manifests import Version
from chatllama_pipeline.records import TABLE_FILE

# What Dagster accepts as the value of a metadata entry; it exports no name for it.
RawMetadataValue = Any
SAMPLE_ROWS = 3
SAMPLE_CHARACTERS = 200


def version_metadata(version: Version, reused: bool) -> dict[str, RawMetadataValue]:
    """Metadata of a materialization; well under 50 KB, since each event is kept for good."""
    manifest = version.manifest
    shown: dict[str, RawMetadataValue] = {
        "dagster/uri": version.path.as_uri(),
        "version": version.id,
        "reused": reused,
        "made_from": dict(manifest.upstream),
        "seconds": manifest.seconds,
    }
    if manifest.overrides:
        shown["overrides"] = dict(manifest.overrides)
    if manifest.warnings:
        shown["warnings"] = dg.MetadataValue.md("\n".join(f"- {w}" for w in manifest.warnings))
    if manifest.rows is not None:
        shown["dagster/row_count"] = manifest.rows
    table = version.path / TABLE_FILE
    if table.is_file():
        shown["dagster/column_schema"] = _table_schema(pq.read_schema(table))
        shown["sample"] = dg.MetadataValue.json(_sample(table))
    report = version.path / "report.html"
    if report.is_file():
        shown["report"] = dg.MetadataValue.path(report)
    shown |= _metrics(manifest.metrics)
    for curve in manifest.curves:
        shown[f"curve/{curve.name}"] = dg.MetadataValue.md(
            sparkline_markdown(curve.name, curve.points)
        )
    return shown


def _metrics(metrics: Mapping[str, Any]) -> dict[str, RawMetadataValue]:
    shown: dict[str, RawMetadataValue] = {}
    for name, value in metrics.items():
        if isinstance(value, bool | int | float | str):
            shown[name] = value
        elif value is not None:
            shown[name] = dg.MetadataValue.json(value)
    return shown


def _table_schema(schema: pa.Schema) -> dg.TableSchema:
    columns = [dg.TableColumn(field.name, str(field.type)) for field in schema]
    return dg.TableSchema(columns=columns)


def _sample(table: Path) -> list[Any]:
    rows = next(pq.ParquetFile(table).iter_batches(SAMPLE_ROWS), None)
    return [_shortened(row) for row in rows.to_pylist()] if rows is not None else []


def _shortened(value: Any) -> Any:
    if isinstance(value, str) and len(value) > SAMPLE_CHARACTERS:
        return value[:SAMPLE_CHARACTERS] + " ..."
    if isinstance(value, list):
        return [_shortened(inner) for inner in value]
    if isinstance(value, dict):
        return {key: _shortened(inner) for key, inner in value.items()}
    return value
