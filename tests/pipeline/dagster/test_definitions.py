"""The code location: it loads cheaply, shows every asset, and survives a broken assistant."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import grimp
import pytest
import yaml
from dagster._core.instance.config import PoolGranularity

from assets.specs import ASSISTANT, CHECK_NAMES, CHECK_TEXTS, OWNERS
from chatllama_pipeline.data.sources.catalog import SOURCES
from chatllama_pipeline.definitions import definitions
from chatllama_pipeline.launch import STAGES
from chatllama_pipeline.lineage.assets import ASSETS
from tests.quick import quick_instance
from tests.waiting import PATIENCE

REPOSITORY = Path(__file__).parents[3]
# What of the engine the definitions need: rooms that declare something, modules, and packages that
# name it in their `__init__` alone.
DECLARING = ("automation", "lineage.declaring", "settings")
NEEDED = {
    *("definitions", "errors", "gpus", "home"),
    *("lineage.assets", "lineage.history.freshness", "lineage.neutral"),
    *("data", "evaluation", "launch", "lineage", "lineage.history", "models", "models.memory"),
    *("training", *DECLARING),
}
# What a run does, or a sensor's tick: imported there.
DOING = ("assets.runs", "chatllama_pipeline.automation.looking", "resources.running")
LOADING = """
import json, sys
import dagster
before = set(sys.modules)
import chatllama_pipeline.definitions
from chatllama_pipeline import settings
sections = [kind for kind in vars(settings).values() if hasattr(kind, "model_fields")]
loaded = sorted(set(sys.modules) - before)
built = [kind.__name__ for kind in sections if kind.__pydantic_complete__]
print(json.dumps({"loaded": loaded, "sections": len(sections), "built": built}))
"""
HOME = REPOSITORY / "dagster_home" / "dagster.yaml"
BY_RUN = PoolGranularity.RUN


def in_a_new_process(program: str, **variables: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **{key: str(value) for key, value in variables.items()}}
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.fixture(scope="module")
def loading() -> dict[str, Any]:
    """What a new process that has Dagster already gets by loading the definitions."""
    loaded = in_a_new_process(LOADING)
    assert loaded.returncode == 0, loaded.stderr
    found: dict[str, Any] = json.loads(loaded.stdout)
    return found


def test_loading_the_definitions_brings_no_package_that_dagster_does_without(
    loading: dict[str, Any],
) -> None:
    packages = {module.split(".")[0] for module in loading["loaded"]} - sys.stdlib_module_names
    assert packages - {"dagster"} == {"assets", "chatllama_pipeline", "resources"}


def test_loading_the_definitions_imports_what_declares_and_nothing_that_does_the_work(
    loading: dict[str, Any],
) -> None:
    engine = "chatllama_pipeline."
    ours = {name[len(engine) :] for name in loading["loaded"] if name.startswith(engine)}
    rooms = tuple(f"{room}." for room in DECLARING)
    assert {name for name in ours - NEEDED if not name.startswith(rooms)} == set()
    assert [name for name in loading["loaded"] if name.startswith(DOING)] == []


def test_loading_the_definitions_builds_no_validator_of_a_section(loading: dict[str, Any]) -> None:
    assert loading["sections"] > 20
    assert loading["built"] == []


def test_the_engine_has_never_heard_of_dagster() -> None:
    # Read, not run: what a function imports counts as well.
    imports = grimp.build_graph(
        "chatllama_pipeline", include_external_packages=True, cache_dir=None
    )
    importing = imports.find_modules_that_directly_import("dagster")
    assert {module.split(".")[1] for module in importing} == {"definitions", "automation"}


def test_every_asset_has_its_group_owners_kinds_description_and_place() -> None:
    graph = definitions.resolve_asset_graph()
    assert {key.to_user_string() for key in graph.materializable_asset_keys} == set(ASSETS)
    assert graph.observable_asset_keys == {dg.AssetKey(ASSISTANT)}
    for key in graph.materializable_asset_keys:
        node = graph.get(key)
        name = key.to_user_string()
        assert node.group_name != "default", name
        assert list(node.owners) == OWNERS, name
        assert node.kinds, name
        assert node.description, name
        assert node.code_version == ASSETS[name].code_version, name
        own = set() if name in SOURCES else {ASSISTANT}
        parents = {parent.to_user_string() for parent in node.parent_keys}
        assert parents == set(ASSETS[name].upstream) | own, name
        assert (node.partitions_def is None) == (name in SOURCES), name
        declared = {dotted.split(".")[0] for dotted in ASSETS[name].settings}
        assert all(f"- `{section}`" in node.description for section in declared), name


def test_every_asset_links_to_the_lines_that_build_it_and_declare_it() -> None:
    graph = definitions.resolve_asset_graph()
    for key in graph.materializable_asset_keys:
        name = key.to_user_string()
        built, declared = graph.get(key).metadata["dagster/code_references"].code_references
        lines = [Path(link.file_path).read_text().splitlines() for link in (built, declared)]
        declaration = " ".join(lines[1][declared.line_number - 1 :][:2])
        assert re.search(rf'\(\s*("{name}"|{name.upper()}),', declaration), name
        line = lines[0][built.line_number - 1]
        assert line.lstrip().startswith(("def ", "@")), name
        assert "/making.py" not in built.file_path, name


def test_the_stages_are_counted_in_the_pool_of_gpus_by_run() -> None:
    pools = {name: definitions.get_assets_def(name).op.pool for name in ASSETS}
    assert {name for name, pool in pools.items() if pool == "gpu"} == set(STAGES)
    with quick_instance(overrides=yaml.safe_load(HOME.read_text())) as instance:
        assert instance.get_concurrency_config().pool_config.pool_granularity is BY_RUN


def test_every_check_has_a_description_and_the_partitions_of_its_asset() -> None:
    graph = definitions.resolve_asset_graph()
    found = list(graph.asset_check_keys)
    assert found
    for key in found:
        check = graph.get_check_spec(key)
        assert check.description, key
        shared = key.asset_key.to_user_string() in SOURCES
        assert (check.partitions_def is None) == shared, key
    named = {name for checks in CHECK_NAMES.values() for name, _ in checks}
    assert named == set(CHECK_TEXTS)


def test_the_jobs_are_the_originals_types() -> None:
    selected = {
        name: {
            key.to_user_string()
            for key in definitions.resolve_job_def(name).asset_layer.executable_asset_keys
        }
        for name in ("audit", "reward", "actor", "rl", "all")
    }
    assert selected["all"] == set(ASSETS)
    assert selected["rl"] == {"actor_ppo", "evaluation", "release"}
    assert {"data_audit", "reward_training_data"} <= selected["audit"]
    assert not {"actor_base", "reward_base"} & selected["audit"]
    assert "reward_model" in selected["reward"]
    assert "actor_sft" not in selected["reward"]
    assert "actor_sft" in selected["actor"]
    assert "reward_model" not in selected["actor"]


def test_two_hundred_assistants_and_a_broken_one_load_without_a_look_at_any(tmp_path: Path) -> None:
    config = (REPOSITORY / "assistants" / "quickstart" / "config.yaml").read_text()
    for number in range(200):
        (tmp_path / f"mine_{number}").mkdir()
        (tmp_path / f"mine_{number}" / "config.yaml").write_text(config)
    (tmp_path / "mine_7" / "config.yaml").write_text("seed: [")
    program = """
