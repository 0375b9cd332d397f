"""Versions in a bucket.

    <url>/files/<sha256>                            a payload file by its hash: each stands once
    <url>/versions/<owner>/<asset>/<version>.json   a manifest: put last, if none is there
    <url>/current/<owner>.json                      what is current of each asset, and its history
    <url>/approvals/<assistant>/<name>.json         a person's word
    <url>/states/<owner>/<asset>/<fingerprint>/     of an unfinished training (`states`)

The owner is an assistant or `_shared`. A version is there when its manifest is, and that is put
after its files, in one request: a kill at any moment leaves the whole version or none. `current`
is replaced only by who has seen what it replaces, and found by its key, however lists lag.
"""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from chatllama_pipeline.errors import StoreError
from chatllama_pipeline.progress import MEGABYTE, phase
from chatllama_pipeline.store.history import Use
from chatllama_pipeline.store.manifests import SHARED, Manifest, PayloadFile
from chatllama_pipeline.store.remote.objects import Objects
from chatllama_pipeline.store.remote.states import STATES

FILES, VERSIONS, CURRENT, APPROVALS = "files", "versions", "current", "approvals"
# A file that nobody has goes when it is older than the first; one older than the second is sent
# again by who publishes it anew, so that it doesn't go meanwhile.
SWEPT, SENT_AGAIN = timedelta(days=1), timedelta(hours=12)
# How often a pointer is tried anew where others move theirs in the same document.
MOST_TRIES = 100
# Where a payload file lies on this machine meanwhile.
AtHand = Callable[[PayloadFile], AbstractContextManager[Path]]


@dataclass(frozen=True)
class Pointer:
    """What is current of one asset, as `current.json` of a local store has it, and its history."""

    current: dict[str, Any] | None = None
    uses: list[Use] = field(default_factory=list)


