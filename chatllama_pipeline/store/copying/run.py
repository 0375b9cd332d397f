"""Copying versions: which, and then one by one, each whole or not at all.

What stands in the other store is passed over, so a copy that was killed goes on when it is started
again, and one that is started twice doubles nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from chatllama_pipeline.errors import AbsentError, CorruptVersionError
from chatllama_pipeline.store.copying.ends import End
from chatllama_pipeline.store.history import Use
from chatllama_pipeline.store.manifests import Manifest
from chatllama_pipeline.store.remote.bucket import Pointer

MEGABYTE = 10**6


@dataclass(frozen=True)
class Wanted:
    """Which versions; None: all. `version` may be the beginning of an id."""

    assistant: str | None = None
    asset: str | None = None
    version: str | None = None

    @property
    def everything(self) -> bool:
        return self == Wanted()


@dataclass
class Copied:
    """What a copy came to, counted while it goes; `assistants` are those it copied of."""

    copied: int = 0
    there: int = 0
    damaged: int = 0
    assistants: set[str] = field(default_factory=set)


def chosen(manifests: Iterable[Manifest], wanted: Wanted, place: str) -> list[Manifest]:
    """The versions to copy, the oldest first: those wanted, and of an assistant's the public
    sources that they were made from.

    Raises AbsentError where there is none.
    """
    everything = list(manifests)
    found = [one for one in everything if _is_wanted(one, wanted)]
    if not found:
        have = sorted({f"{one.assistant or 'public'}/{one.asset}" for one in everything})
        asked = {k: v for k, v in dataclasses.asdict(wanted).items() if v is not None}
        told = ", ".join(f"{key} {value}" for key, value in asked.items()) or "at all"
        raise AbsentError(
            f"{place} holds no version {told}; it has those of {', '.join(have) or 'nothing'}"
        )
    if wanted.asset is None and wanted.version is None:
        needed = {pair for one in found for pair in one.upstream.items()}
        found += [
            one
            for one in everything
            if one.assistant is None and (one.asset, one.version) in needed and one not in found
        ]
    return sorted(found, key=lambda one: one.created)


def _is_wanted(one: Manifest, wanted: Wanted) -> bool:
    return (
        wanted.assistant in (None, one.assistant)
        and wanted.asset in (None, one.asset)
        and one.version.startswith(wanted.version or "")
    )


def copy(source: End, target: End, wanted: Wanted, counted: Copied) -> Iterator[str]:
    """Copy, and tell each version in a line; a damaged one is told, and the others go on."""
    manifests = chosen(source.manifests(), wanted, source.place)
    target.ready()
    whole = []
    for manifest in manifests:
        whose = f" of {manifest.assistant}" if manifest.assistant else ""
        name = f"{manifest.asset}{whose} {manifest.version}"
        try:
            done = target.take(manifest, source)
        except CorruptVersionError as error:
            counted.damaged += 1
            yield f"DAMAGED  {name}: {error}"
            continue
        whole.append(manifest)
        counted.copied += done
        counted.there += not done
        counted.assistants |= {manifest.assistant} if manifest.assistant else set()
        size = sum(file.size for file in manifest.files) / MEGABYTE
        yield f"{'copied' if done else 'there':<8} {name} ({size:.1f} MB)"
    yield from _join_histories(source, target, whole)
    yield from _copy_approvals(source, target, whole, wanted)


def _join_histories(source: End, target: End, whole: list[Manifest]) -> Iterator[str]:
    for asset, assistant in dict.fromkeys((one.asset, one.assistant) for one in whole):
        came = {one.version for one in whole if (one.asset, one.assistant) == (asset, assistant)}
        theirs = _of_these(source.pointer(asset, assistant), came)
        before = target.pointer(asset, assistant).current
        target.join(asset, assistant, theirs)
        if before and theirs.current and before["version"] != theirs.current["version"]:
            yield (
                f"{asset} of {assistant or 'all'}: {before['version']} stays in use in "
                f"{target.place}; in {source.place} it is {theirs.current['version']}"
            )


def _of_these(pointer: Pointer, versions: set[str]) -> Pointer:
    """What a pointer says of some versions alone; the run that made one is no run of the copy's."""
    uses: list[Use] = [use for use in pointer.uses if use.version in versions]
    current = pointer.current
    if current is None or current["version"] not in versions:
        return Pointer(None, uses)
    return Pointer({**current, "run": "", "began": "", "folder": ""}, uses)


def _copy_approvals(
    source: End, target: End, whole: list[Manifest], wanted: Wanted
) -> Iterator[str]:
    ids = {one.version for one in whole}
    names = [
        name
        for name in source.approvals()
        if wanted.everything or name.partition("/")[2].partition(".")[0] in ids
    ]
    added = 0
    for name in sorted(names):
        data = source.approval(name)
        added += data is not None and target.add_approval(name, data)
    if added:
        yield f"copied   {added} approvals and rejections"
