"""What Dagster calls unsynced, what `status` calls stale, and what a run makes are the same."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from assets.runs.standing import tell
from assets.specs import CHECK_NAMES
from chatllama_pipeline.definitions import definitions
from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.lineage.status import asset_statuses
from chatllama_pipeline.settings.folder import load_assistant
from chatllama_pipeline.store.feedback import FeedbackLog
from chatllama_pipeline.store.versions import Store
from tests.data.rated import edit, entries

NAME = "mine"
LAST = "actor_training_data"
CHAIN = ("personal_data", "preference_data", "synthetic_conversations", "synthetic_prompts", LAST)
CHECKS = [(asset, name) for asset in CHAIN for name, _ in CHECK_NAMES[asset]]


class Here:
    """An assistant's folder, its store, and an instance of Dagster that sees both."""

    def __init__(
        self,
        root: Path,
        instance: dg.DagsterInstance,
        tiny_base: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.definitions, self.tiny_base, self.monkeypatch = definitions, tiny_base, monkeypatch
        self.folder, self.store = root / "assistants" / NAME, Store(root / "storage")
        self.instance = instance
        self.settings: dict[str, Any] = {"data": {"sources": [], "validation_share": 0.2}}
        (self.folder / "datasets").mkdir(parents=True)
        self.write(rows=40)

    def write(self, rows: int | None = None, **changes: Any) -> None:
        for key, value in changes.items():
            section, name = key.split("__")
            self.settings.setdefault(section, {})[name] = value
        (self.folder / "config.yaml").write_text(yaml.safe_dump(self.settings))
        if rows is not None:
            table = [
                {"user_input": f"What is {n}?", "completion": f"It is {n}, says n{n}@example.org."}
                for n in range(rows)
            ]
            (self.folder / "datasets" / f"{LAST}.json").write_text(json.dumps(table))

    def run(self, *assets: str) -> set[str]:
        """Runs the chain, or `assets`; returns what was made rather than reused."""
        result = dg.materialize(
            self.definitions.assets or [],
            selection=list(assets or CHAIN),
            partition_key=NAME,
            resources=definitions.resources,
            instance=self.instance,
        )
        found = [
            event.step_materialization_data.materialization
            for event in result.get_asset_materialization_events()
        ]
        return {
            each.asset_key.to_user_string()
            for each in found
            if "reused" in each.metadata and not each.metadata["reused"].value
        }

    def versions(self) -> dict[str, str]:
        return {asset: self.store.read(asset, NAME).id for asset in CHAIN}

    def stale(self) -> set[str]:
        statuses = asset_statuses(load_assistant(NAME), self.store)
        return {each.asset for each in statuses if each.asset in CHAIN and each.stale}

    def unsynced(self) -> set[str]:
        """What the page of Dagster would show as unsynced or missing, once it looked."""
        tell(self.instance, load_assistant(NAME), self.store)
        resolver = CachingStaleStatusResolver(
            self.instance,
            self.definitions.resolve_asset_graph(),
            LoadingContextForTest(self.instance),
        )
        statuses = {asset: resolver.get_status(dg.AssetKey(asset), NAME) for asset in CHAIN}
        return {asset for asset, status in statuses.items() if status != StaleStatus.FRESH}

    def checks(self) -> dict[str, bool]:
        """The checks that Dagster's page shows results of, and whether they passed."""
        loading, found = LoadingContextForTest(self.instance), {}
        for asset, name in CHECKS:
            key = dg.AssetCheckKey(dg.AssetKey(asset), name)
            storage = self.instance.event_log_storage
            [last] = storage.get_asset_check_execution_history(key, 1)
            if last.evaluation and asyncio.run(last.targets_latest_materialization(loading)):
                found[f"{asset}.{name}"] = last.evaluation.passed
        return found


@pytest.fixture
def here(tmp_path: Path, tiny_base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(tmp_path / "assistants"))
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "storage"))
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("assistant", [NAME])
        yield Here(tmp_path, instance, tiny_base_folder, monkeypatch)


def pin(here: Here) -> None:
    version = here.store.current(LAST, NAME)
    assert version is not None
    here.write(store__pins={LAST: version.version}, data__actor_replies="both")