class Bucket:
    """The versions published under a URL."""

    def __init__(self, url: str) -> None:
        self.objects = Objects(url)
        self.url = self.objects.url

    def manifests(self) -> Iterator[Manifest]:
        """Every published manifest that the bucket lists."""
        for key, _ in self._listed(f"{VERSIONS}/"):
            stored = self.objects.get(key)
            if stored is not None:
                yield _manifest(key, stored.data)

    def manifest(self, asset: str, assistant: str | None, version: str) -> Manifest | None:
        """A version's manifest; None where it isn't published."""
        key = manifest_key(asset, assistant, version)
        stored = self.objects.get(key)
        return _manifest(key, stored.data) if stored else None

    def tags(self, assistant: str | None) -> Iterator[tuple[str, str]]:
        """Key and tag of each manifest of an owner that the bucket lists."""
        return self._listed(f"{VERSIONS}/{assistant or SHARED}/")

    def _listed(self, place: str) -> Iterator[tuple[str, str]]:
        for entry in self.objects.list(place):
            # What else somebody put there is no manifest.
            if entry.key.count("/") == 3 and entry.key.endswith(".json"):
                yield entry.key, entry.tag

    def publish(self, manifest: Manifest, at: AtHand, *, newest: bool = False) -> bool:
        """Send the files that aren't there, then the manifest; False where one stood already.

        That one stays, unless this is the `newest`: the same files, made from something else.
        `at` has a payload file lie here, its hash verified.
        """
        self._send(manifest.files, at)
        data = json.dumps(dataclasses.asdict(manifest), indent=1, sort_keys=True).encode()
        key = manifest_key(manifest.asset, manifest.assistant, manifest.version)
        if self.objects.create(key, data):
            return True
        stored = self.objects.get(key) if newest else None
        if stored and _manifest(key, stored.data).fingerprint != manifest.fingerprint:
            # Where another was faster, theirs is as good: the files are the same.
            self.objects.replace(key, data, stored.tag)
        return False

    def remove(self, manifests: Iterable[Manifest]) -> None:
        """Remove versions: first what names them, then the files that no other version has."""
        gone = list(manifests)
        self.objects.delete(manifest_key(one.asset, one.assistant, one.version) for one in gone)
        self._sweep({file_key(file) for one in gone for file in one.files})

    def forget(self, assistant: str) -> None:
        """Remove all versions, pointers and approvals of an assistant."""
        keys = [key for key, _ in self.tags(assistant)]
        stored = [self.objects.get(key) for key in keys]
        files = {
            file_key(file)
            for key, each in zip(keys, stored, strict=True)
            if each is not None
            for file in _manifest(key, each.data).files
        }
        approvals = [f"{APPROVALS}/{assistant}/{name}" for name in self.approvals(assistant)]
        states = [entry.key for entry in self.objects.list(f"{STATES}/{assistant}/")]
        self.objects.delete([_current_key(assistant), *keys, *approvals, *states])
        self._sweep(files)

    def _sweep(self, keys: set[str]) -> None:
        """Remove the files of that name that no version has, but young ones: who publishes now may
        have found them there."""
        used = {file_key(file) for manifest in self.manifests() for file in manifest.files}
        old = datetime.now(UTC) - SWEPT
        entries = [self.objects.entry(key) for key in sorted(keys - used)]
        self.objects.delete(entry.key for entry in entries if entry and entry.written < old)

    def _send(self, files: Iterable[PayloadFile], at: AtHand) -> None:
        wanted = {file.sha256: file for file in files}
        counter = phase("sends files", sum(file.size for file in wanted.values()) / MEGABYTE, "MB")
        for file in wanted.values():
            there = self.objects.entry(file_key(file))
            old = datetime.now(UTC) - SENT_AGAIN
            if there is None or there.size != file.size or there.written < old:
                with at(file) as path:
                    self.objects.send(path, file_key(file))
            counter.advance(file.size / MEGABYTE)

    def fetch(self, file: PayloadFile, path: Path) -> None:
        """Write a payload file to `path`, its hash verified; goes on from what stands there."""
        self.objects.fetch(file_key(file), path, file.size, file.sha256)

    def pointer(self, asset: str, assistant: str | None) -> Pointer:
        """What is current of an asset; an empty one where nothing is."""
        return self.pointers(assistant).get(asset, Pointer())

    def pointers(self, assistant: str | None) -> dict[str, Pointer]:
        """Asset -> what is current of it, of all that an assistant has."""
        stored = self.objects.get(_current_key(assistant))
        return _pointers(stored.data) if stored else {}

    def owners(self) -> list[str | None]:
        """Whose pointers the bucket lists; None: the shared sources'."""
        names = [Path(entry.key).stem for entry in self.objects.list(CURRENT + "/")]
        return [None if name == SHARED else name for name in names]

    def change(
        self, asset: str, assistant: str | None, changed: Callable[[Pointer], Pointer]
    ) -> None:
        """Put `changed(what stands)` in its place, whatever others write meanwhile.

        `changed` is asked again where another was faster, and may raise.
        """
        key = _current_key(assistant)
        for _ in range(MOST_TRIES):
            stored = self.objects.get(key)
            there = _pointers(stored.data) if stored else {}
            before = there.get(asset, Pointer())
            after = changed(before)
            if after == before:
                return
            data = _written({**there, asset: after})
            done = self.objects.replace(key, data, stored.tag) if stored else None
            if done or (stored is None and self.objects.create(key, data)):
                return
        raise StoreError(f"{self.url}/{key}: others write it all the time; run the same again")

    def move(
        self,
        asset: str,
        assistant: str | None,
        seen: str | None,
        current: dict[str, Any],
        use: Use | None,
    ) -> None:
        """Make a version current where `seen` (None: nothing) still is; of two at once one wins.

        `use` is its line in the history, if it gets one. Raises StoreError, and moves nothing,
        where another was made current meanwhile.
        """

        def moved(before: Pointer) -> Pointer:
            standing = before.current["version"] if before.current else None
            if standing not in (seen, current["version"]):
                raise StoreError(
                    f"{self.url}: another machine made {standing} of {asset} current meanwhile, so "
                    f"{current['version']} is kept and not in use; run again to build on what is"
                )
            if use is None or use in before.uses:
                return Pointer(current, before.uses)
            return Pointer(current, [*before.uses, use])

        self.change(asset, assistant, moved)

    def approvals(self, assistant: str = "") -> Iterator[str]:
        """The names of an assistant's approvals and rejections that the bucket lists.

        Without an assistant those of all, as `<assistant>/<name>`.
        """
        place = f"{APPROVALS}/{assistant}/" if assistant else f"{APPROVALS}/"
        for entry in self.objects.list(place):
            yield entry.key.removeprefix(place)

    def approval(self, name: str) -> bytes | None:
        stored = self.objects.get(f"{APPROVALS}/{name}")
        return stored.data if stored else None

    def add_approval(self, name: str, data: bytes) -> bool:
        """Keep it; False where one of that name stands already."""
        key = f"{APPROVALS}/{name}"
        return self.objects.entry(key) is None and self.objects.create(key, data)

    def keep_approval(self, name: str, data: bytes) -> None:
        """Keep it, in the place of one of that name."""
        key = f"{APPROVALS}/{name}"
        while not self.objects.create(key, data):
            stored = self.objects.get(key)
            if stored and self.objects.replace(key, data, stored.tag):
                return

    def drop_approval(self, name: str) -> None:
        self.objects.delete([f"{APPROVALS}/{name}"])


def manifest_key(asset: str, assistant: str | None, version: str) -> str:
    return f"{VERSIONS}/{assistant or SHARED}/{asset}/{version}.json"


def is_of(key: str, assistant: str | None) -> bool:
    """Whether the manifest of that key is of a version of that owner."""
    return key.startswith(f"{VERSIONS}/{assistant or SHARED}/")


def file_key(file: PayloadFile) -> str:
    return f"{FILES}/{file.sha256}"


def _current_key(assistant: str | None) -> str:
    return f"{CURRENT}/{assistant or SHARED}.json"


def _manifest(key: str, data: bytes) -> Manifest:
    try:
        return Manifest.parsed(data)
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{key} in the bucket is no manifest ({error}): remove it there") from None


def _pointers(data: bytes) -> dict[str, Pointer]:
    return {
        asset: Pointer(each["current"], [Use(**use) for use in each["uses"]])
        for asset, each in json.loads(data)["assets"].items()
    }


def _written(pointers: Mapping[str, Pointer]) -> bytes:
    assets = {asset: dataclasses.asdict(pointer) for asset, pointer in pointers.items()}
    # No two writers ever put the same bytes: so each can tell its own, and a tag is never reused.
    return json.dumps({"assets": assets, "written": uuid.uuid4().hex}, indent=1).encode()
