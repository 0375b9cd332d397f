"""The store as a Dagster resource, from a run's first step to its last."""

import contextlib

import dagster as dg
from pydantic import PrivateAttr

from chatllama_pipeline.store.versions import Store, store_root
from resources.refusals import show_tracebacks
from resources.signs_of_life import sign_of_life, signs_folder


class StoreResource(dg.ConfigurableResource[None]):
    """Opens the store of versions: the folder `CHATLLAMA_STORE`, else `storage/` here."""

    _held: contextlib.ExitStack = PrivateAttr(default_factory=contextlib.ExitStack)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """From here on the run gives a sign of life."""
        self._held.callback(show_tracebacks)
        if context.instance and context.run:
            sign = sign_of_life(signs_folder(context.instance), context.run.run_id)
            self._held.enter_context(sign)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """The run's steps are over."""
        self._held.close()

    def open(self) -> Store:
        return Store(store_root())
