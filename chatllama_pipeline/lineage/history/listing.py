"""The versions of an assistant's assets as people ask for them: listed, named, compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from chatllama_pipeline.errors import AbsentError, SettingsError
from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.lineage.history.changes import Change, brief, changes, summary
from chatllama_pipeline.lineage.recipes import meant_asset, owner_of, version_in_use
from chatllama_pipeline.progress import MEGABYTE
from chatllama_pipeline.settings.data import SOURCES
from chatllama_pipeline.settings.folder import Assistant
from chatllama_pipeline.store.history import Use
from chatllama_pipeline.store.manifests import Manifest, Version
from chatllama_pipeline.store.versions import Store

# Whose word stands in the manifest of an evaluation.
GATE = "release_gate"
_INDENT = " " * 18


@dataclass(frozen=True)
class Listed:
    """One version beside the one that was made before it.

    `use` is how it last became current; None where it never did, or nobody wrote it down.
    `usd` is what models were paid for making it, None where their price is unknown.
    """

    version: Version
    in_use: bool
    pinned: bool
    released: bool
    use: Use | None
    first: bool
    changes: list[Change]
    usd: float | None
    verdict: str

    @property
    def states(self) -> list[str]:
        """What it is to its assistant, in words; none for one that only stands there."""
        found = []
        if self.in_use:
            since = f" since {minute(self.use.at)} ({self.use.how})" if self.use else ""
            found.append(f"in use{'' if self.pinned else since}")
        if self.pinned:
            found.append("pinned (store.pins)")
        if self.released:
            found.append("released")
        return found


def require_asset(asset: str) -> str:
    """`asset`, if there is one of that name; else SettingsError with what may be meant."""
    if asset not in ASSETS:
        raise SettingsError(f"there is no asset {asset}; {meant_asset(asset)}")
    return asset


def used_assets(assistant: Assistant) -> list[str]:
    """The assets that an assistant uses, in the order in which they are made."""
    sources = assistant.settings.data.sources
    return [asset for asset in ASSETS if asset not in SOURCES or asset in sources]


def named_version(asset: str, assistant: Assistant, store: Store, text: str) -> Version:
    """The one version whose id begins with `text`; AbsentError lists those there are."""
    versions = store.versions(asset, owner_of(asset, assistant))
    found = [version for version in versions if text and version.id.startswith(text)]
    if len(found) != 1:
        have = ", ".join(version.id for version in versions) or "none"
        fault = "several versions begin with" if found else "has no version"
        told = f"of {asset} {fault}" if found else f"{asset} of {assistant.name} {fault}"
        raise AbsentError(f"{told} {text}; those there are: {have}")
    return found[0]


def two_versions(
    asset: str, assistant: Assistant, store: Store, before: str | None, after: str | None
) -> tuple[Version, Version]:
    """The two versions that `chatllama diff` compares; raises AbsentError.

    Without `after` it is the one in use, without `before` the one made before that.
    """
    if after is not None:
        second = named_version(asset, assistant, store, after)
    else:
        used = version_in_use(asset, assistant, store)
        if used is None:
            raise AbsentError(f"{asset} was never made for {assistant.name}")
        second = used
    if before is not None:
        return named_version(asset, assistant, store, before), second
    versions = store.versions(asset, owner_of(asset, assistant))
    older = versions[[version.id for version in versions].index(second.id) + 1 :]
    if not older:
        raise AbsentError(f"{second.name} is the first that stands: there is none before it")
    return older[0], second


def listed(asset: str, assistant: Assistant, store: Store) -> list[Listed]:
    """Every version of an asset, newest first."""
    owner = owner_of(asset, assistant)
    versions = store.versions(asset, owner)
    used = version_in_use(asset, assistant, store)
    pin = assistant.settings.store.pins.get(asset)
    uses = {use.version: use for use in store.uses(asset, owner)}
    released = release_chain(assistant, store).get(asset, set())
    found = []
    for n, version in enumerate(versions):
        before = versions[n + 1] if n + 1 < len(versions) else None
        found.append(
            Listed(
                version=version,
                in_use=used is not None and used.id == version.id,
                pinned=pin == version.id,
                released=version.id in released,
                use=uses.get(version.id),
                first=before is None,
                changes=changes(before.manifest, version.manifest) if before else [],
                usd=paid(version.manifest),
                verdict=verdict(version.manifest),
            )
        )
    return found


def release_chain(assistant: Assistant, store: Store) -> dict[str, set[str]]:
    """Asset -> versions that the release in use was made from, itself among them."""
    chain: dict[str, set[str]] = {}
    release = version_in_use("release", assistant, store)
    waiting = [("release", release.id)] if release else []
    while waiting:
        asset, wanted = waiting.pop()
        version = store.version(asset, owner_of(asset, assistant), wanted)
        if version is not None and wanted not in chain.setdefault(asset, set()):
            chain[asset].add(wanted)
            waiting.extend(version.manifest.upstream.items())
    return chain


def paid(manifest: Manifest) -> float | None:
    """US dollars that models were paid for a version; None where their price is unknown."""
    usd = manifest.metrics.get("llm_usd", 0.0)
    return None if usd == "unknown" else float(usd)


def size(version: Version) -> int:
    """Bytes of the payload; the store keeps the same bytes of other versions once."""
    return sum(file.size for file in version.manifest.files)


def verdict(manifest: Manifest) -> str:
    """The gate's word, of an evaluation; "" of all else."""
    for check in manifest.checks:
        if check.name == GATE:
            return ("passed: " if check.passed else "HELD BACK: ") + check.description
    return ""


def minute(at: str) -> str:
    """A time of the store's (ISO, UTC) to the minute."""
    return at[:16].replace("T", " ")


def version_lines(assistant: Assistant, store: Store, assets: list[str]) -> Iterator[str]:
    """The report of `chatllama versions NAME [ASSET]`."""
    yield f"{'version':<18}{'made (UTC)':<18}{'seconds':>9}{'usd':>9}{'MB':>10}  state"
    for asset in assets:
        found = listed(asset, assistant, store)
        yield f"{asset}" + ("" if found else "  never made")
        for one in found:
            manifest = one.version.manifest
            usd = "unknown" if one.usd is None else f"{one.usd:.4f}" if one.usd else ""
            yield (
                f"{one.version.id:<18}{minute(manifest.created):<18}{manifest.seconds:>9.1f}"
                f"{usd:>9}{size(one.version) / MEGABYTE:>10.2f}  {', '.join(one.states)}"
            ).rstrip()
            yield _INDENT + ("the first" if one.first else summary(one.changes) or "nothing else")
            if one.verdict:
                yield _INDENT + one.verdict


def diff_lines(before: Version, after: Version) -> Iterator[str]:
    """The report of `chatllama diff NAME ASSET`: what differs, a line each."""
    found = changes(before.manifest, after.manifest)
    width = max([len(change.key) for change in found], default=0) + 2
    yield f"{after.manifest.asset}: {before.id} -> {after.id}"
    if not found:
        yield "no difference but in files, times and money"
    kind = ""
    for change in found:
        if change.kind != kind:
            kind = change.kind
            yield kind
        yield f"  {change.key:<{width}}{brief(change.before, 40):<42}{brief(change.after, 40)}"
