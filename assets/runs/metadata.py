"""What Dagster shows of a version: standard table metadata, figures, curves, a sample."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from chatllama_pipeline.evaluation.curves import sparkline_markdown
from chatllama_pipeline.lineage.history.changes import brief, changes
from chatllama_pipeline.lineage.history.listing import paid, size, verdict
from chatllama_pipeline.progress import MEGABYTE
from chatllama_pipeline.records import TABLE_FILE
from chatllama_pipeline.serving.reports.addresses import PAGES, report_address
from chatllama_pipeline.store.manifests import Version

# What Dagster accepts as the value of a metadata entry; it exports no name for it.
RawMetadataValue = Any
EVALUATION, RELEASE = "evaluation", "release"
SAMPLE_ROWS = 3
SAMPLE_CHARACTERS = 200
MOST_CHANGES = 40
CHANGE_CHARACTERS = 60


def version_metadata(
    version: Version, reused: bool, before: Version | None = None
) -> dict[str, RawMetadataValue]:
    """Metadata of a materialization; well under 50 KB, since each event is kept for good.

    `before` is the version that was in use until then.
    """
    manifest = version.manifest
    shown: dict[str, RawMetadataValue] = {
        "dagster/uri": version.path.as_uri(),
        "version": version.id,
        **_outcome(version),
        "reused": reused,
        "made_from": dict(manifest.upstream),
        "seconds": manifest.seconds,
        "size_mb": round(size(version) / MEGABYTE, 3),
        "usd": "unknown" if (usd := paid(manifest)) is None else usd,
        "changed": _changed(before, version),
    }
    if manifest.overrides:
        shown["overrides"] = dict(manifest.overrides)
    if manifest.warnings:
        shown["warnings"] = dg.MetadataValue.md("\n".join(f"- {w}" for w in manifest.warnings))
    if manifest.rows is not None:
        shown["dagster/row_count"] = manifest.rows
    table = version.path / TABLE_FILE
    if table.exists():
        shown["dagster/column_schema"] = _table_schema(table)
        shown["sample"] = dg.MetadataValue.json(_sample(table))
    shown |= _metrics(manifest.metrics)
    for curve in manifest.curves:
        shown[f"curve/{curve.name}"] = dg.MetadataValue.md(
            sparkline_markdown(curve.name, curve.points)
        )
    return shown


def _outcome(version: Version) -> dict[str, RawMetadataValue]:
    """What people open a version for: the gate's word, and its page."""
    shown: dict[str, RawMetadataValue] = {}
    if said := verdict(version.manifest):
        shown["verdict"] = said
    if address := _report(version):
        shown["report"] = dg.MetadataValue.url(address)
    if page := PAGES.get(version.manifest.asset):
        shown["report_file"] = dg.MetadataValue.path(version.path / page)
    return shown


def _report(version: Version) -> str | None:
    """Where the page of a version opens, or of the evaluation that a release was made from."""
    manifest = version.manifest
    if manifest.assistant is None:
        return None
    if manifest.asset in PAGES:
        return report_address(manifest.asset, manifest.assistant, version.id)
    if manifest.asset == RELEASE and (evaluation := manifest.upstream.get(EVALUATION)):
        return report_address(EVALUATION, manifest.assistant, evaluation)
    return None


def _changed(before: Version | None, version: Version) -> RawMetadataValue:
    """What differs from the version before, as a small table, or in a word where nothing does."""
    if before is None:
        return "the first version"
    if before.id == version.id:
        return "the version that was in use already"
    found = changes(before.manifest, version.manifest)
    if not found:
        return f"nothing but files, since {before.id}"
    records = [
        dg.TableRecord(
            {
                "what": change.kind,
                "name": change.key,
                before.id: brief(change.before, CHANGE_CHARACTERS),
                version.id: brief(change.after, CHANGE_CHARACTERS),
            }
        )
        for change in found[:MOST_CHANGES]
    ]
    if len(found) > MOST_CHANGES:
        more = f"and {len(found) - MOST_CHANGES} more: chatllama diff tells all"
        records.append(dg.TableRecord({"what": "", "name": more, before.id: "", version.id: ""}))
    return dg.MetadataValue.table(records)


def _metrics(metrics: Mapping[str, Any]) -> dict[str, RawMetadataValue]:
    shown: dict[str, RawMetadataValue] = {}
    for name, value in metrics.items():
        if isinstance(value, bool | int | float | str):
            shown[name] = value
        elif value is not None:
            shown[name] = dg.MetadataValue.json(value)
    return shown


def _table_schema(table: Path) -> dg.TableSchema:
    from chatllama_pipeline.table_files import table_schema

    columns = [dg.TableColumn(field.name, str(field.type)) for field in table_schema(table)]
    return dg.TableSchema(columns=columns)


def _sample(table: Path) -> list[Any]:
    from chatllama_pipeline.table_files import record_batches

    rows = next(record_batches(table, most_rows=SAMPLE_ROWS), None)
    return [_shortened(row) for row in rows.to_pylist()] if rows is not None else []


def _shortened(value: Any) -> Any:
    if isinstance(value, str) and len(value) > SAMPLE_CHARACTERS:
        return value[:SAMPLE_CHARACTERS] + " ..."
    if isinstance(value, list):
        return [_shortened(inner) for inner in value]
    if isinstance(value, dict):
        return {key: _shortened(inner) for key, inner in value.items()}
    return value
