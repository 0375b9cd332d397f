"""The store: immutable version folders with manifests, for tables and checkpoints alike.

    <store>/<asset>/<assistant or _shared>/
        current.json                    which version is current, and of what run
        history.jsonl                   which were, and since when (`history`)
        versions/<version>/             payload files, then manifest.json
    <store>/_files/                     the same files by their hashes: each stands once (`pool`)
    <store>/_runs/<asset>/<assistant>/<fingerprint>/    state of something unfinished (private)
    <store>/_logs/<assistant>/<asset>/<fingerprint>/    trackers' files, such as TensorBoard's
    <store>/_views/<assistant>/<run>/   what each run builds on (`views`)
    <store>/_staging/                   what is being written; never read
    <store>/_adopting/                  what comes from another store, and is not whole yet

A version is the hash of its payload; a fingerprint is the hash of all that it was made from. A
folder without a manifest is no version, and the manifest is written last, so a crash at any moment
leaves either the whole version or none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any

from chatllama_pipeline.errors import AbsentError, CheckError, CorruptVersionError, StoreError
from chatllama_pipeline.home import home
from chatllama_pipeline.records import Outcome
from chatllama_pipeline.store.disk import ROOT_VARIABLE, last_written, writing
from chatllama_pipeline.store.history import How, Use, note_use, read_uses
from chatllama_pipeline.store.locks.held import Held, HeldError, hold
from chatllama_pipeline.store.manifests import (
    CURRENT,
    MANIFEST,
    RUNS,
    SHARED,
    Manifest,
    PayloadFile,
    Recipe,
    Version,
    library_versions,
    list_payload,
    payload_version,
    remove_version,
    utc_now,
    write_atomically,
)
from chatllama_pipeline.store.pool import Pool, shared_by
from chatllama_pipeline.store.remote.address import is_url
from chatllama_pipeline.store.remote.mirror import cache_root, mirror_of


def store_root() -> Path:
    """The store's folder: `CHATLLAMA_STORE`, a URL's cache, else `storage/` at home."""
    text = os.environ.get(ROOT_VARIABLE) or str(home() / "storage")
    return cache_root(text) if is_url(text) else Path(text).expanduser().absolute()


def make_private(root: Path) -> None:
    """Make the store's folder for its owner alone; one that stands already is as somebody chose."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)


@dataclass(frozen=True)
class Current:
    """The pointer to the current version, and how the last run came to it.

    That run is `run`, which began at `began` (UTC, ISO), of the assistant's folder `folder`, which
    is relative to the store; each is empty where no run of an assistant's said so.
    """

    version: str
    overrides: dict[str, Any]
    reused: bool
    at: str
    seconds: float
    child_seconds: float
    run: str = ""
    began: str = ""
    folder: str = ""


@dataclass(frozen=True)
class Workbench:
    """Where something is made: `output` takes payload files, `run_folder` outlives a kill.

    `logs` is for what a person may follow meanwhile; it stays when the version is published.
    """

    output: Path
    run_folder: Path
    logs: Path


@dataclass(frozen=True)
class Made:
    version: Version
    reused: bool


Build = Callable[[Workbench], Outcome]


