"""The whole chain, on a tiny assistant."""

from __future__ import annotations

import json

import yaml

from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.records import TABLE_FILE
from tests.pipeline.place import TINY_CONFIG, Place

# Nobody rated anything.
MADE = set(ASSETS) - {"shp", "hh_rlhf", "release", "feedback"}


def test_every_asset_is_made_with_its_manifest(tiny_run: Place) -> None:
    assert tiny_run.made("tiny") - {"release"} == MADE
    for asset in MADE - {"grammar"}:
        version = tiny_run.store.read(asset, "tiny")
        assert version.manifest.seconds > 0
        assert set(version.manifest.upstream) <= set(ASSETS)
        assert version.manifest.libraries["torch"]


def test_no_process_of_the_run_touched_a_network(tiny_run: Place) -> None:
    assert not (tiny_run.root / "network_attempts").exists()
    guarded = (tiny_run.root / "guarded_processes").read_text()
    assert guarded.count("chatllama_pipeline.launch.stages") >= 6
    assert "asset materialize" in guarded


def test_the_three_datasets_are_also_in_the_originals_formats(tiny_run: Place) -> None:
    columns = {
        "actor_training_data": {"user_input", "completion"},
        "reward_training_data": {"user_input", "completion", "score"},
        "rlhf_training_data": {"user_input"},
    }
    for asset, expected in columns.items():
        folder = tiny_run.store.read(asset, "tiny").path
        rows = json.loads((folder / f"{asset}.json").read_text())
        assert set(rows[0]) == expected
        assert (folder / TABLE_FILE).is_file()


def test_training_makes_something_better(tiny_run: Place) -> None:
    """Few steps of a tiny model: losses fall. What the quickstart reaches is measured apart."""
    curves = json.loads((tiny_run.store.read("actor_sft", "tiny").path / "curves.json").read_text())
    (_, first), (_, last) = curves["loss"][0], curves["validation_loss"][-1]
    assert last < 0.8 * first


def test_run_again_makes_nothing(copied: Place) -> None:
    before = copied.versions("tiny")
    again = copied.materialize("tiny")
    assert again.returncode == 0, again.stderr
    assert copied.made("tiny") == set()
    assert copied.versions("tiny") == before


def test_after_a_change_of_ppo_only_ppo_and_what_follows_is_made(copied: Place) -> None:
    config = yaml.safe_load(TINY_CONFIG)
    config["trainer_config"]["kl_beta"] = 0.1
    copied.add_assistant("tiny", yaml.safe_dump(config))
    run = copied.materialize("tiny")
    assert run.returncode == 0, run.stderr
    assert copied.made("tiny") - {"release"} == {"actor_ppo", "evaluation"}


def test_from_nothing_again_every_asset_has_the_same_version(tiny_run: Place, place: Place) -> None:
    place.add_assistant("tiny", TINY_CONFIG)
    run = place.materialize("tiny")
    assert run.returncode == 0, run.stderr
    assert place.versions("tiny") == tiny_run.versions("tiny")


def test_a_run_with_overrides_is_marked_and_released_only_when_promoted(copied: Place) -> None:
    overrides = {"release.min_win_rate": 0.0}
    before = copied.versions("tiny")
    held = copied.materialize("tiny", "evaluation,release", overrides=overrides)
    assert "HELD BACK" in held.stderr
    assert "release.min_win_rate" in held.stderr
    tried = copied.last_run("tiny").current("evaluation", "tiny")
    assert tried is not None
    assert tried.overrides == overrides
    assert copied.versions("tiny") == before

    promoted = copied.materialize("tiny", "evaluation,release", overrides=overrides, promote=True)
    assert promoted.returncode == 0, promoted.stderr
    verdict = json.loads(
        (copied.store.read("evaluation", "tiny").path / "evaluation.json").read_text()
    )
    assert verdict["released"] == ("HELD BACK" not in promoted.stderr)
    assert "promote" not in verdict["reason"]


def test_force_makes_what_it_names_again_to_the_same_version(copied: Place) -> None:
    before = copied.versions("tiny")
    run = copied.materialize("tiny", "preference_data", force=["preference_data"])
    assert run.returncode == 0, run.stderr
    assert "made version" in run.stderr
    assert copied.versions("tiny") == before


def test_a_damaged_checkpoint_is_found_and_never_read(copied: Place) -> None:
    weights = copied.store.read("actor_sft", "tiny").path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))

    run = copied.materialize("tiny", "actor_ppo", force=["actor_ppo"])
    assert run.returncode != 0
    assert "model.safetensors no longer has the hash of its manifest" in run.stderr
    assert "--select actor_sft --partition tiny" in run.stderr


def test_old_versions_and_old_unfinished_states_go_where_few_are_kept(place: Place) -> None:
    select = "grammar,personal_data,preference_data"
    folder = place.add_assistant("mine", f"{TINY_CONFIG}\nstore: {{keep_versions: 1}}")
    assert place.materialize("mine", select).returncode == 0
    (first,) = place.store.versions("preference_data", "mine")
    unfinished = place.store.root / "_runs" / "preference_data" / "mine" / "of-other-settings"
    unfinished.mkdir(parents=True)

    config = TINY_CONFIG.replace("number_of_samples: 600", "number_of_samples: 500")
    (folder / "config.yaml").write_text(f"{config}\nstore: {{keep_versions: 1}}")
    run = place.materialize("mine", select)
    assert run.returncode == 0, run.stderr
    (second,) = place.store.versions("preference_data", "mine")
    assert second.id != first.id and not unfinished.exists()
    assert f"removed old version {first.id} (store.keep_versions: 1)" in run.stderr
    assert f"removed {unfinished}, of no version that is kept" in run.stderr
