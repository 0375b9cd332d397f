"""Going back to an earlier version, as a job: Dagster is told what becomes current in the store."""

import getpass
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from assets.partitions import ASSISTANTS
from assets.specs import partitions_of
from assets.tags import CODE_VERSION, DATA_VERSION, INPUT_EVENT, INPUT_VERSION, IS_OURS, NO_EVENT
from chatllama_pipeline.automation.runs import going_run
from chatllama_pipeline.errors import StoreError
from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.settings.folder import Assistant, load_assistant
from resources.refusals import refusals
from resources.store import StoreResource

if TYPE_CHECKING:
    from chatllama_pipeline.lineage.history.rollback import Move

# Of an upstream asset's events, the newest so many are looked through for the one that counts.
EVENTS = 1000


class Rollback(dg.Config):
    """What goes back; the assistant is the run's partition."""

    asset: str = Field(default="release", description="The asset that goes back.")
    version: str = Field(
        default="",
        description="Its version, or how that begins; empty: the one that was in use before.",
    )
    chain: bool = Field(
        default=False, description="Also all that the version was made from, but public sources."
    )


@dg.op(out={"done": dg.Out(dg.Nothing)})
@refusals()
def roll_back(context: dg.OpExecutionContext, config: Rollback, store: StoreResource) -> None:
    """Make an earlier version current, in the store and in Dagster."""
    from assets.runs.metadata import version_metadata
    from assets.runs.standing import tell
    from chatllama_pipeline.lineage.history.rollback import go_back, plan_rollback, rollback_lines

    assistant, versions = load_assistant(context.partition_key), store.open()
    if run := going_run(context.instance, assistant.name, context.run_id):
        raise StoreError(
            f"run {run} of {assistant.name} goes on and could move it again: wait for its end, or "
            "end it, and roll back then"
        )
    wanted = config.version or None
    moves = plan_rollback(assistant, versions, config.asset, wanted, config.chain)
    before = [versions.current_version(move.asset, assistant.name) for move in moves]
    go_back(assistant, versions, moves, getpass.getuser())
    for move, left in zip(moves, before, strict=True):
        context.log_event(
            dg.AssetMaterialization(
                move.asset,
                description=f"rolled back to {move.version.id}",
                metadata=version_metadata(move.version, reused=True, before=left),
                partition=assistant.name,
                tags=_tags(context.instance, assistant, move),
            )
        )
    tell(context.instance, assistant, versions)
    for line in rollback_lines(assistant, versions, moves):
        context.log.info(line)


@dg.job(
    name="rollback",
    partitions_def=ASSISTANTS,
    description="Goes back to an earlier release of an assistant, or version of an asset: as the "
    "Launchpad's config says, else to the release that was in use before.",
    config=dg.RunConfig(ops={"roll_back": Rollback()}),
)
def rollback_job() -> None:
    roll_back()


def _tags(instance: dg.DagsterInstance, assistant: Assistant, move: "Move") -> dict[str, str]:
    """What the event of a materialization that made this version had said it was made from."""
    manifest = move.version.manifest
    tags = {DATA_VERSION: manifest.version, IS_OURS: "true", CODE_VERSION: manifest.code_version}
    for name in ASSETS[move.asset].upstream:
        partitions = [assistant.name] if partitions_of(name) else None
        wanted = dg.AssetRecordsFilter(dg.AssetKey(name), asset_partitions=partitions)
        events = instance.fetch_materializations(wanted, limit=EVENTS).records
        found = [(record.storage_id, _data_version(record)) for record in events]
        # One that this assistant's version wasn't made from counts as it is.
        version = manifest.upstream.get(name) or (found[0][1] if found else NO_EVENT)
        event = next((number for number, of in found if of == version), NO_EVENT)
        tags |= {INPUT_VERSION + name: version, INPUT_EVENT + name: str(event)}
    return tags


def _data_version(record: dg.EventLogRecord) -> str:
    event = record.asset_materialization
    return (event.tags or {}).get(DATA_VERSION, "") if event else ""