class Store:
    """All versions under one local folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._pool = Pool(root)
        self._mirror = mirror_of(root)

    def look(self, assistant: str | None, *, at_once: bool = False) -> None:
        """Take over what other machines made, where the versions stand in a bucket."""
        if self._mirror:
            self._mirror.look(assistant, at_once=at_once)

    def current(self, asset: str, assistant: str | None) -> Current | None:
        return self.standing(asset, assistant)

    def standing(self, asset: str, assistant: str | None) -> Current | None:
        """What is current for all, whatever a single run sees."""
        self.look(assistant)
        path = self._folder(asset, assistant) / CURRENT
        return Current(**json.loads(path.read_text())) if path.is_file() else None

    def current_version(self, asset: str, assistant: str | None) -> Version | None:
        """The current version, not verified; None where there is none."""
        current = self.current(asset, assistant)
        return self.version(asset, assistant, current.version) if current else None

    def version(self, asset: str, assistant: str | None, version: str) -> Version | None:
        """A version by its id, not verified; None if it was never published."""
        folder = self._folder(asset, assistant) / "versions" / version
        manifest = folder / MANIFEST
        if self._mirror and not manifest.is_file():
            self._mirror.take_manifest(asset, assistant, version)
        return Version(folder, Manifest.read(manifest)) if manifest.is_file() else None

    def uses(self, asset: str, assistant: str | None) -> list[Use]:
        """How versions became current, oldest first; reusing the current one is no change."""
        self.look(assistant)
        return read_uses(self._folder(asset, assistant))

    def versions(self, asset: str, assistant: str | None) -> list[Version]:
        """Every published version, newest first, not verified."""
        self.look(assistant)
        folder = self._folder(asset, assistant) / "versions"
        manifests = folder.glob(f"*/{MANIFEST}")
        found = [Version(path.parent, Manifest.read(path)) for path in manifests]
        return sorted(found, key=lambda version: version.manifest.created, reverse=True)

    def read(self, asset: str, assistant: str | None, pin: str | None = None) -> Version:
        """The pinned or else the current version, every file verified."""
        current = self.current(asset, assistant)
        wanted = pin or (current.version if current else None)
        version = self.version(asset, assistant, wanted) if wanted else None
        if version is None:
            whose = f" of assistant {assistant}" if assistant else ""
            if pin:
                have = ", ".join(v.id for v in self.versions(asset, assistant)) or "none"
                raise AbsentError(
                    f"{asset}{whose} has no version {pin} (store.pins); those there are: {have}"
                )
            raise AbsentError(f"{asset}{whose} was never made; materialize it first, or select '*'")
        damaged = list(version.damaged())
        if self._mirror and damaged:
            self._mirror.fetch(version, damaged)
        elif damaged:
            told = version.fault(damaged[0]) + shared_by(self.root, version, damaged[0])
            raise CorruptVersionError(told)
        return version

    def make(self, recipe: Recipe, build: Build, overrides: Mapping[str, Any], force: bool) -> Made:
        """Reuse the version of this recipe, or build, check and publish one; make it current.

        One maker at a time per asset and assistant. A failed blocking check raises CheckError,
        and nothing is published.
        """
        started = monotonic()
        with writing(self.root, recipe.asset), self._lock(recipe.asset, recipe.assistant) as lock:
            self.look(recipe.assistant, at_once=True)
            version = None if force else self._reusable(recipe)
            reused = version is not None
            if version is None:
                version = self._build(recipe, build, overrides, lock)
                self._pool.sweep()
            if self._mirror:
                self._mirror.publish(version)
                self.look(recipe.assistant, at_once=True)
            lock.require()
            metrics = version.manifest.metrics
            self._point(
                recipe.asset,
                recipe.assistant,
                Current(
                    version=version.id,
                    overrides=dict(overrides),
                    reused=reused,
                    at=utc_now(),
                    seconds=round(monotonic() - started, 3),
                    child_seconds=0.0 if reused else float(metrics.get("child_seconds", 0.0)),
                ),
                "reused" if reused else "made",
            )
        return Made(version, reused)

    def roll_back(self, version: Version) -> None:
        """Make a version current that stands already; its maker's lock is waited for."""
        asset, assistant = version.manifest.asset, version.manifest.assistant
        with writing(self.root, asset), self._lock(asset, assistant):
            self.look(assistant, at_once=True)
            current = Current(version.id, version.manifest.overrides, True, utc_now(), 0.0, 0.0)
            self._point(asset, assistant, current, "rolled back")

    def run_folder(self, recipe: Recipe) -> Path:
        """Where the unfinished state of this recipe stands; private, since states are loaded."""
        runs = self.root / RUNS / recipe.asset / (recipe.assistant or SHARED)
        folder = runs / recipe.fingerprint
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    def logs_folder(self, recipe: Recipe) -> Path:
        """Where trackers' files of this recipe stand."""
        owner = recipe.assistant or SHARED
        return self.root / "_logs" / owner / recipe.asset / recipe.fingerprint

    def remove(self, versions: Iterable[Version], folders: Iterable[Path] = ()) -> None:
        """Remove versions, folders of trackers and states, and the pool's files that they had."""
        gone, folders = list(versions), list(folders)
        if self._mirror:
            self._mirror.remove(gone, folders)
        for version in gone:
            remove_version(version.path)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        self._pool.sweep()

    def pooled(self, version: Version) -> set[Path]:
        """The pool's names of a version's files."""
        return {self._pool.path(file.sha256) for file in version.manifest.files}

    def leftovers(self, asset: str, assistant: str | None, keep: int, before: float) -> list[Path]:
        """What only older versions had: trackers' files, and states never finished.

        Old is what was last written before the `keep`-th newest version and `before` (seconds since
        1970); what belongs to a version that stands never is.
        """
        versions, owner = self.versions(asset, assistant), assistant or SHARED
        if len(versions) < keep:
            return []
        since = datetime.fromisoformat(versions[keep - 1].manifest.created).timestamp()
        standing = {version.manifest.fingerprint for version in versions}
        return [
            folder
            for place in (self.root / RUNS / asset / owner, self.root / "_logs" / owner / asset)
            for folder in sorted(place.glob("*/"))
            if folder.name not in standing and last_written(folder) < min(since, before)
        ]

    def _folder(self, asset: str, assistant: str | None) -> Path:
        return self.root / asset / (assistant or SHARED)

    def mend(self, version: Version) -> list[PayloadFile]:
        """Verify every file; returns those that are damaged and stand nowhere else in the store."""
        asset, assistant = version.manifest.asset, version.manifest.assistant
        with self._lock(asset, assistant):
            return self._lacking(version, maker_of(asset, assistant))

    def _reusable(self, recipe: Recipe) -> Version | None:
        maker = maker_of(recipe.asset, recipe.assistant)
        for version in self.versions(recipe.asset, recipe.assistant):
            same = version.manifest.fingerprint == recipe.fingerprint
            # Where another version has the same file, nothing is made again for it.
            if same and not self._lacking(version, maker):
                self._pool.take(version.path, version.manifest.files, maker)
                return version
        return None

    def _lacking(self, version: Version, maker: str) -> list[PayloadFile]:
        """The files that are damaged, and can be had neither from the pool nor from a bucket."""
        lacking = self._pool.mend(version.path, list(version.damaged()), maker)
        if self._mirror and lacking:
            with contextlib.suppress(CorruptVersionError):
                self._mirror.fetch(version, lacking)
                return []
        return lacking

    def _build(
        self, recipe: Recipe, build: Build, overrides: Mapping[str, Any], lock: Held
    ) -> Version:
        started = monotonic()
        run_folder = self.run_folder(recipe)
        states = self._mirror.states(run_folder) if self._mirror else contextlib.nullcontext()
        with self._staging(recipe) as staging, states:
            outcome = build(Workbench(staging, run_folder, self.logs_folder(recipe)))
            failed = [check for check in outcome.checks if check.blocking and not check.passed]
            if failed:
                raise CheckError(
                    "\n".join(f"{recipe.asset}: {check.description}" for check in failed),
                    outcome.checks,
                )
            lock.require()
            version = self._publish(recipe, outcome, overrides, staging, started)
        shutil.rmtree(run_folder)
        return version

    @contextlib.contextmanager
    def _staging(self, recipe: Recipe) -> Iterator[Path]:
        folder = self.root / "_staging" / recipe.asset / (recipe.assistant or SHARED)
        # The lock makes us its only writer, so what stands there is a killed one's.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            # Renamed away when published; whatever else happened, nothing half-written stays.
            shutil.rmtree(folder, ignore_errors=True)

    def _publish(
        self,
        recipe: Recipe,
        outcome: Outcome,
        overrides: Mapping[str, Any],
        staging: Path,
        started: float,
    ) -> Version:
        files = list_payload(staging)
        self._pool.take(staging, files, maker_of(recipe.asset, recipe.assistant))
        version = payload_version(files)
        manifest = Manifest(
            asset=recipe.asset,
            assistant=recipe.assistant,
            version=version,
            fingerprint=recipe.fingerprint,
            code_version=recipe.code_version,
            upstream=dict(recipe.upstream),
            settings=dict(recipe.settings),
            inputs=dict(recipe.inputs),
            overrides=dict(overrides),
            libraries=library_versions(),
            files=files,
            rows=outcome.rows,
            metrics=outcome.metrics,
            checks=outcome.checks,
            curves=outcome.curves,
            warnings=outcome.warnings,
            created=utc_now(),
            seconds=round(monotonic() - started, 3),
        )
        folder = self._folder(recipe.asset, recipe.assistant) / "versions" / version
        folder.parent.mkdir(parents=True, exist_ok=True)
        if (folder / MANIFEST).is_file():
            # The same payload made again, or a damaged copy: file by file, so that whoever reads
            # it meanwhile finds every file, the old one or the new.
            for file in files:
                (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
                (staging / file.path).replace(folder / file.path)
        else:
            shutil.rmtree(folder, ignore_errors=True)  # the rest of a crash
            staging.rename(folder)
        write_atomically(folder / MANIFEST, dataclasses.asdict(manifest))
        return Version(folder, manifest)

    def _point(self, asset: str, assistant: str | None, current: Current, how: How) -> None:
        folder, before = self._folder(asset, assistant), self.standing(asset, assistant)
        noted = how != "reused" or before is None or before.version != current.version
        use = Use(current.version, current.at, how) if noted else None
        if self._mirror:
            seen = before.version if before else None
            self._mirror.move(asset, assistant, seen, dataclasses.asdict(current), use)
        write_atomically(folder / CURRENT, dataclasses.asdict(current))
        if use:
            note_use(folder, use)

    @contextlib.contextmanager
    def _lock(self, asset: str, assistant: str | None, *, wait: bool = True) -> Iterator[Held]:
        make_private(self.root)
        folder = self._folder(asset, assistant)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            held = hold(self.root, folder / ".lock", wait=wait)
        except HeldError as error:
            raise StoreError(
                f"{asset} of {assistant or SHARED} is being made in {self.root}: wait for the "
                f"end of that run, or end it ({error})"
            ) from None
        with contextlib.closing(held):
            yield held


def maker_of(asset: str, assistant: str | None) -> str:
    """Whom the lock lets make it: one at a time."""
    return f"{asset}.{assistant or SHARED}"
