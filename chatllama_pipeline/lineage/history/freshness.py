"""Whether a release is as fresh as its own retraining promises."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from chatllama_pipeline.settings.folder import Assistant

if TYPE_CHECKING:
    from chatllama_pipeline.store.versions import Store

RELEASE = "release"
# Of its own retraining's interval, the longest that a release may have stood.
MOST_INTERVALS = 1.5
# Enough for the nights and weekends of a cron to come round.
TIMES = 64


@dataclass(frozen=True)
class Freshness:
    """Whether a release is fresh; `hours` since a run last made it or found it unchanged."""

    fresh: bool
    hours: float
    most_hours: float
    told: str


def release_freshness(assistant: Assistant, store: Store, now: datetime) -> Freshness:
    """A release older than 1.5 of its longest interval is not fresh.

    What was never released, is pinned, or isn't retrained by itself can't be late.
    """
    retrain = assistant.settings.retrain
    cron = retrain.cron_of(assistant.name)
    current = store.current(RELEASE, assistant.name)
    version = store.current_version(RELEASE, assistant.name)
    if current is None or version is None:
        return Freshness(True, 0.0, 0.0, "nothing was released yet")
    if pin := assistant.settings.store.pins.get(RELEASE):
        return Freshness(True, 0.0, 0.0, f"pinned to {pin} (store.pins)")
    uses = store.uses(RELEASE, assistant.name)
    # Going back makes nothing fresh: it is as old as what was gone back to.
    rolled_back = bool(uses) and uses[-1].how == "rolled back" and uses[-1].at == current.at
    since = datetime.fromisoformat(version.manifest.created if rolled_back else current.at)
    hours = (now - since) / timedelta(hours=1)
    if cron is None:
        return Freshness(True, round(hours, 1), 0.0, "not retrained by itself (retrain.cron)")
    most = MOST_INTERVALS * longest_interval(cron, retrain.timezone, now) / timedelta(hours=1)
    fresh = hours <= most
    told = f"made or found unchanged {hours:.0f} hours ago; {most:.0f} are 1.5 of its interval"
    if not fresh:
        told += (
            ": its retraining fails, is held back, or is switched off (the sensor `retrain`); see "
            f"the runs of {assistant.name}, or chatllama status {assistant.name}"
        )
    return Freshness(fresh, round(hours, 1), round(most, 1), told)


def longest_interval(cron: str, timezone: str, now: datetime) -> timedelta:
    """The longest time between two of the next times of a cron line."""
    from croniter import croniter

    times = croniter(cron, now.astimezone(ZoneInfo(timezone)))
    found = [times.get_next(float) for _ in range(TIMES)]
    return timedelta(seconds=max(after - before for before, after in pairwise(found)))
