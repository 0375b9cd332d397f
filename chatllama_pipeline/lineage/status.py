"""What an assistant has: current, stale, released; and what the last run made of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from chatllama_pipeline.data.audit import AUDIT_PAGE
from chatllama_pipeline.data.sources.places import Asked
from chatllama_pipeline.errors import AbsentError, SettingsError
from chatllama_pipeline.evaluation import EVALUATION_FILE, REPORT_FILE
from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.lineage.declaring.ratings import told_waiting
from chatllama_pipeline.lineage.history.changes import recipe_changes
from chatllama_pipeline.lineage.recipes import (
    ABSENT,
    current_upstream,
    is_made,
    needed_by,
    owner_of,
    recipe_for,
    require_pins,
    source_recipe,
    version_in_use,
)
from chatllama_pipeline.lineage.verdict import release_verdict
from chatllama_pipeline.settings.data import SOURCES
from chatllama_pipeline.settings.folder import Assistant
from chatllama_pipeline.store.manifests import Recipe, Version
from chatllama_pipeline.store.versions import Store
from chatllama_pipeline.store.views import RunStore, other_folder


@dataclass(frozen=True)
class AssetStatus:
    """One asset of an assistant; `stale` says why another run would make it again, `waits` what it
    waits for where there is nothing to make.

    A pinned one is never stale: `unlike` says from what else a run would make it.
    """

    asset: str
    version: str | None
    rows: int | None
    created: str
    stale: list[str]
    overrides: dict[str, Any]
    pinned: bool = False
    waits: str = ""
    unlike: list[str] = field(default_factory=list)


def asset_statuses(assistant: Assistant, store: Store) -> list[AssetStatus]:
    """Every asset that this assistant uses, in the order in which they are made."""
    found: dict[str, AssetStatus] = {}
    needed = needed_by(assistant.settings)
    for asset in ASSETS:
        # What waits for something, as for ratings, says so.
        if asset in needed or ASSETS[asset].only_with:
            status = _asset_status(asset, assistant, store)
            behind = [
                f"{name} is stale"
                for name in ASSETS[asset].upstream_for(assistant.settings)
                if status.version and not status.pinned and found[name].stale
            ]
            found[asset] = replace(status, stale=[*status.stale, *behind])
    return list(found.values())


def asked_version(assistant: Assistant, store: Store) -> str:
    """A hash of what an assistant's folder asks of all its assets, and of the sources in use."""
    asked: dict[str, Any] = {"pins": assistant.settings.store.pins}
    for asset, declared in ASSETS.items():
        if asset in SOURCES:
            if asset in assistant.settings.data.sources:
                used = version_in_use(asset, assistant, store)
                asked[asset] = [declared.code_version, used.id if used else ABSENT]
            continue
        upstream = dict.fromkeys(declared.upstream, ABSENT)
        if asset == "release" and (used := version_in_use("evaluation", assistant, store)):
            upstream["evaluation"] = used.id
        recipe = recipe_for(asset, assistant, upstream, store, unpromoted=[])
        asked[asset] = [recipe.code_version, dict(recipe.settings), dict(recipe.inputs)]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def _asset_status(asset: str, assistant: Assistant, store: Store) -> AssetStatus:
    current = store.current(asset, owner_of(asset, assistant))
    version = version_in_use(asset, assistant, store)
    if version is None:
        recipe = recipe_for(asset, assistant, {}, store, []) if ASSETS[asset].only_with else None
        if recipe and not is_made(recipe):
            return AssetStatus(asset, None, None, "", [], {}, waits=told_waiting(assistant, store))
        return AssetStatus(asset, None, None, "", ["never made"], {})
    manifest = version.manifest
    if asset in assistant.settings.store.pins:
        unlike = differences(asset, assistant, store, version)
        rows, made, overrides = manifest.rows, manifest.created, manifest.overrides
        return AssetStatus(asset, version.id, rows, made, [], overrides, True, unlike=unlike)
    stale = differences(asset, assistant, store, version)
    overrides = current.overrides if current else {}
    return AssetStatus(asset, version.id, manifest.rows, manifest.created, stale, overrides)


