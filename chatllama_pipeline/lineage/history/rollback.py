"""Going back to a version that was in use before: a release alone, or with the chain behind it.

Settings are not touched, so a run makes of them what it always would. What keeps a release where a
person put it is that the model behind the one it left counts as rejected from then on: runs hold it
back, however it is evaluated, until another model is made or a person approves this one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chatllama_pipeline.errors import AbsentError, CorruptVersionError, SettingsError
from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.lineage.history.listing import minute, named_version
from chatllama_pipeline.lineage.recipes import owner_of
from chatllama_pipeline.settings.data import SOURCES
from chatllama_pipeline.settings.folder import Assistant
from chatllama_pipeline.store.approvals import accept, reject
from chatllama_pipeline.store.manifests import Version
from chatllama_pipeline.store.versions import Store

RELEASE = "release"


@dataclass(frozen=True)
class Move:
    """An asset that goes from the version `before` (None: from none) to `version`."""

    before: str | None
    version: Version

    @property
    def asset(self) -> str:
        return self.version.manifest.asset


def plan_rollback(
    assistant: Assistant, store: Store, asset: str, wanted: str | None, chain: bool
) -> list[Move]:
    """What goes back, upstream first, each version verified file by file.

    Without `wanted` it is the newest version that was in use and was made before the present one.
    With `chain` all that it was made from goes back as well, but for public sources, which are
    other assistants' too. Raises SettingsError for a pinned asset, AbsentError where a version is
    gone, CorruptVersionError where it is damaged; each says what else can be done.
    """
    target = _target(assistant, store, asset, wanted)
    found = {asset: target}
    waiting = deque(target.manifest.upstream.items() if chain else ())
    while waiting:
        # The nearest first: the same payload made again from something else tells of that alone.
        name, wanted_id = waiting.popleft()
        if name not in SOURCES and name not in found:
            found[name] = _behind(assistant, store, name, wanted_id, target)
            waiting.extend(found[name].manifest.upstream.items())
    moves = []
    for name in (name for name in ASSETS if name in found):
        current = store.current(name, assistant.name)
        before = current.version if current else None
        if before != found[name].id:
            _require_unpinned(assistant, name)
            _require_whole(assistant, store, found[name], alone=name == asset)
            moves.append(Move(before, found[name]))
    if not moves:
        raise AbsentError(f"{target.name} is in use already: nothing to go back to")
    return moves


def go_back(assistant: Assistant, store: Store, moves: Sequence[Move], by: str) -> None:
    """Make each version of `moves` current, and reject the model of the release that was left."""
    name = assistant.name
    for move in moves:
        if move.asset == RELEASE:
            kept, left = _model_of(move.version), store.current_version(RELEASE, name)
            if left is not None and _model_of(left) != kept:
                reject(store.root, name, _model_of(left), by, move.version.id)
            accept(store.root, name, kept)
        store.roll_back(move.version)


def rollback_lines(assistant: Assistant, store: Store, moves: Sequence[Move]) -> Iterator[str]:
    """What goes back, and what comes next."""
    for move in moves:
        made = minute(move.version.manifest.created)
        yield f"{move.asset}: {move.before or 'none'} -> {move.version.id} (made {made})"
    others = [move for move in moves if move.asset != RELEASE]
    for release in (move for move in moves if move.asset == RELEASE):
        left = store.version(RELEASE, assistant.name, release.before) if release.before else None
        if left is not None and _model_of(left) == _model_of(release.version):
            yield (
                f"both releases are of the model {_model_of(left)}: the next run makes of it what "
                f"{assistant.config} says; to stay with this one, put its settings back, or write "
                f"store: {{pins: {{release: {release.version.id}}}}}"
            )
            continue
        yield (
            "the release stays there: the next run holds back the one that it left, and releases "
            "what it makes anew once the gate lets it pass; to have the one it left again: "
            f"chatllama approve {assistant.name}"
        )
    if others:
        pins = ", ".join(f"{move.asset}: {move.version.id}" for move in others)
        yield (
            f"the next run follows {assistant.config} again; to stay with these, put its settings "
            f"back, or write store: {{pins: {{{pins}}}}}"
        )


def _target(assistant: Assistant, store: Store, asset: str, wanted: str | None) -> Version:
    if asset in SOURCES:
        raise SettingsError(
            f"{asset} is shared by all assistants and can't be rolled back for one; pin it: "
            f"store: {{pins: {{{asset}: VERSION}}}} in {assistant.config}"
        )
    _require_unpinned(assistant, asset)
    if wanted is not None:
        try:
            return named_version(asset, assistant, store, wanted)
        except AbsentError as error:
            raise AbsentError(f"{error}{_known_once(assistant, store, asset, wanted)}") from None
    current = store.current_version(asset, assistant.name)
    if current is None:
        raise AbsentError(f"{asset} was never made for {assistant.name}: nothing to go back to")
    was_used = {use.version for use in store.uses(asset, assistant.name)}
    for version in store.versions(asset, assistant.name):
        older = version.manifest.created < current.manifest.created
        if older and (version.id in was_used or not was_used):
            return version
    raise AbsentError(
        f"{asset} of {assistant.name} has no version before {current.id}"
        f"{_known_once(assistant, store, asset, '')}"
    )


def _known_once(assistant: Assistant, store: Store, asset: str, wanted: str) -> str:
    """For the end of an error: that such a version was in use and is gone; "" if none was."""
    there = {version.id for version in store.versions(asset, assistant.name)}
    for use in reversed(store.uses(asset, assistant.name)):
        if use.version.startswith(wanted) and use.version not in there:
            return (
                f". {use.version} was in use from {minute(use.at)} and was removed since: bring "
                f"{store.root / asset / assistant.name / 'versions' / use.version} back from a "
                "backup, or put its settings back and make it again"
            )
    return ""


def _behind(
    assistant: Assistant, store: Store, asset: str, wanted: str, target: Version
) -> Version:
    version = store.version(asset, owner_of(asset, assistant), wanted)
    if version is None:
        raise AbsentError(
            f"{target.name} was made from {wanted} of {asset}, which is gone"
            f"{_known_once(assistant, store, asset, wanted)}. Without --chain it goes back alone"
        )
    return version


def _require_unpinned(assistant: Assistant, asset: str) -> None:
    if pin := assistant.settings.store.pins.get(asset):
        raise SettingsError(
            f"{assistant.config}: store.pins.{asset}: {pin} is what is used whatever is rolled "
            "back; change the pin, or remove it"
        )


def _require_whole(assistant: Assistant, store: Store, version: Version, alone: bool) -> None:
    asset = version.manifest.asset
    for file in store.mend(version):
        others = [v.id for v in store.versions(asset, assistant.name) if v.id != version.id]
        cure = (
            f"roll back to another version ({', '.join(others) or 'there is none'})"
            if alone
            else "roll back without --chain"
        )
        found = "is missing" if not (version.path / file.path).is_file() else "is damaged"
        raise CorruptVersionError(
            f"{version.name} can't be gone back to: {version.path / file.path} {found}. Bring it "
            f"back from a backup, or {cure}"
        )


def _model_of(release: Version) -> str:
    """The version of the model that a release was made from."""
    stage = release.manifest.settings["release.stage"]
    return release.manifest.upstream[stage]
