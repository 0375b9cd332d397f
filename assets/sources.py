"""Sources: rows any assistant may draw on, and the rows a person brings."""

from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from assets.specs import Results, built_asset, pipeline_asset
from chatllama_pipeline.lineage.declaring.inputs import OWN_FILES
from chatllama_pipeline.lineage.declaring.ratings import FEEDBACK, LOG, counted_entries
from chatllama_pipeline.settings.folder import assistants_using
from resources.run_options import RunOptions
from resources.store import StoreResource

if TYPE_CHECKING:
    from assets.runs.making import Work
    from chatllama_pipeline.data.sources.places import Asked
    from chatllama_pipeline.records import Outcome


class PublicSource(dg.Config):
    """What a run may ask of a public source."""

    source: str = Field(
        default="",
        description="A hub id (owner/name@revision), a folder or file in the hub's layout, or a "
        "URL; empty: CHATLLAMA_SHP or CHATLLAMA_HH_RLHF, else the hub.",
    )
    refresh: bool = Field(default=False, description="Look for a newer commit of the revision.")
    offline: bool = Field(
        default=False, description="Ask no network, as HF_HUB_OFFLINE=1 does for all."
    )

    def asked(self, forced: bool) -> "Asked":
        from chatllama_pipeline.data.sources.places import Asked

        return Asked(self.source, self.refresh or forced, self.offline)


@pipeline_asset("shp", "sources", ("huggingface", "parquet"))
def shp(
    context: dg.AssetExecutionContext,
    config: PublicSource,
    store: StoreResource,
    run_options: dg.ResourceParam[RunOptions],
) -> Results:
    """Stanford Human Preferences: Reddit replies in pairs. Fetched where an assistant uses it."""
    yield from _source(context, store, run_options, config)


@pipeline_asset("hh_rlhf", "sources", ("huggingface", "parquet"))
def hh_rlhf(
    context: dg.AssetExecutionContext,
    config: PublicSource,
    store: StoreResource,
    run_options: dg.ResourceParam[RunOptions],
) -> Results:
    """Anthropic's helpful and harmless pairs. Fetched where an assistant uses it."""
    yield from _source(context, store, run_options, config)


@pipeline_asset("grammar", "sources", ("python", "parquet"))
def grammar(
    context: dg.AssetExecutionContext,
    store: StoreResource,
    run_options: dg.ResourceParam[RunOptions],
) -> Results:
    """Templated household questions with better and worse replies, for machines with nothing."""
    yield from _source(context, store, run_options)


@built_asset("personal_data", "sources", ("json", "parquet"))
def personal_data(work: "Work") -> "Outcome":
    """The user's own rows and templates, validated; their files are never written."""
    from chatllama_pipeline.data.own.personal import build_personal_data

    found = work.counted[OWN_FILES.name]
    return build_personal_data(work.assistant.folder, work.settings, work.output, found)


@built_asset(FEEDBACK, "sources", ("sqlite", "parquet"))
def feedback(work: "Work") -> "Outcome":
    """What people said of the assistant's replies, once enough of them did."""
    from chatllama_pipeline.data.feedback.build import build_feedback

    entries = counted_entries(work.counted[LOG], work.assistant.name, work.store_root)
    return build_feedback(entries, work.settings, work.output)


def _source(
    context: dg.AssetExecutionContext,
    store: StoreResource,
    run_options: RunOptions,
    config: PublicSource | None = None,
) -> Results:
    """Make a shared source, or stay at what there is where nobody at hand uses it."""
    from assets.runs.making import materialization, run_store, unused
    from chatllama_pipeline.data.sources.catalog import build_source
    from chatllama_pipeline.lineage.recipes import ABSENT, source_recipe
    from chatllama_pipeline.progress import Progress, listening

    source = context.asset_key.to_user_string()
    versions = run_store(context, store, run_options)
    if context.has_partition_key:
        used = source in versions.assistant.settings.data.sources
    else:
        used = bool(assistants_using(source))
    if used:
        forced = run_options.forces(source)
        asked = (config or PublicSource()).asked(forced)
        before = versions.current_version(source, None)
        with listening(Progress(source, context.log.info)):
            recipe = source_recipe(source, versions, asked)
            made = versions.make(
                recipe,
                lambda work: build_source(
                    source, work.output, asked, recipe.inputs, work.run_folder
                ),
                overrides={},
                force=forced,
            )
        yield materialization(context, made, before)
        return
    current = versions.current(source, None)
    yield unused(context, current.version if current else ABSENT)
