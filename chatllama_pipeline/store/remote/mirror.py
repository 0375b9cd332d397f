"""A local store as the cache of one in a bucket.

    <store>/_remote/store.json      the bucket's URL: a folder with it is such a cache
    <store>/_remote/seen.json       the manifests that were read, with the tags of their objects

What is known of versions (pointers, histories, manifests, approvals) is taken over when somebody
looks, at most so often; a version's files when they are read. What is made current or removed here
is so in the bucket first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

from chatllama_pipeline.errors import CorruptVersionError
from chatllama_pipeline.store.adopting import fill, is_name, require_inside
from chatllama_pipeline.store.disk import writing
from chatllama_pipeline.store.history import Use, read_uses, write_uses
from chatllama_pipeline.store.manifests import (
    APPROVALS,
    CURRENT,
    MANIFEST,
    RUNS,
    SHARED,
    STATE,
    Manifest,
    PayloadFile,
    Version,
    remove_version,
    write_atomically,
    write_beside_others,
)
from chatllama_pipeline.store.pool import Pool
from chatllama_pipeline.store.remote.address import require_address
from chatllama_pipeline.store.remote.bucket import Bucket, Pointer, is_of
from chatllama_pipeline.store.remote.states import (
    STATES,
    TrainingStates,
    fetch_or_say,
    sent_meanwhile,
)

MARK, SEEN = "_remote/store.json", "_remote/seen.json"
CACHE_VARIABLE = "CHATLLAMA_STORE_CACHE"
# Between two looks of a process at what the bucket has of an assistant.
LOOK_SECONDS = 10.0
# A current version of so many bytes at most comes with its manifest: reports are opened as files.
SMALL_BYTES = 8 * 10**6


def cache_root(url: str) -> Path:
    """The local folder for the store at `url`, in `CHATLLAMA_STORE_CACHE` or the user's cache.

    Raises StoreError for what is no bucket's URL.
    """
    named, url = os.environ.get(CACHE_VARIABLE), require_address(url)
    key = hashlib.sha256(url.encode()).hexdigest()[:16]
    root = Path(named) if named else Path.home() / ".cache" / "chatllama"
    root = root.absolute() / key
    mark = root / MARK
    if not mark.is_file():
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        mark.parent.mkdir(exist_ok=True)
        write_beside_others(mark, {"url": url})
    return root


def mirror_of(root: Path) -> Mirror | None:
    """The bucket whose cache `root` is; None where it is a store of its own."""
    try:
        url = json.loads((root / MARK).read_text())["url"]
    except FileNotFoundError:
        return None
    return _opened(root, url, os.getpid())


@functools.cache
def _opened(root: Path, url: str, process: int) -> Mirror:
    """One a process, which keeps its connection."""
    return Mirror(root, Bucket(url))


class Mirror:
    """The store under `root`, whose versions are those of `bucket`."""

    def __init__(self, root: Path, bucket: Bucket) -> None:
        self.root, self.bucket = root, bucket
        self._pool = Pool(root)
        self._looked: dict[str | None, float] = {}

    def look(self, assistant: str | None, *, at_once: bool = False) -> None:
        """Take over what the bucket says of an assistant's versions, or of the shared ones."""
        since = monotonic() - self._looked.get(assistant, -math.inf)
        if since < LOOK_SECONDS and not at_once:
            return
        with writing(self.root, f"what {self.bucket.url} has"), self._lock("look"):
            pointers = self.bucket.pointers(assistant)
            self._take_listed(assistant)
            for asset, pointer in pointers.items():
                self._take_pointer(asset, assistant, pointer)
            if assistant is not None:
                self._take_approvals(assistant)
        self._looked[assistant] = monotonic()

    def take_manifest(self, asset: str, assistant: str | None, version: str) -> bool:
        """Take over a version by its name; False where the bucket hasn't got it."""
        manifest = self.bucket.manifest(asset, assistant, version)
        if manifest is not None:
            self._write_manifest(manifest)
        return manifest is not None

    def fetch(self, version: Version, files: Iterable[PayloadFile]) -> None:
        """Have payload files whole in the version's folder; raises CorruptVersionError."""
        manifest = version.manifest
        maker = f"fetched.{manifest.asset}.{manifest.assistant or SHARED}.{version.id}"
        with writing(self.root, version.name), self._lock(maker):
            fill(version.path, files, self.bucket.fetch, self._pool, maker)

    @contextlib.contextmanager
    def states(self, run_folder: Path) -> Iterator[None]:
        """Go on from the newest state of any machine, and let others go on from those made here.

        `run_folder` is that of a recipe.
        """
        asset, owner, fingerprint = run_folder.parts[-3:]
        states = self._states(asset, owner, fingerprint)
        fetch_or_say(states)
        with sent_meanwhile(states):
            yield

    def _states(self, asset: str, owner: str, fingerprint: str) -> TrainingStates:
        folder = self.root / RUNS / asset / owner / fingerprint / STATE
        place = f"{STATES}/{owner}/{asset}/{fingerprint}"
        return TrainingStates(self.bucket.objects, place, folder)

    def publish(self, version: Version) -> None:
        """Have the bucket hold a version that stands here whole, and no state of it any more."""

        def at(file: PayloadFile) -> contextlib.AbstractContextManager[Path]:
            return contextlib.nullcontext(version.path / file.path)

        manifest = version.manifest
        self.bucket.publish(manifest, at, newest=True)
        owner = manifest.assistant or SHARED
        self._states(manifest.asset, owner, manifest.fingerprint).clear()

    def move(
        self,
        asset: str,
        assistant: str | None,
        seen: str | None,
        current: dict[str, Any],
        use: Use | None,
    ) -> None:
        """Make a version current there, unless another than `seen` was made so meanwhile."""
        self.bucket.move(asset, assistant, seen, current, use)

    def remove(self, versions: Iterable[Version], folders: Iterable[Path]) -> None:
        """Remove versions there, and the files that no other has; the states of run folders."""
        self.bucket.remove([version.manifest for version in versions])
        for folder in folders:
            if folder.is_relative_to(self.root / RUNS):
                self._states(*folder.parts[-3:]).clear()

    def forget(self, assistant: str) -> None:
        """Remove all that the bucket has of an assistant."""
        self.bucket.forget(assistant)
        with contextlib.suppress(FileNotFoundError):
            (self.root / SEEN).unlink()

    def keep_approval(self, name: str, data: bytes) -> None:
        self.bucket.keep_approval(name, data)

    def drop_approval(self, name: str) -> None:
        self.bucket.drop_approval(name)

    def _take_listed(self, assistant: str | None) -> None:
        known, listed = self._seen(), dict(self.bucket.tags(assistant))
        for key, tag in listed.items():
            asset, file = key.split("/")[2:]
            here = self._folder(asset, assistant, Path(file).stem) / MANIFEST
            if known.get(key) != tag or not here.is_file():
                self.take_manifest(asset, assistant, Path(file).stem)
                known[key] = tag
        gone = [key for key in known if is_of(key, assistant) and key not in listed]
        if gone := [key for key in gone if self._drop(key, assistant)]:
            self._pool.sweep()
        write_atomically(self.root / SEEN, {key: known[key] for key in known.keys() - set(gone)})

    def _drop(self, key: str, assistant: str | None) -> bool:
        """Remove a version from this cache that was seen in the bucket; False where it is there."""
        asset, file = key.split("/")[2:]
        folder = self._folder(asset, assistant, Path(file).stem)
        # A list may lag.
        if self.bucket.manifest(asset, assistant, folder.name) is not None:
            return False
        here = self.root / asset / (assistant or SHARED) / CURRENT
        if here.is_file() and json.loads(here.read_text())["version"] == folder.name:
            here.unlink()
        remove_version(folder)
        return True

    def _take_pointer(self, asset: str, assistant: str | None, pointer: Pointer) -> None:
        owned = self.root / asset / (assistant or SHARED)
        owned.mkdir(parents=True, exist_ok=True)
        if read_uses(owned) != pointer.uses:
            write_uses(owned, pointer.uses)
        if pointer.current is None:
            return
        folder = self._folder(asset, assistant, pointer.current["version"])
        # A list may lag: what is current is found by its name.
        if not (folder / MANIFEST).is_file():
            self.take_manifest(asset, assistant, folder.name)
        here = owned / CURRENT
        if not here.is_file() or json.loads(here.read_text()) != pointer.current:
            write_atomically(here, pointer.current)
        self._take_small(folder)

    def _take_small(self, folder: Path) -> None:
        if not (folder / MANIFEST).is_file():
            return
        version = Version(folder, Manifest.read(folder / MANIFEST))
        missing = [f for f in version.manifest.files if not (folder / f.path).is_file()]
        if missing and sum(file.size for file in version.manifest.files) <= SMALL_BYTES:
            # Whoever reads it is told, or makes it again.
            with contextlib.suppress(CorruptVersionError):
                self.fetch(version, missing)

    def _take_approvals(self, assistant: str) -> None:
        folder = self.root / APPROVALS / assistant
        listed = set(self.bucket.approvals(assistant))
        here = {path.name for path in folder.glob("[!.]*.json")}
        for name in sorted(listed ^ here):
            data = self.bucket.approval(f"{assistant}/{name}")
            if not is_name(name):
                continue
            if data is None:
                (folder / name).unlink(missing_ok=True)
            elif name not in here:
                folder.mkdir(parents=True, exist_ok=True)
                write_atomically(folder / name, json.loads(data))

    def _write_manifest(self, manifest: Manifest) -> None:
        require_inside(manifest)
        folder = self._folder(manifest.asset, manifest.assistant, manifest.version)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / MANIFEST, dataclasses.asdict(manifest))

    def _folder(self, asset: str, assistant: str | None, version: str) -> Path:
        return self.root / asset / (assistant or SHARED) / "versions" / version

    def _seen(self) -> dict[str, str]:
        try:
            return dict(json.loads((self.root / SEEN).read_text()))
        except (FileNotFoundError, ValueError):
            return {}

    @contextlib.contextmanager
    def _lock(self, what: str) -> Iterator[None]:
        """One process of this machine at a time."""
        with (self.root / MARK).with_name(f".{what}.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
