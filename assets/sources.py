"""Sources: rows any assistant may draw on, and the rows a person brings."""

import dagster as dg

from assets.making import Results, make, materialization
from assets.specs import asset_checks, pipeline_asset
from chatllama_pipeline.assistants import assistants_using, load_assistant
from chatllama_pipeline.data.personal import build_personal_data
from chatllama_pipeline.data.sources import build_source
from chatllama_pipeline.recipes import ABSENT, source_recipe
from resources.run_options import RunOptions
from resources.store import StoreResource


@pipeline_asset("shp", "sources", "huggingface", "parquet")
def shp(
    context: dg.AssetExecutionContext, store: StoreResource, run_options: RunOptions
) -> Results:
    """Stanford Human Preferences: Reddit replies in pairs. Fetched where an assistant uses it."""
    yield from _source(context, store, run_options)


@pipeline_asset("hh_rlhf", "sources", "huggingface", "parquet")
def hh_rlhf(
    context: dg.AssetExecutionContext, store: StoreResource, run_options: RunOptions
) -> Results:
    """Anthropic's helpful and harmless pairs. Fetched where an assistant uses it."""
    yield from _source(context, store, run_options)


@pipeline_asset("grammar", "sources", "python", "parquet")
def grammar(
    context: dg.AssetExecutionContext, store: StoreResource, run_options: RunOptions
) -> Results:
    """Templated household questions with better and worse replies, for machines with nothing."""
    yield from _source(context, store, run_options)


@pipeline_asset("personal_data", "sources", "json", "parquet")
def personal_data(
    context: dg.AssetExecutionContext, store: StoreResource, run_options: RunOptions
) -> Results:
    """The user's own rows and templates, validated; their files are never written."""
    # The first asset that an assistant's run comes to: here its config.yaml is talked about.
    for warning in load_assistant(context.partition_key, run_options.overrides).warnings:
        context.log.warning(warning)
    yield from make(
        context,
        store,
        run_options,
        lambda work: build_personal_data(work.assistant.folder, work.settings, work.output),
    )


def _source(
    context: dg.AssetExecutionContext, store: StoreResource, run_options: RunOptions
) -> Results:
    """Make a shared source, or stay at what there is where nobody at hand uses it."""
    source = context.asset_key.to_user_string()
    versions = store.open()
    if context.has_partition_key:
        settings = load_assistant(context.partition_key, run_options.overrides).settings
        used = source in settings.data.sources
    else:
        used = bool(assistants_using(source))
    if used:
        made = versions.make(
            source_recipe(source),
            lambda bench: build_source(source, bench.output),
            overrides={},
            force=run_options.forces(source),
        )
        yield materialization(context, made)
        return
    current = versions.current(source, None)
    version = current.version if current else ABSENT
    context.log.info(f"{source}: not used here, stays at version {version}")
    yield dg.MaterializeResult(
        metadata={"version": version, "used": False},
        data_version=dg.DataVersion(version),
        check_results=[
            dg.AssetCheckResult(check_name=spec.name, passed=True, description="not used here")
            for spec in asset_checks(source)
        ],
    )
