"""Which versions may go: old by count and by age, and needed by nothing.

Never what is current, pinned, released, or upstream of those. The same bytes stand once in a store,
so that a version frees only what no other has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.lineage.recipes import owner_of, versions_in_use
from chatllama_pipeline.progress import MEGABYTE
from chatllama_pipeline.settings import StoreSettings
from chatllama_pipeline.settings.data import SOURCES
from chatllama_pipeline.settings.folder import Assistant, assistant_names, load_assistant
from chatllama_pipeline.store.manifests import Version
from chatllama_pipeline.store.owned import busy_assets, owners
from chatllama_pipeline.store.versions import Store
from chatllama_pipeline.store.views import seen_by_running


@dataclass(frozen=True)
class Old:
    """What may go of one asset: versions, and folders of trackers and unfinished trainings."""

    asset: str
    assistant: str | None
    versions: list[Version]
    folders: list[Path]


def old_of(
    asset: str,
    assistant: str | None,
    store: Store,
    rule: StoreSettings,
    needed: set[str],
    now: datetime,
) -> Old:
    """What of an asset is older than `rule` keeps, and not `needed` (versions)."""
    if rule.keep_versions is None:
        return Old(asset, assistant, [], [])
    since = now - timedelta(days=rule.keep_days)
    versions = [
        version
        for version in store.versions(asset, assistant)[rule.keep_versions :]
        if version.id not in needed and datetime.fromisoformat(version.manifest.created) <= since
    ]
    before = since.timestamp()
    folders = store.leftovers(asset, assistant, rule.keep_versions, before)
    return Old(asset, assistant, versions, folders)


def old_of_assistant(
    assistant: Assistant, store: Store, rule: StoreSettings, now: datetime
) -> list[Old]:
    """What of all assets of an assistant may go, by `rule`; shared sources are not its own."""
    needed = versions_in_use(assistant, store)
    return [
        old_of(asset, assistant.name, store, rule, needed[asset], now)
        for asset in ASSETS
        if owner_of(asset, assistant) is not None
    ]


def old_sources(store: Store, rule: StoreSettings, now: datetime) -> list[Old]:
    """What of the shared sources may go: what no version of any assistant was made from."""
    needed: dict[str, set[str]] = {source: set() for source in SOURCES}
    for source in SOURCES:
        if current := store.current(source, None):
            needed[source].add(current.version)
    for asset, _, seen in seen_by_running(store.root):
        if asset in needed:
            needed[asset].add(seen)
    for asset in set(ASSETS) - set(SOURCES):
        for owner in owners(store.root):
            for version in store.versions(asset, owner):
                for name, made_from in version.manifest.upstream.items():
                    if name in needed:
                        needed[name].add(made_from)
    return [old_of(source, None, store, rule, needed[source], now) for source in SOURCES]


def remove_old(store: Store, old: Old) -> list[str]:
    """Remove it; returns a line for each version and folder that went."""
    store.remove(old.versions, old.folders)
    gone = [f"{old.asset}: removed old version {version.id}" for version in old.versions]
    return gone + [
        f"{old.asset}: removed {folder}, of no version that is kept" for folder in old.folders
    ]


def freed_bytes(store: Store, olds: Iterable[Old]) -> int:
    """What the disk would have again without them: files that nothing else has."""
    going: set[Path] = set()
    for old in olds:
        for folder in old.folders:
            going.update(path for path in folder.rglob("*") if path.is_file())
        for version in old.versions:
            going.update(version.path / file.path for file in version.manifest.files)
            going.update(store.pooled(version))
    files = [path.stat() for path in going if path.is_file()]
    names = Counter(file.st_ino for file in files)
    sizes = {file.st_ino: file.st_size for file in files if names[file.st_ino] >= file.st_nlink}
    return sum(sizes.values())


def prune_lines(
    names: Iterable[str],
    store: Store,
    keep: int | None,
    days: int | None,
    dry_run: bool,
    sources: bool,
) -> Iterator[str]:
    """Prune assistants by their own settings, or by `keep` and `days` where they are given.

    With `sources` the public sources too.

    The report of `chatllama prune`. An assistant that can't be read, or that somebody is at work
    on, is told and left alone.
    """
    now, olds = datetime.now(UTC), list[Old]()
    asked = {"keep_versions": keep, "keep_days": days}
    changed = {key: value for key, value in asked.items() if value is not None}
    for name in names:
        try:
            assistant = load_assistant(name)
        except SettingsError as error:
            yield f"{name}: nothing is pruned, since its settings say what is pinned: {error}"
            continue
        if busy := busy_assets(store.root, name):
            yield f"{name}: nothing is pruned while {', '.join(busy)} is being made"
            continue
        rule = assistant.settings.store.model_copy(update=changed)
        olds += old_of_assistant(assistant, store, rule, now)
    if sources:
        olds += old_sources(store, StoreSettings(**changed), now)
    freed = freed_bytes(store, olds)
    for old in olds:
        whose = f" of {old.assistant}" if old.assistant else ""
        for version in old.versions:
            made = version.manifest.created[:16].replace("T", " ")
            yield f"{old.asset}{whose}: version {version.id}, made {made}"
        for folder in old.folders:
            yield f"{old.asset}{whose}: {folder}"
        if not dry_run:
            store.remove(old.versions, old.folders)
    count = sum(len(old.versions) for old in olds)
    verb = "would be" if dry_run else "were"
    yield f"{count} versions {verb} removed, {freed / MEGABYTE:.1f} MB"
    for name in sorted(set(owners(store.root)) - set(assistant_names())):
        yield f"{name} has no folder any more: chatllama forget {name} removes what is left of it"