def pin_before(here: Here) -> None:
    """A version that isn't the current one: what was made from another is made again."""
    older = here.store.current("personal_data", NAME)
    here.write(rows=50)
    here.run()
    assert older is not None
    here.write(store__pins={"personal_data": older.version})


def template(here: Here) -> None:
    (here.folder / "templates.json").write_text(json.dumps({"actor": "It knows numbers."}))


def local_model(here: Here) -> None:
    """The tokenizer by which rows are measured is another."""
    shutil.copytree(here.tiny_base, here.folder / "model")
    here.write(actor_config__model=str(here.folder / "model"), data__max_length=64)
    here.run()
    assert here.unsynced() == set() == here.stale()
    file = here.folder / "model" / "tokenizer.json"
    file.write_text(file.read_text() + "\n")


def code_version(here: Here) -> None:
    """As where the definitions are loaded again, of other code."""
    raised = dataclasses.replace(ASSETS[LAST], code_version="1000")
    here.monkeypatch.setitem(ASSETS, LAST, raised)

    def of_it(spec: dg.AssetSpec) -> dg.AssetSpec:
        mine = spec.key == dg.AssetKey(LAST)
        return spec.replace_attributes(code_version="1000") if mine else spec

    assets = [each.map_asset_specs(of_it) for each in definitions.assets or []]
    here.definitions = dg.Definitions(assets=assets, resources=definitions.resources)


CHANGES: dict[str, tuple[Callable[[Here], None], set[str]]] = {
    "nothing": (lambda here: None, set()),
    "a setting of everything": (lambda here: here.write(data__redact=["email"]), set(CHAIN)),
    "a setting of the last": (lambda here: here.write(data__actor_replies="both"), {LAST}),
    "own rows": (lambda here: here.write(rows=50), set(CHAIN)),
    "a pin of what is in use": (pin, set()),
    "a pin of what was in use before": (pin_before, set(CHAIN) - {"personal_data"}),
    "a template": (template, set(CHAIN)),
    "a local model": (local_model, {"preference_data", LAST}),
    "the code of the last": (code_version, {LAST}),
    "a setting of no asset": (lambda here: here.write(retrain__cron="5 4 * * 1"), set()),
}


# A pin holds what later changes would make stale; all others are made to one assistant, in turn.
PINS = [[change] for change in CHANGES if "pin" in change]
IN_TURN = [change for change in CHANGES if "pin" not in change]


@pytest.mark.parametrize("changes", [IN_TURN, *PINS], ids=["in turn", *(one for (one,) in PINS)])
def test_dagster_status_and_a_run_agree_on_what_a_change_makes_stale(
    here: Here, changes: list[str]
) -> None:
    assert here.unsynced() == set(CHAIN) == here.stale()
    here.run()
    assert here.unsynced() == set() == here.stale()
    for change in changes:
        make, stale = CHANGES[change]
        make(here)
        assert here.stale() == stale, change
        assert here.unsynced() == stale, change
        assert here.run() <= stale, change
        assert here.unsynced() == set() == here.stale(), change


def test_they_agree_on_ratings_that_wait_and_on_those_that_are_learned_from(here: Here) -> None:
    here.write(feedback__min_new=4)
    chain, log = ("feedback", *CHAIN), FeedbackLog(here.store.root, NAME)
    said = entries(*(edit(f"Why {n}?", "No.", f"Yes, {n}.") for n in range(8)))
    assert here.run(*chain) == set(CHAIN)
    versions = here.versions()
    for few in (said[:0], said[:3]):
        log.add(few)
        assert here.unsynced() == set() == here.stale()
        assert here.run(*chain) == set()
    assert here.versions() == versions and not (here.store.root / "feedback").exists()
    log.add(said)
    stale = {"preference_data", LAST}
    assert here.unsynced() == stale == here.stale()
    assert here.run(*chain) == {"feedback", *stale}
    assert here.unsynced() == set() == here.stale()
    assert here.run(*chain) == set()
    log.delete(ids=[said[0].id])
    assert here.unsynced() == stale == here.stale()


def test_the_results_of_checks_are_shown_on_though_a_setting_of_others_changed(here: Here) -> None:
    here.run()
    made = here.checks()
    assert made.keys() == {f"{asset}.{name}" for asset, name in CHECKS}
    here.write(actor_config__lr=0.5)
    assert here.unsynced() == set()
    assert here.checks() == made