import json, sys
from tests.opened import opened_files
with opened_files() as opened:
    from chatllama_pipeline.definitions import definitions
    definitions.get_repository_def().load_all_definitions()
print(json.dumps([str(path) for path in opened]))
"""
    loaded = in_a_new_process(program, CHATLLAMA_ASSISTANTS=tmp_path)
    assert loaded.returncode == 0, loaded.stderr
    opened = [Path(path) for path in json.loads(loaded.stdout)]
    # The file itself, or what Python keeps of it compiled.
    assert any(path.name.partition(".")[0] == "definitions" for path in opened)
    assert [path for path in opened if path.is_relative_to(tmp_path)] == []


def test_a_service_started_elsewhere_finds_the_assistants_and_the_store_of_the_checkout(
    tmp_path: Path,
) -> None:
    program = """
import assets.partitions
from chatllama_pipeline.settings.folder import assistant_names
from chatllama_pipeline.store.versions import store_root
print(assistant_names(), store_root())
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    for variable in ("CHATLLAMA_ASSISTANTS", "CHATLLAMA_STORE"):
        environment.pop(variable, None)

    def found() -> str:
        command = [sys.executable, "-c", program]
        return subprocess.check_output(command, cwd=tmp_path, env=environment, text=True).strip()

    assert found() == f"['quickstart'] {REPOSITORY / 'storage'}"
    (tmp_path / "assistants" / "mine").mkdir(parents=True)
    assert found() == f"['mine'] {tmp_path / 'storage'}"


def test_a_place_without_assistants_is_an_error_of_the_location(tmp_path: Path) -> None:
    loaded = in_a_new_process(
        "import chatllama_pipeline.definitions", CHATLLAMA_ASSISTANTS=tmp_path / "nowhere"
    )
    assert f"there is no folder {tmp_path / 'nowhere'}: make it" in loaded.stderr


def test_what_starts_runs_by_itself_starts_stopped() -> None:
    for sensor in definitions.sensors or []:
        status = (
            dg.DefaultSensorStatus.STOPPED if sensor.has_jobs else dg.DefaultSensorStatus.RUNNING
        )
        assert sensor.default_status == status, sensor.name
    assert not definitions.schedules
