"""An assistant is a folder: its key comes and goes with it, whoever asks first."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.partitions import ASSISTANTS, NAME
from chatllama_pipeline.automation.folders import assistant_folders
from chatllama_pipeline.automation.keys import assistants
from chatllama_pipeline.definitions import definitions
from chatllama_pipeline.errors import SettingsError, UnknownAssistantError
from tests.automation.ticks import Ticks, going, write
from tests.quick import quick_instance


def known(instance: dg.DagsterInstance) -> list[str]:
    return sorted(instance.get_dynamic_partitions(NAME))


def test_keys_follow_the_folders_and_broken_or_misnamed_ones_are_told(
    root: Path, instance: dg.DagsterInstance
) -> None:
    ticks = Ticks(instance, assistants)
    assert ticks.tick() == ([], "every folder is an assistant")
    assert known(instance) == ["quickstart"]
    write(root, "mine", "sed: 1")
    write(root, "My-Own", "seed: 0")
    why = ticks.tick()[1]
    assert known(instance) == ["mine", "quickstart"]
    assert "mine/config.yaml: unknown key sed; did you mean 'seed'?" in why
    assert "'My-Own' is no assistant's name (lower-case letters" in why
    shutil.rmtree(root / "mine")
    shutil.rmtree(root / "My-Own")
    assert ticks.tick() == ([], "every folder is an assistant")
    assert known(instance) == ["quickstart"]


def test_the_folder_sensor_adds_a_key_and_asks_for_its_run_in_one_tick(
    root: Path, instance: dg.DagsterInstance
) -> None:
    ticks = Ticks(instance, assistant_folders)
    assert ticks.tick()[0] == []
    write(root, "mine", "seed: 0")
    ticks.tick()
    instance.delete_dynamic_partition(NAME, "mine")
    assert ticks.tick()[0] == ["mine"]
    assert known(instance) == ["mine", "quickstart"]
    shutil.rmtree(root / "mine")
    ticks.tick()
    assert known(instance) == ["quickstart"]


def test_a_key_stays_while_a_run_of_it_goes_on_though_its_folder_is_gone(
    root: Path, instance: dg.DagsterInstance
) -> None:
    ticks = Ticks(instance, assistants)
    ticks.tick()
    run = going(instance, "quickstart")
    shutil.rmtree(root / "quickstart")
    assert f"quickstart has no folder any more, but run {run.run_id}" in ticks.tick()[1]
    assert known(instance) == ["quickstart"]
    instance.delete_run(run.run_id)
    ticks.tick()
    assert known(instance) == []


def test_a_place_that_is_not_there_takes_no_key_away(
    root: Path, instance: dg.DagsterInstance
) -> None:
    ticks = Ticks(instance, assistants)
    ticks.tick()
    root.rename(root.with_name("unmounted"))
    with pytest.raises(SettingsError, match="there is no folder"):
        ticks.tick()
    assert known(instance) == ["quickstart"]


def test_whoever_names_an_assistant_first_adds_its_key(
    root: Path, instance: dg.DagsterInstance
) -> None:
    with dg.partition_loading_context(dynamic_partitions_store=instance) as context:
        ASSISTANTS.validate_partition_key("quickstart", context)
        assert known(instance) == ["quickstart"]
        instance.add_dynamic_partitions(NAME, ["nobody"])
        with pytest.raises(UnknownAssistantError, match=r"those under .*: quickstart"):
            ASSISTANTS.validate_partition_key("nobody", context)


def test_many_who_name_an_assistant_at_once_all_find_its_key(root: Path) -> None:
    refused: list[Exception] = []
    shutil.rmtree(root / "quickstart")
    names = [f"mine_{number}" for number in range(10)]
    for name in names:
        write(root, name, "seed: 0")

    def ask(ref: Any) -> None:
        with (
            dg.DagsterInstance.from_ref(ref) as own,
            dg.partition_loading_context(dynamic_partitions_store=own) as context,
        ):
            for name in names:
                try:
                    ASSISTANTS.validate_partition_key(name, context)
                except Exception as error:
                    refused.append(error)

    with quick_instance() as instance:
        askers = [threading.Thread(target=ask, args=[instance.get_ref()]) for _ in range(4)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
        assert refused == []
        assert known(instance) == names


def test_an_assistant_of_which_nobody_knows_is_made_on_a_throw_away_instance(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "storage"))
    job = definitions.resolve_implicit_global_asset_job_def()
    selection = [dg.AssetKey("personal_data")]
    assert job.execute_in_process(partition_key="quickstart", asset_selection=selection).success
    with pytest.raises(UnknownAssistantError):
        job.execute_in_process(partition_key="nobody", asset_selection=selection)


def test_a_run_ends_well_whose_key_is_deleted_meanwhile(
    root: Path, instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "storage"))

    @dg.asset(partitions_def=ASSISTANTS, key="grammar")
    def deletes(context) -> None:  # type: ignore[no-untyped-def]
        context.instance.delete_dynamic_partition(NAME, context.partition_key)

    made = dg.materialize(
        [deletes, definitions.get_assets_def("personal_data")],
        partition_key="quickstart",
        instance=instance,
        resources=definitions.resources,
    )
    assert made.success
    assert known(instance) == []
    wanted = dg.AssetRecordsFilter(dg.AssetKey("personal_data"), asset_partitions=["quickstart"])
    assert len(instance.fetch_materializations(wanted, limit=1).records) == 1
