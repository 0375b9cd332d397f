"""The store as a Dagster resource."""

import dagster as dg

from chatllama_pipeline.store.versions import Store, store_root
from resources.refusals import show_tracebacks


class StoreResource(dg.ConfigurableResource[None]):
    """Opens the store of versions: the folder `CHATLLAMA_STORE`, else `storage/` here."""

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """The run's steps are over, the refused ones among them."""
        show_tracebacks()

    def open(self) -> Store:
        return Store(store_root())
