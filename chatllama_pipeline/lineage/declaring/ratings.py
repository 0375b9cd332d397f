"""Which ratings of an assistant's log count, and how many wait to be learned from.

The votes of blind trials don't: they are on test prompts, which nothing is trained on, and whoever
carries a trial out doesn't replace the candidate by that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from chatllama_pipeline.errors import StoreError
from chatllama_pipeline.lineage.declaring.asset import Given
from chatllama_pipeline.settings.folder import Assistant

if TYPE_CHECKING:
    from chatllama_pipeline.store.feedback import Entry
    from chatllama_pipeline.store.versions import Store

FEEDBACK, LOG = "feedback", "log"
_OF_NO_TRIAL = ""


class Waiting(NamedTuple):
    """How many ratings came after number `held`, the last that the current version was made from,
    and the number of the last."""

    new: int
    last: int
    held: int


def waiting_ratings(assistant: str, store_root: Path) -> Waiting:
    """What came since the current version of `feedback`; all there is where there is none."""
    from chatllama_pipeline.store.feedback import FeedbackLog
    from chatllama_pipeline.store.versions import Store

    version = Store(store_root).current_version(FEEDBACK, assistant)
    held = int(version.manifest.inputs[LOG]["up_to"]) if version else 0
    beyond = FeedbackLog(store_root, assistant).beyond(held, _OF_NO_TRIAL)
    return Waiting(beyond.added, beyond.last, held)


def told_waiting(assistant: Assistant, store: Store) -> str:
    """What is told of ratings that aren't learned from yet."""
    least = assistant.settings.feedback.min_new
    if least is None:
        return "not learned from (feedback.min_new: null)"
    waiting = waiting_ratings(assistant.name, store.root)
    return f"{waiting.new} of the {least} ratings that it takes (feedback.min_new)"


def counted_log(given: Given) -> dict[str, Any] | None:
    """The ratings that the next version is made from, as the fingerprint has them.

    All of them where `feedback.min_new` have come since the current version, else those that it
    was made from, without those that were deleted since. None where that is no version and too few.
    """
    least, name = given.assistant.settings.feedback.min_new, given.assistant.name
    waiting = waiting_ratings(name, given.store_root)
    enough = least is not None and waiting.new >= least
    up_to = waiting.last if enough else waiting.held
    if not up_to:
        return None
    return _described(_entries(name, given.store_root, up_to), up_to)


def counted_entries(counted: Mapping[str, Any], assistant: str, store_root: Path) -> list[Entry]:
    """The entries that `counted_log` described; StoreError where they changed since."""
    entries = _entries(assistant, store_root, counted["up_to"])
    if _described(entries, counted["up_to"]) != counted:
        raise StoreError(f"ratings of {assistant} were deleted while they were read: run it again")
    return entries


def _entries(assistant: str, store_root: Path, up_to: int) -> list[Entry]:
    from chatllama_pipeline.store.feedback import FeedbackLog

    return FeedbackLog(store_root, assistant).entries(up_to=up_to, trial=_OF_NO_TRIAL)


def _described(entries: Sequence[Entry], up_to: int) -> dict[str, Any]:
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(json.dumps([entry.id, entry.visit, entry.content]).encode() + b"\n")
    return {"up_to": up_to, "ratings": len(entries), "sha256": digest.hexdigest()}
