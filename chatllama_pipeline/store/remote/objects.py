"""Objects under a URL: read, made once, replaced if unchanged, listed.

By obstore (extra `objects`), which repeats what failed on the way. A conditional put whose reply
was lost is looked at again, so that what this process wrote is never taken for another's.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from chatllama_pipeline.errors import CorruptVersionError, StoreError
from chatllama_pipeline.progress import MEGABYTE, phase
from chatllama_pipeline.store.remote.address import WHO_ASKS, require_address

# What clouds answer where the bucket itself isn't there.
NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
# What they answer whoever may not, where obstore has no error of its own for it.
NO_RIGHT = ("401 Unauthorized", "403 Forbidden")
# Where a machine of a cloud asks who it is, if nothing else says so.
ASKS_THE_MACHINE = "169.254.169.254"
# How clouds answer whose clock is minutes apart from what a request was signed at.
OTHER_TIME = ("RequestTimeTooSkewed", "RequestExpired", "date header too old")
# How a bucket answers that stands in another region.
OTHER_REGION = ("redirect", "301 Moved Permanently", "AuthorizationHeaderMalformed")
# How long it is tried again where a server doesn't answer.
PATIENCE: Any = {"max_retries": 10, "retry_timeout": timedelta(seconds=60)}
PART_BYTES = 8 * 2**20
# A multipart upload has 10,000 parts at most.
MOST_PARTS = 9_000
READ_AT_ONCE = 2**22
_CURE = "; make the version again, or copy it there from a store that has it"


@dataclass(frozen=True)
class Stored:
    """An object's bytes, and the tag that its replacement must name."""

    data: bytes
    tag: dict[str, str]


@dataclass(frozen=True)
class Entry:
    """What a bucket says of an object without sending it."""

    key: str
    size: int
    written: datetime
    tag: str


