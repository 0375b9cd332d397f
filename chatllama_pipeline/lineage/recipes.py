"""The recipe of a version as a run would make it, its fingerprint, and the versions in use."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chatllama_pipeline.data.sources.places import Asked
from chatllama_pipeline.errors import AbsentError, SettingsError
from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.lineage.declaring.asset import Given
from chatllama_pipeline.lineage.declaring.incumbent import RELEASE
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.settings.data import SOURCES
from chatllama_pipeline.settings.folder import Assistant
from chatllama_pipeline.store.manifests import Recipe, Version, hash_files
from chatllama_pipeline.store.versions import Store
from chatllama_pipeline.store.views import seen_by_running

# The version of a source that nobody ever needed.
ABSENT = "absent"


def owner_of(asset: str, assistant: Assistant) -> str | None:
    """Whose version of `asset` an assistant uses: sources are shared by all."""
    return None if asset in SOURCES else assistant.name


def meant_asset(name: str) -> str:
    """What an error says to do of a `name` that is no asset's."""
    close = difflib.get_close_matches(name, ASSETS, n=1)
    return f"did you mean {close[0]}?" if close else f"use one of {', '.join(ASSETS)}"


def require_pins(assistant: Assistant, store: Store) -> None:
    """Raise SettingsError where `store.pins` names an asset or a version that there isn't."""
    for asset, pin in assistant.settings.store.pins.items():
        key = f"{assistant.config}: store.pins.{asset}"
        if asset not in ASSETS:
            raise SettingsError(f"{key}: there is no asset of that name; {meant_asset(asset)}")
        owner = owner_of(asset, assistant)
        if store.version(asset, owner, pin) is None:
            have = ", ".join(version.id for version in store.versions(asset, owner)) or "none"
            raise SettingsError(f"{key}: {asset} has no version {pin}; those there are: {have}")


def version_in_use(asset: str, assistant: Assistant, store: Store) -> Version | None:
    """The pinned, else the current version, not verified; None where there is none."""
    owner = owner_of(asset, assistant)
    wanted = assistant.settings.store.pins.get(asset)
    if wanted is None and (current := store.current(asset, owner)):
        wanted = current.version
    return store.version(asset, owner, wanted) if wanted else None


def read_in_use(asset: str, assistant: Assistant, store: Store) -> Version:
    """The same, every file verified; raises AbsentError, CorruptVersionError."""
    pin = assistant.settings.store.pins.get(asset)
    return store.read(asset, owner_of(asset, assistant), pin)


def needed_by(settings: AssistantSettings) -> set[str]:
    """The assets that an assistant of these settings needs: its release, the audit of its data,
    and what they are made from."""
    found: set[str] = set()
    waiting = ["data_audit", "release"]
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            waiting += ASSETS[name].upstream_for(settings)
    return found


def current_upstream(asset: str, assistant: Assistant, store: Store) -> dict[str, str]:
    """Upstream asset -> the version that would be used now (pinned, else current)."""
    versions = {}
    for name in ASSETS[asset].upstream_for(assistant.settings):
        version = version_in_use(name, assistant, store)
        if version is None and ASSETS[name].only_with:
            continue
        if version is None:
            raise AbsentError(f"{asset} needs {name}, which was never made for {assistant.name}")
        versions[name] = version.id
    return versions


def source_recipe(source: str, store: Store, asked: Asked, look: bool = True) -> Recipe:
    """The recipe of a shared source as a run asks for it.

    A hub revision stays at the commit of the current version until a refresh is asked for. Without
    `look` the network is left alone.
    """
    current = store.current(source, None)
    version = store.version(source, None, current.version) if current else None
    known = version.manifest.inputs if version else None
    from chatllama_pipeline.data.sources.catalog import source_inputs

    inputs = source_inputs(source, asked, known, look)
    return Recipe(source, None, ASSETS[source].code_version, {}, {}, inputs)


def recipe_for(
    asset: str,
    assistant: Assistant,
    upstream: Mapping[str, str],
    store: Store,
    unpromoted: list[str],
) -> Recipe:
    """The recipe of an assistant's asset, given the upstream versions.

    `unpromoted` are the overrides behind it that nobody promoted: the gate reads them.
    """
    declared = ASSETS[asset]
    settings = declared.counted(assistant.settings)
    limited = dataclasses.replace(assistant, settings=declared.limited(assistant.settings))
    given, inputs = Given(limited, store.root, upstream, unpromoted), {}
    for each in declared.inputs:
        found = each.find(given)
        if each.always or found:
            inputs[each.name] = found
    _replace_local_models(settings, inputs)
    return Recipe(asset, assistant.name, declared.code_version, dict(upstream), settings, inputs)


def is_made(recipe: Recipe) -> bool:
    """Whether there is anything to make a version from."""
    needed = ASSETS[recipe.asset].only_with
    return needed is None or needed in recipe.inputs


def _replace_local_models(settings: dict[str, Any], inputs: dict[str, Any]) -> None:
    """A local model counts by its files, wherever it stands."""
    for key, value in settings.items():
        if isinstance(value, str) and Path(value).is_absolute():
            place = Path(value)
            inside = sorted(path for path in place.rglob("*") if path.is_file())
            files = [place] if place.is_file() else inside
            names = [path.relative_to(place).as_posix() for path in files]
            hashes = hash_files(f"hashes the files of {key}", files)
            inputs[key] = dict(zip(names, hashes, strict=True))
            settings[key] = "local file" if place.is_file() else "local folder"


def inherited_overrides(
    asset: str, assistant: Assistant, store: Store, own: Mapping[str, Any]
) -> dict[str, Any]:
    """This run's overrides with those that stand behind the upstream versions in use."""
    found: dict[str, Any] = {}
    for name in ASSETS[asset].upstream_for(assistant.settings):
        owner = owner_of(name, assistant)
        current = store.current(name, owner)
        if name in assistant.settings.store.pins:
            version = version_in_use(name, assistant, store)
            found |= version.manifest.overrides if version else {}
        elif current is not None:
            found |= current.overrides
    return found | dict(own)


def versions_in_use(assistant: Assistant, store: Store) -> dict[str, set[str]]:
    """Asset -> versions that must stay: current, pinned, seen by runs, and upstream of those."""
    used: dict[str, set[str]] = {asset: set() for asset in ASSETS}
    waiting = list(assistant.settings.store.pins.items())
    for asset in ASSETS:
        if current := store.standing(asset, owner_of(asset, assistant)):
            waiting.append((asset, current.version))
    for asset, owner, seen in seen_by_running(store.root):
        if asset in ASSETS and owner == owner_of(asset, assistant):
            waiting.append((asset, seen))
    while waiting:
        asset, wanted = waiting.pop()
        version = store.version(asset, owner_of(asset, assistant), wanted)
        if version is not None and wanted not in used[asset]:
            used[asset].add(wanted)
            waiting.extend(version.manifest.upstream.items())
            if compared := version.manifest.inputs.get(RELEASE):
                # To judge alike again; what that release was made from isn't needed for it.
                used[RELEASE].add(compared)
    return used
