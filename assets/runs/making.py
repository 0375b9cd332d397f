"""How every asset is made: reuse or build, check, publish, and tell Dagster."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg

from assets.runs.metadata import version_metadata
from assets.runs.standing import observe, observed_tags
from assets.specs import Results, asset_checks, partitions_of
from chatllama_pipeline.errors import CheckError
from chatllama_pipeline.launch import ONE_PROCESS, STAGES
from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.lineage.declaring.asset import Asset
from chatllama_pipeline.lineage.declaring.incumbent import compared_with
from chatllama_pipeline.lineage.history.retention import old_of, remove_old
from chatllama_pipeline.lineage.recipes import (
    ABSENT,
    current_upstream,
    inherited_overrides,
    is_made,
    needed_by,
    owner_of,
    read_in_use,
    recipe_for,
    require_pins,
    version_in_use,
    versions_in_use,
)
from chatllama_pipeline.lineage.status import differences, require_as_made
from chatllama_pipeline.progress import Progress, listening
from chatllama_pipeline.records import Check, Outcome, StageSpec
from chatllama_pipeline.serving.reports.addresses import reports_address
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.settings.folder import Assistant
from chatllama_pipeline.store.manifests import Version
from chatllama_pipeline.store.versions import Made, Workbench
from chatllama_pipeline.store.views import RunStore
from resources.compute import Compute
from resources.run_options import RunOptions
from resources.store import StoreResource, continued_run

EVALUATION = dg.AssetKey("evaluation")
TRAINED = ("reward_model", "actor_sft", "actor_ppo")


@dataclass(frozen=True)
class Work:
    """What building a version needs: settings, verified inputs, a place to write, a machine.

    `settings` and `inputs` are those that the asset declares, and no others; `counted` is what else
    counts, as the fingerprint has it, and `store_root` where all versions stand.
    """

    context: dg.AssetExecutionContext
    compute: Compute
    assistant: Assistant
    inputs: dict[str, Version]
    counted: Mapping[str, Any]
    store_root: Path
    unpromoted: list[str]
    bench: Workbench

    @property
    def asset(self) -> Asset:
        return ASSETS[self.context.asset_key.to_user_string()]

    @property
    def settings(self) -> AssistantSettings:
        return self.asset.limited(self.assistant.settings)

    @property
    def progress(self) -> Progress:
        return Progress(self.asset.name, self.context.log.info)

    @property
    def output(self) -> Path:
        return self.bench.output

    def folder(self, asset: str) -> Path:
        """The verified payload folder of an upstream asset."""
        return self.inputs[asset].path

    def optional(self, asset: str) -> Path | None:
        """The same of one that may not be there."""
        return self.folder(asset) if asset in self.inputs else None


def make(
    context: dg.AssetExecutionContext,
    compute: Compute,
    store: StoreResource,
    run_options: RunOptions,
    build: Callable[[Work], Outcome],
) -> Results:
    """Materialize an assistant's asset with `build`, or return the version that stands already.

    A pinned asset is its pin, whatever else changed. In a run that goes on to the evaluation, what
    the assistant doesn't need stays as it is.
    """
    asset = context.asset_key.to_user_string()
    versions = run_store(context, store, run_options)
    stages = STAGES.keys() & _made_here(context)
    if stages:
        compute.require_valid()
    assistant = versions.assistant
    require_pins(assistant, versions)
    if asset in assistant.settings.store.pins:
        yield _as_pinned(context, versions)
        return
    before = version_in_use(asset, assistant, versions)
    if not (_is_wanted(context, assistant) or run_options.forces(asset)):
        yield unused(context, before.id if before else ABSENT)
        return
    if before_it := continued_run(context.run):
        require_as_made(asset, assistant, versions, _made_here(context), before_it)
    upstream = current_upstream(asset, assistant, versions)
    inherited = inherited_overrides(asset, assistant, versions, run_options.overrides)
    unpromoted = [] if run_options.promote else sorted(inherited)

    def build_verified(bench: Workbench) -> Outcome:
        inputs = {
            name: versions.read(name, owner_of(name, assistant), version)
            for name, version in upstream.items()
        }
        inputs |= compared_with(recipe, versions)
        if stages:
            compute.require_cluster(bench.run_folder, alone=stages <= ONE_PROCESS)
        given = (inputs, recipe.inputs, versions.root, unpromoted)
        with compute.nodes_for_rows(bench.logs / f"{asset}.rows.log"):
            return build(Work(context, compute, assistant, *given, bench))

    try:
        with listening(Progress(asset, context.log.info)):
            recipe = recipe_for(asset, assistant, upstream, versions, unpromoted)
            if not is_made(recipe):
                yield unused(context)
                return
            made = versions.make(recipe, build_verified, inherited, run_options.forces(asset))
    except CheckError as error:
        yield from (check_result(asset, check) for check in error.checks)
        raise
    _tidy_up(context, versions)
    yield materialization(context, made, before)


def _as_pinned(context: dg.AssetExecutionContext, versions: RunStore) -> dg.MaterializeResult[None]:
    asset, assistant = context.asset_key.to_user_string(), versions.assistant
    pinned = read_in_use(asset, assistant, versions)
    context.log.info(f"{asset}: store.pins asks for version {pinned.id}")
    if unlike := differences(asset, assistant, versions, pinned):
        context.log.warning(f"{asset}: pinned, though a run would differ: {'; '.join(unlike)}")
    return materialization(context, Made(pinned, reused=True), pinned)


def _tidy_up(context: dg.AssetExecutionContext, versions: RunStore) -> None:
    """Tell whose version stays in use, and remove those that the assistant keeps no longer."""
    asset, assistant = context.asset_key.to_user_string(), versions.assistant
    if later := versions.left_to(asset, assistant.name):
        context.log.warning(
            f"{asset}: {later.version} stays in use, of run {later.run}, which began later"
        )
    rule = assistant.settings.store
    in_use = versions_in_use(assistant, versions)[asset]
    old = old_of(asset, assistant.name, versions, rule, in_use, datetime.now(UTC))
    for line in remove_old(versions, old):
        context.log.info(f"{line} (store.keep_versions: {rule.keep_versions})")


def _is_wanted(context: dg.AssetExecutionContext, assistant: Assistant) -> bool:
    if EVALUATION not in context.job_def.asset_layer.executable_asset_keys:
        return True  # somebody asks for it by name
    return context.asset_key.to_user_string() in needed_by(assistant.settings)


def _made_here(context: dg.AssetExecutionContext) -> set[str]:
    """The assets that the run makes."""
    selected = context.job_def.asset_layer.executable_asset_keys
    names = {key.to_user_string() for key in selected}
    steps = context.run.step_keys_to_execute
    return names if steps is None else names & set(steps)


def unused(context: dg.AssetExecutionContext, version: str = ABSENT) -> dg.MaterializeResult[None]:
    """What Dagster records of an asset that isn't needed here, and stays at `version`."""
    asset = context.asset_key.to_user_string()
    context.log.info(f"{asset}: not used here, stays at version {version}")
    return dg.MaterializeResult(
        metadata={"version": version, "used": False},
        data_version=dg.DataVersion(version),
        tags=_observed(context) if partitions_of(asset) else {},
        check_results=[
            dg.AssetCheckResult(check_name=spec.name, passed=True, description="not used here")
            for spec in asset_checks(asset)
        ],
    )


