"""Which release a candidate is compared with before it may take its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatllama_pipeline.errors import CorruptVersionError
from chatllama_pipeline.settings.folder import Assistant

if TYPE_CHECKING:
    from chatllama_pipeline.store.manifests import Recipe, Version
    from chatllama_pipeline.store.versions import Store

RELEASE = "release"


def incumbent(assistant: Assistant, store: Store, candidate: str) -> str | None:
    """The version of the release in use; None where there is none, or none is compared with.

    Where it was made from this very `candidate` (a version of `release.stage`), it is what the
    candidate was compared with before: so that a model once released is evaluated as it was.
    """
    settings = assistant.settings
    if not settings.release.min_win_rate_over_release:
        return None
    current = store.current(RELEASE, assistant.name)
    wanted = settings.store.pins.get(RELEASE) or (current.version if current else None)
    release = store.version(RELEASE, assistant.name, wanted) if wanted else None
    if release is None:
        return None
    upstream = release.manifest.upstream
    if upstream.get(release.manifest.settings["release.stage"]) != candidate:
        return release.id
    evaluation = store.version("evaluation", assistant.name, upstream["evaluation"])
    return evaluation.manifest.inputs.get(RELEASE) if evaluation else None


def compared_with(recipe: Recipe, store: Store) -> dict[str, Version]:
    """What a version is compared with beside its upstream: the release in its inputs, verified."""
    version = recipe.inputs.get(RELEASE)
    if version is None:
        return {}
    try:
        return {RELEASE: store.read(RELEASE, recipe.assistant, version)}
    except CorruptVersionError as error:
        raise CorruptVersionError(
            f"{error}. Or go back to another release (chatllama rollback {recipe.assistant} "
            "release VERSION), or compare with none (release.min_win_rate_over_release: 0)"
        ) from None
