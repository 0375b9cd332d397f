"""Whether a release is as fresh as its own retraining promises."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from chatllama_pipeline.lineage.history.freshness import longest_interval, release_freshness
from chatllama_pipeline.lineage.history.rollback import go_back, plan_rollback
from chatllama_pipeline.settings.folder import load_assistant
from chatllama_pipeline.store.manifests import Version
from chatllama_pipeline.store.versions import Store
from tests.lineage.conftest import write_config

NOW = datetime(2026, 3, 3, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "hours"),
    [
        ("0 3 * * 1", 168),
        ("0 3 * * *", 24),
        # Over the weekend, and over the night.
        ("0 3 * * 1-5", 72),
        ("0 9-17 * * *", 16),
    ],
)
def test_the_longest_interval_of_a_cron_counts(cron: str, hours: int) -> None:
    assert longest_interval(cron, "UTC", NOW) == timedelta(hours=hours)


def test_an_hour_more_or_less_by_summer_time_is_taken_as_it_is() -> None:
    assert longest_interval("0 3 * * *", "Europe/Berlin", datetime(2026, 10, 1, tzinfo=UTC)) in (
        timedelta(hours=24),
        timedelta(hours=25),
    )


def fresh(store: Store, hours: float) -> bool:
    """Whether the release in use is fresh so many hours from now."""
    later = datetime.now(UTC) + timedelta(hours=hours)
    return release_freshness(load_assistant("mine"), store, later).fresh


def test_a_release_is_fresh_up_to_one_and_a_half_of_its_interval(
    store: Store, two_releases: tuple[Version, Version]
) -> None:
    write_config(store.root.parent, "retrain: {cron: '0 3 * * *'}")
    assert fresh(store, 35.9) and not fresh(store, 36.1)
    late = release_freshness(load_assistant("mine"), store, datetime.now(UTC) + timedelta(days=9))
    assert "made or found unchanged 216 hours ago; 36 are 1.5 of its interval" in late.told
    assert "chatllama status mine" in late.told


def test_what_cannot_be_late_is_fresh(store: Store, two_releases: tuple[Version, Version]) -> None:
    root = store.root.parent
    write_config(root, "retrain: {cron: never}")
    assert fresh(store, 9999)
    write_config(root, f"store: {{pins: {{release: {two_releases[0].id}}}}}")
    assert fresh(store, 9999)


def test_nothing_released_is_not_late(store: Store) -> None:
    assert fresh(store, 9999)


def test_going_back_makes_a_release_no_fresher(
    store: Store, two_releases: tuple[Version, Version]
) -> None:
    mine = load_assistant("mine")
    go_back(mine, store, plan_rollback(mine, store, "release", None, False), by="anna")
    made = datetime.fromisoformat(two_releases[0].manifest.created)
    found = release_freshness(mine, store, made + timedelta(hours=5))
    assert found.hours == 5.0