class Objects:
    """All objects under `url`; raises StoreError, with the cure, where the bucket refuses."""

    def __init__(self, url: str) -> None:
        self.url = require_address(url)
        self._scheme = url.partition("://")[0]
        try:
            from obstore.exceptions import BaseError
            from obstore.store import from_url
        except ImportError:
            raise StoreError(
                f"{url}: object storage wants obstore; pip install 'chatllama-pipeline[objects]'"
            ) from None
        try:
            self._store: Any = from_url(self.url, retry_config=PATIENCE)
        except (BaseError, ValueError) as error:
            raise StoreError(
                f"{self.url} can't be opened: {_first_line(error)}; set {self._who_asks}"
            ) from None

    @property
    def _who_asks(self) -> str:
        return f"{WHO_ASKS[self._scheme]} to whom may read, write, list and delete there"

    def get(self, key: str) -> Stored | None:
        """An object; None where there is none."""
        with self._asking(f"read {key}"):
            try:
                found = self._store.get(key)
                return Stored(bytes(found.bytes()), _tag(found.meta))
            except FileNotFoundError as error:
                self._require_bucket(error)
                return None

    def create(self, key: str, data: bytes) -> bool:
        """Write an object that isn't there; False where another with other bytes is."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with self._asking(f"write {key}"):
            try:
                self._store.put(key, data, mode="create")
            except (AlreadyExistsError, PreconditionError):
                return self._is_ours(key, data)
        return True

    def replace(self, key: str, data: bytes, tag: dict[str, str]) -> bool:
        """Write in the place of what `tag` names; False where that isn't there any more."""
        from obstore.exceptions import PreconditionError

        with self._asking(f"write {key}"):
            try:
                self._store.put(key, data, mode=tag)
            except PreconditionError:
                return self._is_ours(key, data)
        return True

    def send(self, path: Path, key: str) -> None:
        """Write a file's bytes, whole or not at all."""
        size = path.stat().st_size
        with self._asking(f"write {key}"):
            chunk = max(PART_BYTES, -(-size // MOST_PARTS))
            self._store.put(key, path, chunk_size=chunk, max_concurrency=4)

    def fetch(self, key: str, path: Path, size: int, sha256: str) -> None:
        """Write an object's bytes to `path`, going on from what stands there.

        Raises CorruptVersionError, and leaves no file, where they haven't that hash.
        """
        have = path.stat().st_size if path.is_file() else 0
        counter = phase(f"fetches {path.name}", size / MEGABYTE, "MB")
        if have < size:
            with self._asking(f"read {key}"), path.open("ab") as file:
                try:
                    options = {"range": {"offset": have}} if have else {}
                    stream = self._store.get(key, options=options)
                except FileNotFoundError as error:
                    self._require_bucket(error)
                    raise CorruptVersionError(f"{self.url}/{key} is missing{_CURE}") from None
                for chunk in stream.stream(min_chunk_size=READ_AT_ONCE):
                    file.write(chunk)
                    counter.advance(len(chunk) / MEGABYTE)
        with path.open("rb") as whole:
            found = hashlib.file_digest(whole, "sha256").hexdigest()
        if found != sha256:
            path.unlink()
            raise CorruptVersionError(f"{self.url}/{key} hasn't the hash that names it{_CURE}")

    def entry(self, key: str) -> Entry | None:
        """What the bucket says of one object; None where there is none."""
        with self._asking(f"look at {key}"):
            try:
                return _entry(self._store.head(key))
            except FileNotFoundError as error:
                self._require_bucket(error)
                return None

    def list(self, prefix: str) -> Iterator[Entry]:
        """The objects whose key begins with the folder `prefix`; a list may lag behind."""
        with self._asking(f"list {prefix}"):
            try:
                for batch in self._store.list(prefix):
                    yield from map(_entry, batch)
            except FileNotFoundError as error:
                self._require_bucket(error)

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects, whether they are there or not."""
        wanted = list(keys)
        with self._asking("remove objects"):
            for first in range(0, len(wanted), 1000):
                some = wanted[first : first + 1000]
                try:
                    self._store.delete(some)
                except FileNotFoundError as error:
                    # S3 alone says nothing of what isn't there; elsewhere others may stand yet.
                    self._require_bucket(error)
                    self._delete_each(some)

    def _delete_each(self, keys: Iterable[str]) -> None:
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                self._store.delete(key)

    def _is_ours(self, key: str, data: bytes) -> bool:
        there = self.get(key)
        return there is not None and there.data == data

    def _require_bucket(self, error: Exception) -> None:
        if any(code in str(error) for code in NO_BUCKET):
            raise StoreError(f"{self.url}: there is no such bucket; make it first") from None

    @contextlib.contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        from obstore import exceptions

        try:
            yield
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            raise
        except FileNotFoundError as error:
            self._require_bucket(error)
            raise
        except exceptions.BaseError as error:
            self._require_bucket(error)
            if any(words in str(error) for words in OTHER_TIME):
                raise StoreError(
                    f"{self.url}: could not {what} ({_first_line(error)}): this machine's clock is "
                    "minutes apart from the bucket's: set it by NTP"
                ) from None
            if _is_refusal(error):
                raise StoreError(
                    f"{self.url}: no right to {what} ({_first_line(error)}); set {self._who_asks}"
                ) from None
            if self._scheme == "s3" and any(words in str(error) for words in OTHER_REGION):
                raise StoreError(
                    f"{self.url}: could not {what} ({_first_line(error)}): set AWS_REGION to the "
                    "region of the bucket"
                ) from None
            raise StoreError(
                f"{self.url}: could not {what}: {_first_line(error)}. Nothing half was published; "
                "run the same again once it answers"
            ) from None


def _is_refusal(error: Exception) -> bool:
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
        return True
    return any(words in str(error) for words in (*NO_RIGHT, ASKS_THE_MACHINE))


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def _tag(meta: Any) -> dict[str, str]:
    return {name: meta[name] for name in ("e_tag", "version") if meta.get(name)}


def _entry(meta: Any) -> Entry:
    tag = meta.get("e_tag") or meta.get("version") or ""
    return Entry(str(meta["path"]), int(meta["size"]), meta["last_modified"], tag)
