"""Whatever is killed of a running service: it goes on, and what it makes is what it always was."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest

from chatllama_pipeline.launch.cores import AT_WORK
from chatllama_pipeline.launch.shared import VARIABLE, those_standing
from chatllama_pipeline.store.manifests import SHARED, Version
from resources.signs_of_life import signs_folder
from tests.automation.kills.servers import CONFIG, KINDS, Service
from tests.pipeline.place import REPOSITORY, TINY_CONFIG, Place
from tests.waiting import wait_until

NAME = "tiny"
VICTIMS = (*KINDS.values(), "rank")
# Seconds from when all is at work to the next kill, at most.
BETWEEN = 12.0


@pytest.fixture(autouse=True)
def leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "leases"
    monkeypatch.setenv(VARIABLE, str(folder))
    return folder


@pytest.fixture
def service(tmp_path: Path, leases: Path) -> Iterator[Service]:
    place = Place(tmp_path / "killed")
    place.add_assistant(NAME, TINY_CONFIG)
    started = Service(place)
    try:
        yield started
    finally:
        started.kill_all()


def made_in_peace(root: Path) -> Place:
    """A place where nobody disturbed the same chain."""
    place = Place(root)
    place.add_assistant(NAME, TINY_CONFIG)
    config = json.dumps({"loggers": {"console": {}}, **CONFIG})
    # Ranks meet on loopback, which the guard on the usual path refuses.
    environment = {**place.environment(), "PYTHONPATH": str(REPOSITORY)}
    command = [*place.command(NAME)[:-1], config]
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True)
    return place


def at_work(service: Service) -> bool:
    """Whether all kinds but ranks, which only trainings have, are alive."""
    service.start()
    return service.processes().keys() >= set(KINDS.values())


def kill_one(service: Service, chance: random.Random) -> list[str]:
    """Kill a process of a kind chosen among those alive; the kind, if it was still there."""
    alive = service.processes()
    kinds = sorted(alive.keys() & set(VICTIMS))
    try:
        kind = chance.choice(kinds)
        chance.choice(alive[kind]).kill()
    except (IndexError, psutil.NoSuchProcess):
        return []
    return [kind]


def kill_many(
    service: Service, instance: dg.DagsterInstance, kills: int, chance: random.Random
) -> None:
    """Kill at random moments of a service at work; a run that isn't tried again is asked for."""
    killed, began = Counter[str](), time.monotonic()
    while killed.total() < kills:
        if not service.unfinished(instance):
            service.launch(NAME)
        wait_until(lambda: at_work(service) or not service.unfinished(instance))
        time.sleep(chance.uniform(0, BETWEEN))
        killed.update(kill_one(service, chance))
    print(f"killed {dict(killed)} in {time.monotonic() - began:.0f} s")


def every_version(place: Place) -> Iterator[Version]:
    """All that were ever published, in use or not."""
    for folder in place.store.root.glob("[!_]*/*/versions"):
        owner = folder.parent.name
        asset = folder.parent.parent.name
        yield from place.store.versions(asset, None if owner == SHARED else owner)


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize(("kills", "seed"), [(30, 30)])
def test_after_many_kills_of_anything_the_next_run_makes_what_one_in_peace_did(
    service: Service, leases: Path, tmp_path: Path, kills: int, seed: int
) -> None:
    with dg.DagsterInstance.from_config(str(service.home)) as instance:
        kill_many(service, instance, kills, random.Random(seed))
        wait_until(lambda: not service.unfinished(instance))
        run = service.launch(NAME)
        wait_until(lambda: not service.unfinished(instance))
        last = instance.get_run_by_id(run)
        assert last is not None and last.status == dg.DagsterRunStatus.SUCCESS
        assert list(signs_folder(instance).iterdir()) == []
    service.stop()  # fails where anything stays

    assert list(those_standing(leases / AT_WORK)) == []
    for version in every_version(service.place):
        assert list(version.damaged()) == [], version.name
    assert list(service.place.store.root.glob("_runs/*/*/*")) == []
    peace = made_in_peace(tmp_path / "peace")
    assert service.place.versions(NAME) == peace.versions(NAME)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_service_killed_as_a_whole_amid_a_run_ends_it_and_tries_it_again(
    service: Service,
) -> None:
    with dg.DagsterInstance.from_config(str(service.home)) as instance:
        lost = service.launch(NAME)
        wait_until(lambda: service.processes().get("rank"), lambda: "for a rank at work")
        service.kill_all()
        wait_until(lambda: not service.processes(), lambda: f"for {service.processes()}")
        wait_until(lambda: not service.unfinished(instance), lambda: "for the second try")
        first, second = instance.get_run_by_id(lost), instance.get_runs(limit=1)[0]
        assert first is not None and first.status == dg.DagsterRunStatus.FAILURE
        assert second.parent_run_id == lost and second.is_success
    assert {"actor_ppo", "evaluation"} <= set(service.place.versions(NAME))
    for version in every_version(service.place):
        assert list(version.damaged()) == [], version.name
