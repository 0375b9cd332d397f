"""A store as one end of a copy: a local folder or a bucket, asked and told alike."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from chatllama_pipeline.errors import CorruptVersionError, StoreError
from chatllama_pipeline.store.adopting import copy_verified, is_name
from chatllama_pipeline.store.copying.receiving import ReceivingStore
from chatllama_pipeline.store.disk import writing
from chatllama_pipeline.store.history import merged
from chatllama_pipeline.store.manifests import (
    APPROVALS,
    MANIFEST,
    Manifest,
    PayloadFile,
    Version,
    hash_file,
)
from chatllama_pipeline.store.places.start import require_sound
from chatllama_pipeline.store.remote.address import is_url
from chatllama_pipeline.store.remote.bucket import Bucket, Pointer
from chatllama_pipeline.store.versions import Current, make_private


class End(Protocol):
    """What a copy asks of either store; `place` names it."""

    place: str

    def ready(self) -> None:
        """Make it fit to be written to; raises StoreError where it isn't."""

    def manifests(self) -> list[Manifest]: ...

    def manifest(self, asset: str, assistant: str | None, version: str) -> Manifest | None: ...

    def fetch(self, manifest: Manifest, file: PayloadFile, path: Path) -> None:
        """Write a payload file to `path`, its hash verified."""

    def at_hand(
        self, manifest: Manifest, file: PayloadFile
    ) -> contextlib.AbstractContextManager[Path]:
        """Where a payload file lies on this machine meanwhile, its hash verified."""

    def take(self, manifest: Manifest, source: End) -> bool:
        """Publish a version of another store; False where it stands already."""

    def pointer(self, asset: str, assistant: str | None) -> Pointer: ...

    def join(self, asset: str, assistant: str | None, other: Pointer) -> None:
        """Add another store's history; what is current here stays, unless nothing is."""

    def approvals(self) -> list[str]: ...

    def approval(self, name: str) -> bytes | None: ...

    def add_approval(self, name: str, data: bytes) -> bool: ...


class Folder:
    """A local store."""

    def __init__(self, root: Path) -> None:
        self.root, self.place = root, str(root)
        self._store = ReceivingStore(root)

    def ready(self) -> None:
        make_private(self.root)
        require_sound(self.root)

    def manifests(self) -> list[Manifest]:
        return [Manifest.read(path) for path in self.root.glob(f"[!_]*/*/versions/*/{MANIFEST}")]

    def manifest(self, asset: str, assistant: str | None, version: str) -> Manifest | None:
        found = self._store.version(asset, assistant, version)
        return found.manifest if found else None

    def fetch(self, manifest: Manifest, file: PayloadFile, path: Path) -> None:
        copy_verified(self._version(manifest).path / file.path, file, path)

    @contextlib.contextmanager
    def at_hand(self, manifest: Manifest, file: PayloadFile) -> Iterator[Path]:
        version = self._version(manifest)
        path = version.path / file.path
        if not path.is_file() or hash_file(path) != file.sha256:
            raise CorruptVersionError(version.fault(file))
        yield path

    def take(self, manifest: Manifest, source: End) -> bool:
        return self._store.adopt(manifest, lambda file, path: source.fetch(manifest, file, path))

    def pointer(self, asset: str, assistant: str | None) -> Pointer:
        current = self._store.standing(asset, assistant)
        uses = self._store.uses(asset, assistant)
        return Pointer(dataclasses.asdict(current) if current else None, uses)

    def join(self, asset: str, assistant: str | None, other: Pointer) -> None:
        current = Current(**other.current) if other.current else None
        self._store.join_history(asset, assistant, current, other.uses)

    def approvals(self) -> list[str]:
        found = (self.root / APPROVALS).glob("*/[!.]*.json")
        return [path.relative_to(self.root / APPROVALS).as_posix() for path in found]

    def approval(self, name: str) -> bytes | None:
        path = self.root / APPROVALS / name
        return path.read_bytes() if path.is_file() else None

    def add_approval(self, name: str, data: bytes) -> bool:
        path = self.root / APPROVALS / name
        if path.is_file() or not all(map(is_name, name.split("/"))):
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.new")
        beside.write_bytes(data)
        beside.replace(path)
        return True

    def _version(self, manifest: Manifest) -> Version:
        found = self._store.version(manifest.asset, manifest.assistant, manifest.version)
        if found is None:
            raise CorruptVersionError(f"{self.place}: {manifest.version} was removed meanwhile")
        return found


class Remote:
    """A store in a bucket."""

    def __init__(self, url: str) -> None:
        self._bucket = Bucket(url)
        self.place = self._bucket.url

    def ready(self) -> None:
        """What it refuses it tells when it is asked first."""

    def manifests(self) -> list[Manifest]:
        return list(self._bucket.manifests())

    def manifest(self, asset: str, assistant: str | None, version: str) -> Manifest | None:
        return self._bucket.manifest(asset, assistant, version)

    def fetch(self, manifest: Manifest, file: PayloadFile, path: Path) -> None:
        self._bucket.fetch(file, path)

    @contextlib.contextmanager
    def at_hand(self, manifest: Manifest, file: PayloadFile) -> Iterator[Path]:
        with (
            writing(Path(tempfile.gettempdir()), file.path),
            tempfile.TemporaryDirectory() as folder,
        ):
            path = Path(folder) / file.sha256
            self._bucket.fetch(file, path)
            yield path

    def take(self, manifest: Manifest, source: End) -> bool:
        if self._bucket.manifest(manifest.asset, manifest.assistant, manifest.version):
            return False
        return self._bucket.publish(manifest, lambda file: source.at_hand(manifest, file))

    def pointer(self, asset: str, assistant: str | None) -> Pointer:
        return self._bucket.pointer(asset, assistant)

    def join(self, asset: str, assistant: str | None, other: Pointer) -> None:
        def joined(here: Pointer) -> Pointer:
            return Pointer(here.current or other.current, merged(here.uses, other.uses))

        self._bucket.change(asset, assistant, joined)

    def approvals(self) -> list[str]:
        return list(self._bucket.approvals())

    def approval(self, name: str) -> bytes | None:
        return self._bucket.approval(name)

    def add_approval(self, name: str, data: bytes) -> bool:
        return self._bucket.add_approval(name, data)


def opened(place: str) -> End:
    """The store at a URL or in a folder."""
    return Remote(place) if is_url(place) else Folder(Path(place).expanduser().absolute())


def require_apart(source: str, target: str) -> None:
    """Raise StoreError where both name one store."""
    one, other = (
        p.rstrip("/") if is_url(p) else str(Path(p).expanduser().resolve())
        for p in (source, target)
    )
    if one == other:
        raise StoreError(f"{source} and {target} are one store: name another to copy to")
