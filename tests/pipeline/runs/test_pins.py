"""`store.pins`: a version that a person chose, in runs, in what the store hands out, in status."""

from __future__ import annotations

import json
import logging

import dagster as dg
import pytest
import yaml

from chatllama_pipeline.definitions import definitions
from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.lineage.recipes import read_in_use
from chatllama_pipeline.lineage.status import asset_statuses, run_lines, status_lines
from chatllama_pipeline.settings.folder import load_assistant
from chatllama_pipeline.store.versions import Store

DATA = "actor_training_data"
BEFORE = ("personal_data", "preference_data", "synthetic_conversations")
# The definitions were loaded with this one; its folder here is another.
NAME = "quickstart"


def write(store: Store, rows: int, **pins: str) -> None:
    folder = store.root.parent / "assistants" / NAME
    (folder / "datasets").mkdir(exist_ok=True, parents=True)
    config = {"data": {"sources": [], "validation_share": 0.2}, "store": {"pins": pins}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    table = [{"user_input": f"What is {n}?", "completion": f"It is {n}."} for n in range(rows)]
    (folder / "datasets" / f"{DATA}.json").write_text(json.dumps(table))


def materialize(*assets: str) -> list[str]:
    """Returns what the run warned of."""
    with dg.DagsterInstance.ephemeral() as instance:
        made = dg.materialize(
            definitions.assets or [],
            selection=list(assets),
            partition_key=NAME,
            resources=definitions.resources,
            instance=instance,
        )
        logged = instance.all_logs(made.run_id)
        return [entry.user_message for entry in logged if entry.level == logging.WARNING]


@pytest.fixture
def two_versions(store: Store) -> tuple[str, str]:
    """An older and a newer version of the actor's data."""
    found = []
    for rows in (20, 30):
        write(store, rows)
        materialize(*BEFORE, DATA)
        found.append(store.read(DATA, NAME).id)
    assert found[0] != found[1]
    return found[0], found[1]


def test_a_pinned_asset_is_its_pin_whatever_changed(
    store: Store, two_versions: tuple[str, str]
) -> None:
    older, newer = two_versions
    write(store, 40, **{DATA: older})
    materialize(*BEFORE, DATA)
    # Nothing was made, and the newest is what an end of the pin goes back to.
    assert len(store.versions(DATA, NAME)) == 2
    current = store.current(DATA, NAME)
    assert current is not None and current.version == newer
    mine = load_assistant(NAME)
    assert read_in_use(DATA, mine, store).id == older
    [status] = [s for s in asset_statuses(mine, store) if s.asset == DATA]
    assert (status.version, status.pinned, status.stale) == (older, True, [])
    for lines in (status_lines(mine, store), run_lines(mine, store, 0.0, 1.0)):
        [line] = [line for line in lines if line.startswith(f"{DATA} ")]
        assert older in line and "pinned" in line


def test_a_pin_of_a_version_of_other_settings_says_what_differs(
    store: Store, two_versions: tuple[str, str]
) -> None:
    write(store, 30, **{DATA: two_versions[1]})
    config = store.root.parent / "assistants" / NAME / "config.yaml"
    said = yaml.safe_load(config.read_text())
    said["data"]["actor_replies"] = "both"
    config.write_text(yaml.safe_dump(said))
    told = 'though a run would differ: data.actor_replies "chosen" -> "both"'
    [line] = [line for line in status_lines(load_assistant(NAME), store) if line.startswith(DATA)]
    assert line.endswith(told)
    logged = materialize(DATA)
    assert f"{DATA}: pinned, {told}" in logged


def test_a_pin_of_a_version_that_there_is_not_lists_those_there_are(
    store: Store, two_versions: tuple[str, str]
) -> None:
    write(store, 20, **{DATA: "deadbeef"})
    for kind, use in (
        (dg.Failure, lambda: materialize(DATA)),
        (SettingsError, lambda: list(status_lines(load_assistant(NAME), store))),
    ):
        with pytest.raises(kind, match=f"{DATA} has no version deadbeef; those") as told:
            use()
        assert all(version in str(told.value) for version in two_versions)


def test_a_pin_of_an_unknown_asset_stops_the_run_before_anything_is_made(store: Store) -> None:
    write(store, 20, actor_pppo="deadbeef")
    with pytest.raises(dg.Failure, match=r"no asset of that name; did you mean actor_ppo\?"):
        materialize("personal_data")
    assert store.versions("personal_data", NAME) == []