def differences(asset: str, assistant: Assistant, store: Store, version: Version) -> list[str]:
    """What a version was made from and a run would make it from, where they differ."""
    try:
        recipe = _recipe_now(asset, assistant, store, version)
    except AbsentError as error:
        return [str(error)]
    return [str(change) for change in recipe_changes(version.manifest, recipe)]


def require_as_made(
    asset: str, assistant: Assistant, store: RunStore, made_here: Collection[str], before: str
) -> None:
    """Raise SettingsError where what `asset` is made from isn't what the settings ask for.

    `made_here` is what the run makes itself; all else it takes over from the run `before`, which
    made it or built on it.
    """
    behind, waiting = set(), [asset]
    while waiting:
        upstream = ASSETS[waiting.pop()].upstream_for(assistant.settings)
        waiting += [name for name in upstream if name not in behind]
        behind.update(upstream)
    # Of public sources a run's config has the last word, and ratings that came since count later.
    come_by_themselves = {*SOURCES, *(name for name in ASSETS if ASSETS[name].only_with)}
    taken_over = behind - come_by_themselves - {*made_here, *assistant.settings.store.pins}
    for name in sorted(taken_over):
        version = version_in_use(name, assistant, store)
        if version and (unlike := differences(name, assistant, store, version)):
            raise SettingsError(
                f"{asset} would be made from {name} as run {before} has it, and this would be made "
                f"anew by now: {'; '.join(unlike)}. Run it all ({make_command(assistant.name)}, or "
                "Re-execute all): what didn't change is reused"
            )


def _recipe_now(asset: str, assistant: Assistant, store: Store, version: Version) -> Recipe:
    if asset in SOURCES:
        return source_recipe(asset, store, Asked(), look=False)
    upstream = current_upstream(asset, assistant, store)
    # Whether a run with overrides is promoted is known to that run alone.
    unpromoted = version.manifest.inputs.get("unpromoted_overrides", [])
    return recipe_for(asset, assistant, upstream, store, unpromoted)


def status_lines(assistant: Assistant, store: Store) -> Iterator[str]:
    """The report of `chatllama status NAME`."""
    from chatllama_pipeline.data.own.unread import unread_files

    require_pins(assistant, store)
    statuses = asset_statuses(assistant, store)
    yield f"assistant {assistant.name}   {assistant.config}"
    told = [*assistant.warnings, *unread_files(assistant.folder, assistant.settings)]
    if other := other_folder(store, assistant):
        told.append(f"what is in use was made for another assistant of that name, {other}")
    yield from (f"warning: {warning}" for warning in told)
    yield ""
    yield f"{'asset':<25}{'version':<18}{'rows':>7}  {'made':<17} state"
    for status in statuses:
        rows = "" if status.rows is None else str(status.rows)
        made = status.created[:16].replace("T", " ")
        fresh = "pinned (store.pins)" if status.pinned else "current"
        if status.unlike:
            fresh += f", though a run would differ: {'; '.join(status.unlike)}"
        state = "; ".join(status.stale) if status.stale else status.waits or fresh
        if status.stale and status.version:
            state = f"stale: {state}"
        if status.overrides:
            state += f"  (overrides {json.dumps(status.overrides)})"
        yield f"{status.asset:<25}{status.version or '-':<18}{rows:>7}  {made:<17} {state}"
    yield ""
    yield from _audit_line(assistant, store)
    yield from _release_lines(assistant, store)


