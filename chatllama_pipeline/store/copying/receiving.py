"""A local store as it takes over what was made elsewhere."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterable

from chatllama_pipeline.store.adopting import Fetch, fill, require_inside
from chatllama_pipeline.store.disk import writing
from chatllama_pipeline.store.history import Use, merged, write_uses
from chatllama_pipeline.store.manifests import CURRENT, MANIFEST, SHARED, Manifest, write_atomically
from chatllama_pipeline.store.versions import Current, Store, maker_of


class ReceivingStore(Store):
    """A store that versions and histories of others may come to."""

    def adopt(self, manifest: Manifest, fetch: Fetch) -> bool:
        """Publish a version that was made elsewhere; False where it stands already.

        Raises StoreError where the asset is being made here.
        """
        require_inside(manifest)
        asset, assistant, name = manifest.asset, manifest.assistant, manifest.version
        folder = self._folder(asset, assistant) / "versions" / name
        coming = self.root / "_adopting" / asset / (assistant or SHARED) / name
        with writing(self.root, f"{name} of {asset}"), self._lock(asset, assistant, wait=False):
            if (folder / MANIFEST).is_file():
                return False
            coming.mkdir(parents=True, exist_ok=True)
            fill(coming, manifest.files, fetch, self._pool, maker_of(asset, assistant))
            write_atomically(coming / MANIFEST, dataclasses.asdict(manifest))
            shutil.rmtree(folder, ignore_errors=True)  # the rest of a crash
            folder.parent.mkdir(parents=True, exist_ok=True)
            coming.rename(folder)
        return True

    def join_history(
        self, asset: str, assistant: str | None, current: Current | None, uses: Iterable[Use]
    ) -> None:
        """Add another store's history; what is current here stays, unless nothing is."""
        folder = self._folder(asset, assistant)
        with writing(self.root, asset), self._lock(asset, assistant, wait=False):
            known = self.uses(asset, assistant)
            if (joined := merged(known, uses)) != known:
                write_uses(folder, joined)
            if current is not None and self.standing(asset, assistant) is None:
                write_atomically(folder / CURRENT, dataclasses.asdict(current))
