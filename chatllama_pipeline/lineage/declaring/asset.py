"""How an asset says what it is made from: the graph, fingerprints and status follow from that."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatllama_pipeline.lineage.neutral import NEUTRAL
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.settings.folder import Assistant
from chatllama_pipeline.settings.limited import limited_to


@dataclass(frozen=True)
class Given:
    """What a run asks an asset to be made from, for the inputs that follow from it.

    `upstream` maps assets to versions; `unpromoted` are the overrides that nobody promoted.
    """

    assistant: Assistant
    store_root: Path
    upstream: Mapping[str, str]
    unpromoted: list[str]


@dataclass(frozen=True)
class Input:
    """What else counts, under its name in the manifest: hashes of files, a person's word.

    `find` says what it is now. `settings` are those that it is found by: they count through it
    alone. Where there is nothing, only one that is `always` told of stands in the fingerprint.
    """

    name: str
    find: Callable[[Given], Any]
    settings: tuple[str, ...] = ()
    always: bool = True


def _nothing(settings: AssistantSettings) -> Collection[str]:
    return ()


@dataclass(frozen=True)
class Asset:
    """What a version of an asset is made from.

    `code_version` is raised by hand whenever the asset's code gives another result for the same
    inputs. `upstream` are the assets whose payloads it reads, `unused` those of them that don't
    count for an assistant. `settings` are the dotted keys that its result depends on, `also_reads`
    those that it reads without depending on them, though other assets do, `uncounted` those of
    `settings` that don't count for an assistant. Without the input `only_with` there is nothing to
    make; whoever reads such an asset does without, then.
    """

    name: str
    code_version: str
    upstream: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    inputs: tuple[Input, ...] = ()
    also_reads: tuple[str, ...] = ()
    unused: Callable[[AssistantSettings], Collection[str]] = field(default=_nothing)
    uncounted: Callable[[AssistantSettings], Collection[str]] = field(default=_nothing)
    only_with: str | None = None

    @property
    def readable(self) -> list[str]:
        """The settings that its build may read: those that count, and those that change nothing."""
        found_by = {key for each in self.inputs for key in each.settings}
        return sorted({*self.settings, *self.also_reads, *found_by, *NEUTRAL})

    def limited(self, settings: AssistantSettings) -> AssistantSettings:
        """`settings` as its build gets them: to read one that isn't declared is an error."""
        return limited_to(settings, self.readable)

    def counted(self, settings: AssistantSettings) -> dict[str, Any]:
        """The settings that count for an assistant, with their values."""
        uncounted = self.uncounted(settings)
        return {key: settings.at(key) for key in self.settings if key not in uncounted}

    def made_from(self, settings: AssistantSettings) -> dict[str, Any]:
        """Its code version and the settings that count, with their values."""
        return {"code version": self.code_version, **self.counted(settings)}

    def upstream_for(self, settings: AssistantSettings) -> list[str]:
        """The upstream assets whose versions count for an assistant of these settings."""
        unused = self.unused(settings)
        return [name for name in self.upstream if name not in unused]


def keys(section: str, names: str) -> tuple[str, ...]:
    """Dotted keys of a section, its names apart by spaces."""
    return tuple(f"{section}.{name}" for name in names.split())