def _observed(context: dg.AssetExecutionContext) -> dict[str, str]:
    return observed_tags(context.instance, context.partition_key)


def run_store(
    context: dg.AssetExecutionContext, store: StoreResource, run_options: RunOptions
) -> RunStore:
    """The store as the run sees it; a run that begins has Dagster know of what it is made from."""
    reports_address()  # which all that is made links to: told before anything is

    def begins(seen: RunStore) -> None:
        if context.has_partition_key and not seen.begun.experiment:
            observe(context.instance, seen.assistant, seen)

    return store.of_run(context, run_options, begins)


def run_stage(work: Work) -> Outcome:
    """Build by the child process of the asset's own name.

    Raises ProviderError where the evaluation of the same run would find no key for its judge: that
    is told before hours of training, not after.
    """
    asset, settings = work.asset, work.assistant.settings
    executed = work.context.job_def.asset_layer.executable_asset_keys
    if asset.name in TRAINED and EVALUATION in executed:
        from chatllama_pipeline.llm.client.sdk import read_key

        read_key(settings.role("evaluation_judge"))
    spec = StageSpec(
        stage=asset.name,
        assistant=work.assistant.name,
        settings=settings.model_dump(mode="json"),
        inputs={name: str(version.path) for name, version in work.inputs.items()},
        output=str(work.output),
        run_folder=str(work.bench.run_folder),
        result=str(work.bench.run_folder / "result.json"),
        unpromoted_overrides=work.unpromoted,
        logs=str(work.bench.logs),
        made_from=asset.made_from(settings),
        readable=asset.readable,
    )
    spec_path = work.bench.run_folder / "spec.json"
    outcome, seconds = work.compute.run_stage(work.context, spec, spec_path)
    return dataclasses.replace(
        outcome, metrics={**outcome.metrics, "child_seconds": round(seconds, 3)}
    )


def materialization(
    context: dg.AssetExecutionContext, made: Made, before: Version | None
) -> dg.MaterializeResult[None]:
    """The result that Dagster records, stored check results and what changed since `before`."""
    asset = context.asset_key.to_user_string()
    verb = "reused" if made.reused else "made"
    own = made.version.manifest.assistant is not None
    for warning in made.version.manifest.warnings:
        context.log.warning(f"{asset}: {warning}")
    context.log.info(f"{asset}: {verb} version {made.version.id}")
    return dg.MaterializeResult(
        metadata=version_metadata(made.version, made.reused, before),
        data_version=dg.DataVersion(made.version.id),
        tags=_observed(context) if own else {},
        check_results=[check_result(asset, check) for check in made.version.manifest.checks],
    )


def check_result(asset: str, check: Check) -> dg.AssetCheckResult:
    """A check record as Dagster's; only blocking ones are errors."""
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=check.name,
        passed=check.passed,
        severity=dg.AssetCheckSeverity.ERROR if check.blocking else dg.AssetCheckSeverity.WARN,
        description=check.description,
        metadata={"value": check.value, "limit": check.limit},
    )
