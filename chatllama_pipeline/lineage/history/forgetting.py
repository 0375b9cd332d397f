"""Forgetting an assistant: what the store holds of it goes, and what stays is told with why."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from chatllama_pipeline.errors import SettingsError, UnknownAssistantError
from chatllama_pipeline.llm.client.cache import AnswerCache, cache_file
from chatllama_pipeline.progress import MEGABYTE
from chatllama_pipeline.settings.folder import (
    NAME,
    assistants_root,
    load_assistant,
    unknown_assistant,
)
from chatllama_pipeline.store.feedback import FeedbackLog
from chatllama_pipeline.store.owned import owned_folders, owners, remove_owned

SENT_AWAY = ("wandb", "mlflow")


def require_known(name: str, root: Path) -> None:
    """Raise UnknownAssistantError where neither a folder nor the store (`root`) knows the name."""
    known = (assistants_root() / name).is_dir() or name in owners(root)
    if not NAME.fullmatch(name) or not known:
        raise unknown_assistant(name)


def what_goes(name: str, root: Path, with_folder: bool) -> list[Path]:
    """The folders that `forget` removes."""
    own = assistants_root() / name
    return owned_folders(root, name) + ([own] if with_folder and own.is_dir() else [])


def forget(name: str, root: Path, with_folder: bool) -> Iterator[str]:
    """Remove all that the store at `root` holds of an assistant; `with_folder` its own files too.

    Tells what went, and what stays and why. Raises StoreError, and removes nothing, while an asset
    of it is being made.
    """
    require_known(name, root)
    trackers = _trackers(name)
    gone = remove_owned(root, name)
    size = sum(size for _, size in gone)
    yield f"removed {len(gone)} folders of {root} with {size / MEGABYTE:.1f} MB of files"
    if ratings := FeedbackLog(root, name).forget():
        yield f"removed {ratings} ratings"
    yield from _forget_answers(name, root)
    own = assistants_root() / name
    if with_folder and own.is_dir():
        shutil.rmtree(own)
        yield f"removed {own}"
    elif own.is_dir():
        yield f"kept {own}: config.yaml and your own data are yours (--folder removes it)"
    yield f"kept the public sources of {root}: they are every assistant's"
    for tracker in trackers:
        yield f"kept what {tracker} was sent: remove it there"


def _forget_answers(name: str, root: Path) -> Iterator[str]:
    path = cache_file(root)
    if not path.exists():
        return
    answers = AnswerCache(path)
    try:
        found = answers.forget(name)
    finally:
        answers.close()
    yield f"removed {found.removed} answers of language models"
    if found.shared:
        yield f"kept {found.shared} answers: other assistants asked the same"
    if found.nobodys:
        yield (
            f"kept {found.nobodys} answers of which nothing says who asked: "
            "`chatllama cache prune` removes them"
        )


def _trackers(name: str) -> list[str]:
    """Trackers outside of the store that the assistant's figures went to."""
    try:
        tracking = load_assistant(name).settings.tracking
    except (SettingsError, UnknownAssistantError):
        return []
    return [tracker for tracker in tracking.trackers if tracker in SENT_AWAY]
