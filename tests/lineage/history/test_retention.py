"""`chatllama prune`: what goes by count and age, and what never does."""

from __future__ import annotations

import fcntl
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner

from chatllama_pipeline.cli.main import cli
from chatllama_pipeline.lineage.history.retention import (
    freed_bytes,
    old_of,
    old_of_assistant,
    old_sources,
)
from chatllama_pipeline.lineage.history.rollback import go_back, plan_rollback
from chatllama_pipeline.settings import StoreSettings
from chatllama_pipeline.settings.folder import load_assistant
from chatllama_pipeline.store.manifests import Version
from chatllama_pipeline.store.versions import Store
from tests.lineage.conftest import Make, write_config

NOW = datetime.now(UTC) + timedelta(days=3)
BIG = "x" * 5000


def ids(store: Store, asset: str, owner: str | None = "mine") -> list[str]:
    return [version.id for version in store.versions(asset, owner)]


def told(*arguments: str) -> list[str]:
    done = CliRunner().invoke(cli, ["prune", *arguments], catch_exceptions=False)
    return done.output.splitlines()


def test_by_default_ten_versions_of_an_asset_stay(make: Make, store: Store) -> None:
    made = [make("actor_sft", str(n)).id for n in range(12)]
    assert told("mine")[-1].startswith("2 versions were removed, ")
    assert ids(store, "actor_sft") == made[:1:-1]


@pytest.mark.parametrize(("days", "count"), [(0, 3), (2, 3), (4, 0)])
def test_what_is_young_stays_however_much_there_is(
    make: Make, store: Store, days: int, count: int
) -> None:
    for n in range(4):
        make("actor_sft", str(n))
    rule = StoreSettings(keep_versions=1, keep_days=days)
    assert len(old_of("actor_sft", "mine", store, rule, set(), NOW).versions) == count


def test_a_dry_run_removes_nothing_and_tells_what_would_go_and_be_freed(
    make: Make, store: Store
) -> None:
    old, _ = make("actor_sft", BIG), make("actor_sft", "small")
    lines = told("mine", "--dry-run", "--keep-versions", "1")
    assert lines[0].startswith(f"actor_sft of mine: version {old.id}, made 20")
    assert lines[1:] == ["1 versions would be removed, 0.0 MB"]
    assert old.id in ids(store, "actor_sft")


def test_what_is_released_pinned_and_upstream_of_those_stays(
    make: Make, store: Store, two_releases: tuple[Version, Version]
) -> None:
    older, newer = two_releases
    mine = load_assistant("mine")
    go_back(mine, store, plan_rollback(mine, store, "release", None, False), by="anna")
    pinned = make("actor_sft", "pinned")
    make("actor_sft", "newer")
    make("actor_ppo", "three")
    write_config(store.root.parent, f"store: {{pins: {{actor_sft: {pinned.id}}}}}")
    told("mine", "--keep-versions", "1")
    # The release that was gone back to, what it was made from, and what is current.
    assert older.id in ids(store, "release")
    assert set(older.manifest.upstream.values()) <= {
        *ids(store, "evaluation"),
        *ids(store, "actor_ppo"),
    }
    assert newer.manifest.upstream["evaluation"] in ids(store, "evaluation")
    assert pinned.id in ids(store, "actor_sft")


def test_only_what_nothing_else_has_is_freed(make: Make, store: Store) -> None:
    rule = StoreSettings(keep_versions=1)
    make("actor_base", BIG)
    make("actor_base", "small")
    old = old_of("actor_base", "mine", store, rule, set(), NOW)
    alone = freed_bytes(store, [old])
    assert len(BIG) <= alone < 2 * len(BIG)
    # The same bytes in a version that stays.
    folder = store.root / "elsewhere"
    folder.mkdir()
    (folder / "word.txt").hardlink_to(old.versions[0].path / "word.txt")
    assert freed_bytes(store, [old]) == 0


def test_a_public_source_s_version_stays_while_anything_was_made_from_it(
    make: Make, store: Store
) -> None:
    first = make("grammar", "one", owner=None)
    second = make("grammar", "two", owner=None)
    make("preference_data", "one", {"grammar": first.id}, owner="another")
    make("grammar", "three", owner=None)
    rule = StoreSettings(keep_versions=1)
    gone = [version.id for old in old_sources(store, rule, NOW) for version in old.versions]
    assert gone == [second.id]


def test_null_keeps_all(make: Make, store: Store) -> None:
    for n in range(12):
        make("actor_sft", str(n))
    rule = StoreSettings(keep_versions=None)
    assert all(not o.versions for o in old_of_assistant(load_assistant("mine"), store, rule, NOW))


def test_who_cannot_be_read_or_is_at_work_is_told_and_left_alone(make: Make, store: Store) -> None:
    for name in ("mine", "broken", "gone"):
        for n in range(2):
            make("actor_sft", str(n), owner=name)
    write_config(store.root.parent, "seeed: 1", "broken")
    with (store.root / "actor_sft" / "mine" / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lines = told("--keep-versions", "1")
    assert lines[0].startswith("broken: nothing is pruned, since its settings say what is pinned: ")
    assert lines[1] == "mine: nothing is pruned while actor_sft is being made"
    assert lines[-1].startswith("gone has no folder any more: chatllama forget gone")
    assert all(len(ids(store, "actor_sft", name)) == 2 for name in ("mine", "broken", "gone"))
