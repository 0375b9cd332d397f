"""The store as a Dagster resource, from a run's first step to its last."""

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import PrivateAttr

from chatllama_pipeline.settings.folder import load_assistant
from resources.refusals import show_tracebacks
from resources.run_options import RunOptions
from resources.signs_of_life import sign_of_life, signs_folder
from resources.time_limit import end_at_the_limit

if TYPE_CHECKING:
    from chatllama_pipeline.store.versions import Store
    from chatllama_pipeline.store.views import RunStore

# Dagster's, of a run that makes what failed in another: by steps, or by assets.
RESUMES = ("dagster/is_resume_retry", "dagster/is_asset_resume_retry")


class StoreResource(dg.ConfigurableResource[None]):
    """Opens the store of versions: the folder `CHATLLAMA_STORE`, else `storage/` here."""

    _held: contextlib.ExitStack = PrivateAttr(default_factory=contextlib.ExitStack)
    _begun: bool = PrivateAttr(default=False)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """From here on the run gives a sign of life."""
        self._held.callback(show_tracebacks)
        if context.instance and context.run:
            sign = sign_of_life(signs_folder(context.instance), context.run.run_id)
            self._held.enter_context(sign)
            end_at_the_limit(context.instance, context.run)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """The run's steps are over."""
        self._held.close()

    def open(self) -> "Store":
        from chatllama_pipeline.store.versions import Store, store_root

        return Store(store_root())

    def of_run(
        self,
        context: dg.AssetExecutionContext,
        run_options: RunOptions,
        begins: "Callable[[RunStore], None]",
    ) -> "RunStore":
        """The store as this run sees it; the run's first step decides what that is.

        `begins` is called once, where this process comes to the run.
        """
        from chatllama_pipeline.store.versions import store_root
        from chatllama_pipeline.store.views import alive, run_begun

        name = context.partition_key if context.has_partition_key else None
        store = run_begun(store_root(), name, context.run_id)
        store = store or _begin(context, name, run_options)
        if not self._begun:
            self._begun = True
            self._held.enter_context(alive(store))
            _tell_of(context, store)
            begins(store)
        return store


def _begin(
    context: dg.AssetExecutionContext, name: str | None, run_options: RunOptions
) -> "RunStore":
    from chatllama_pipeline.store.versions import store_root
    from chatllama_pipeline.store.views import begin_run

    return begin_run(
        store_root(),
        context.run_id,
        load_assistant(name, run_options.overrides) if name else None,
        experiment=run_options.is_experiment,
        continues=continued_run(context.run),
        take_over=run_options.take_over,
    )


def continued_run(run: dg.DagsterRun) -> str | None:
    """The run that this one goes on from, as a re-execution of what failed in it does."""
    parts = any(run.tags.get(tag) == "true" for tag in RESUMES) or run.step_keys_to_execute
    return run.parent_run_id if parts else None


def _tell_of(context: dg.AssetExecutionContext, store: "RunStore") -> None:
    """What is to be said once of a run, in its log."""
    for warning in store.begun.warnings:
        context.log.warning(warning)
    if store.begun.experiment:
        context.log.info(
            f"an experiment (overrides {', '.join(store.begun.overrides)}): what it makes is kept, "
            "and what is in use stays in use"
        )