def run_lines(assistant: Assistant, store: Store, since: float, now: float) -> Iterator[str]:
    """What the run that began at `since` (seconds since 1970) made, and what came of it."""
    yield f"{'asset':<25}{'version':<18}{'rows':>7}  {'':<7}{'seconds':>8}"
    made, child_seconds = 0, 0.0
    needed = needed_by(assistant.settings)
    for asset in ASSETS:
        owner = owner_of(asset, assistant)
        current = store.current(asset, owner)
        late = current is not None and datetime.fromisoformat(current.at).timestamp() >= since
        # What the assistant doesn't need may have been asked for by name.
        if asset not in needed and (asset in SOURCES or not late):
            yield f"{asset:<25}{current.version if current else ABSENT:<18}{'':>7}  not used"
            continue
        if pin := assistant.settings.store.pins.get(asset):
            yield f"{asset:<25}{pin:<18}{'':>7}  pinned"
            continue
        if current is None or not late:
            continue
        version = store.version(asset, owner, current.version)
        rows = version.manifest.rows if version else None
        verb = "reused" if current.reused else "made"
        made += not current.reused
        child_seconds += current.child_seconds
        yield (
            f"{asset:<25}{current.version:<18}{'' if rows is None else rows:>7}  "
            f"{verb:<7}{current.seconds:>8.1f}"
        )
    yield ""
    seconds = now - since
    line = f"{made} made in {seconds:.1f} s"
    if child_seconds:
        line += f"; child processes {child_seconds:.1f} s, ratio {seconds / child_seconds:.2f}"
    yield line
    yield ""
    yield from _before_and_after(assistant, store)
    yield from _audit_line(assistant, store)
    yield from _release_lines(assistant, store)
    if isinstance(store, RunStore) and store.begun.experiment:
        yield (
            f"an experiment (overrides {json.dumps(store.begun.overrides)}): what is in use stays "
            f"in use. To use this, write them into {assistant.config}, or run again with --promote"
        )


def _before_and_after(assistant: Assistant, store: Store) -> Iterator[str]:
    path = _evaluation_file(assistant, store)
    if path is None:
        return
    figures = json.loads(path.read_text())
    before, after = figures["actor_sft"], figures["actor_ppo"]
    yield f"{'on test prompts':<25}{'before (SFT)':>13}{'after (PPO)':>13}"
    for name, label in (
        ("rubric_score", "judge's score, 0..1"),
        ("names_item", "names the item"),
        ("reward", "reward"),
        ("reply_tokens", "tokens per reply"),
        ("share_finished", "finished"),
    ):
        if before[name] is not None and after[name] is not None:
            yield f"{label:<25}{before[name]:>13.3f}{after[name]:>13.3f}"
    for label, found in (
        ("wins against before", figures),
        ("wins against release", figures.get("over_release")),
    ):
        if found and found["win_rate"] is not None:
            yield (
                f"{label:<25}{'':>13}{found['win_rate']:>13.3f}   "
                f"({found['win_rate_low']:.3f} to {found['win_rate_high']:.3f})"
            )
    yield ""


def _audit_line(assistant: Assistant, store: Store) -> Iterator[str]:
    version = version_in_use("data_audit", assistant, store)
    if version is not None:
        doubts = [check.name for check in version.manifest.checks if not check.passed]
        told = f"   (look at: {', '.join(doubts)})" if doubts else ""
        yield f"data audit: {version.path / AUDIT_PAGE}{told}"


def _release_lines(assistant: Assistant, store: Store) -> Iterator[str]:
    """The verdict, the path of the evaluation, and what to do next."""
    path = _evaluation_file(assistant, store)
    released = version_in_use("release", assistant, store)
    if path is None:
        yield "not evaluated yet; make everything with"
        yield f"  {make_command(assistant.name)}"
        return
    verdict = release_verdict(store, assistant)
    if not verdict.released:
        yield f"HELD BACK: {verdict.reason}"
    elif released is None:
        yield f"to be released with the next run: {verdict.reason}"
    else:
        yield "RELEASED"
        yield f"why:        {verdict.reason}"
    yield f"evaluation: {path}"
    yield f"report:     {path.with_name(REPORT_FILE)}"
    if released:
        yield f"release:    {released.path}"
    yield f"next:       {_next_step(assistant, verdict.released, released is not None)}"


def _next_step(assistant: Assistant, passed: bool, released: bool) -> str:
    talk = f"talk to it with `chatllama chat {assistant.name}`"
    if passed:
        return f"{talk}, or `make chat`" if assistant.name == "quickstart" else talk
    kept = f"; the release before stays: {talk}" if released else ""
    return (
        "read the report; change config.yaml and run again, or release it all the same with "
        f"`chatllama approve {assistant.name}`{kept}"
    )


def make_command(name: str, select: str = "") -> str:
    """What a person types to make all of an assistant, or the assets `select`."""
    return f"chatllama make {name}" + (f" --select {select}" if select else "")


def _evaluation_file(assistant: Assistant, store: Store) -> Path | None:
    version = version_in_use("evaluation", assistant, store)
    return version.path / EVALUATION_FILE if version else None
