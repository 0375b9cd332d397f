"""The store as a Dagster resource."""

import dagster as dg

from chatllama_pipeline.store.versions import Store, store_root


class StoreResource(dg.ConfigurableResource[None]):
    """Opens the store of versions: the folder `CHATLLAMA_STORE`, else `storage/` here."""

    def open(self) -> Store:
        return Store(store_root())
