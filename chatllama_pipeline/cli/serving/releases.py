"""The release that a command is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatllama_pipeline.settings.folder import Assistant
    from chatllama_pipeline.store.manifests import Version
    from chatllama_pipeline.store.versions import Store


def asked_release(assistant: Assistant, store: Store, number: str | None) -> Version:
    """Version `number` of the release, that in use for None, every file verified.

    Raises AbsentError, CorruptVersionError.
    """
    from chatllama_pipeline.lineage.recipes import read_in_use
    from chatllama_pipeline.serving.wanted import named_versions

    if number is None:
        return read_in_use("release", assistant, store)
    return named_versions([number], assistant.name, store)[0].version
