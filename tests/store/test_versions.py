"""The store: versions, publishing after checks, reuse, damage, and what a crash leaves."""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from chatllama_pipeline.errors import AbsentError, CheckError, CorruptVersionError, StoreError
from chatllama_pipeline.records import Check, Curve, Outcome
from chatllama_pipeline.store.manifests import PayloadFile, payload_version
from chatllama_pipeline.store.versions import Build, Store, Workbench
from chatllama_pipeline.store.views import begin_run
from tests.store.recipes import never, prune, recipe, writes
from tests.waiting import PATIENCE


def test_a_version_is_the_hash_of_its_paths_and_contents() -> None:
    # sha256("a\0" + "11" + "\n" + "b\0" + "22" + "\n"), first 16 digits.
    files = [PayloadFile("b", 9, "22"), PayloadFile("a", 1, "11")]
    assert payload_version(files) == "8d6be472c8298e24"


def test_a_version_is_published_with_its_manifest_and_becomes_current(store: Store) -> None:
    made = store.make(recipe(), writes("w"), overrides={"seed": 1}, force=False)

    found = store.read("actor_sft", "mine")
    assert found.id == made.version.id
    assert (found.path / "weights" / "model.bin").read_text() == "w"
    assert found.manifest.rows == 3
    assert found.manifest.upstream == {"actor_base": "aa"}
    assert found.manifest.overrides == {"seed": 1}
    assert found.manifest.curves == [Curve("loss", [(1, 2.0)])]
    assert [file.path for file in found.manifest.files] == ["weights/model.bin"]


def test_the_same_recipe_returns_the_old_version_without_building(store: Store) -> None:
    first = store.make(recipe(), writes("w"), {}, force=False)
    again = store.make(recipe(), never, {}, force=False)

    assert again.reused
    assert again.version.id == first.version.id


def test_force_builds_again_though_nothing_changed(store: Store) -> None:
    store.make(recipe(), writes("w"), {}, force=False)
    with pytest.raises(AssertionError, match="built again"):
        store.make(recipe(), never, {}, force=True)


@pytest.mark.parametrize(
    "change",
    [
        {"code_version": "2"},
        {"upstream": {"actor_base": "bb"}},
        {"settings": {"seed": 1, "actor_config.lr": 0.1}},
        {"inputs": {"files": {"a.json": "00"}}},
    ],
)
def test_whatever_a_version_is_made_from_changes_its_fingerprint(change: dict[str, object]) -> None:
    assert recipe(**change).fingerprint != recipe().fingerprint


def test_going_back_to_old_settings_finds_the_old_version(store: Store) -> None:
    old = store.make(recipe(), writes("old"), {}, force=False)
    store.make(recipe(code_version="2"), writes("new"), {}, force=False)
    back = store.make(recipe(), never, {}, force=False)

    assert back.version.id == old.version.id
    assert store.read("actor_sft", "mine").id == old.version.id


def test_the_same_payload_from_another_recipe_stays_one_version(store: Store) -> None:
    store.make(recipe(), writes("w"), {}, force=False)
    other = store.make(recipe(code_version="2"), writes("w"), {}, force=False)

    assert not other.reused
    assert len(store.versions("actor_sft", "mine")) == 1
    assert store.read("actor_sft", "mine").manifest.code_version == "2"


def test_what_failed_a_blocking_check_is_never_current(store: Store) -> None:
    good = store.make(recipe(), writes("good"), {}, force=False)
    failed = Check("finite_loss", False, True, 3, 0, "3 losses were not finite")
    with pytest.raises(CheckError, match="actor_sft: 3 losses were not finite") as caught:
        store.make(recipe(code_version="2"), writes("bad", failed), {}, force=False)

    assert caught.value.checks == [failed]
    assert store.read("actor_sft", "mine").id == good.version.id
    assert len(store.versions("actor_sft", "mine")) == 1


def test_a_failed_warning_is_published_with_its_numbers(store: Store) -> None:
    warning = Check("enough_rows", False, False, 3, 1000, "only 3 rows")
    made = store.make(recipe(), writes("w", warning), {}, force=False)
    assert store.read("actor_sft", "mine").manifest.checks == [warning]
    assert made.version.manifest.checks == [warning]


def flip_a_byte(path: Path) -> None:
    """Change one byte; size and times stay."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_file_changed_by_a_byte_is_found_by_its_hash_and_never_used(folder: Store) -> None:
    made = folder.make(recipe(), writes("w"), {}, force=False)
    damaged = made.version.path / "weights" / "model.bin"
    flip_a_byte(damaged)

    with pytest.raises(CorruptVersionError, match=r"model\.bin no longer has the hash") as caught:
        folder.read("actor_sft", "mine")
    assert "--select actor_sft --partition mine" in str(caught.value)

    again = folder.make(recipe(), writes("w"), {}, force=False)
    assert not again.reused
    assert again.version.id == made.version.id
    assert damaged.read_text() == "w"
    folder.read("actor_sft", "mine")


def test_a_missing_file_is_named(folder: Store) -> None:
    made = folder.make(recipe(), writes("w"), {}, force=False)
    (made.version.path / "weights" / "model.bin").unlink()
    with pytest.raises(CorruptVersionError, match=r"model\.bin is missing"):
        folder.read("actor_sft", "mine")


def test_a_folder_without_a_manifest_is_no_version(folder: Store) -> None:
    made = folder.make(recipe(), writes("w"), {}, force=False)
    (made.version.path / "manifest.json").unlink()

    assert folder.versions("actor_sft", "mine") == []
    with pytest.raises(AbsentError):
        folder.read("actor_sft", "mine")
    assert not folder.make(recipe(), writes("w"), {}, force=False).reused


def test_what_was_never_made_says_what_to_do(store: Store) -> None:
    with pytest.raises(
        AbsentError, match="actor_sft of assistant mine was never made; materialize"
    ):
        store.read("actor_sft", "mine")


def test_a_pin_reads_an_old_version_and_an_unknown_pin_lists_those_there_are(store: Store) -> None:
    old = store.make(recipe(), writes("old"), {}, force=False).version
    new = store.make(recipe(code_version="2"), writes("new"), {}, force=False).version

    assert store.read("actor_sft", "mine", pin=old.id).id == old.id
    with pytest.raises(AbsentError, match=f"no version 0000.*{new.id}, {old.id}"):
        store.read("actor_sft", "mine", pin="0000")


def half_written(store: Store) -> list[Path]:
    return [path for path in (store.root / "_staging").rglob("*") if path.is_file()]


def test_what_a_killed_writer_left_is_no_part_of_the_next_version(store: Store) -> None:
    left = store.root / "_staging" / "actor_sft" / "mine" / "half"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    made = store.make(recipe(), writes("w"), {}, force=False)
    assert [file.path for file in made.version.manifest.files] == ["weights/model.bin"]
    assert half_written(store) == []


def test_a_build_that_dies_leaves_nothing_but_its_private_run_folder(store: Store) -> None:
    def dies(bench: Workbench) -> Outcome:
        (bench.output / "half").write_text("half")
        (bench.run_folder / "state").write_text("step 3")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.make(recipe(), dies, {}, force=False)

    assert store.versions("actor_sft", "mine") == []
    assert half_written(store) == []
    run_folder = store.run_folder(recipe())
    assert (run_folder / "state").read_text() == "step 3"
    assert run_folder.stat().st_mode & 0o777 == 0o700


def test_the_run_folder_goes_when_the_version_is_published(store: Store) -> None:
    store.make(recipe(), writes("w"), {}, force=False)
    assert list((store.root / "_runs" / "actor_sft" / "mine").iterdir()) == []


def test_a_full_disk_publishes_nothing_and_says_what_to_do(store: Store) -> None:
    kept = store.make(recipe(), writes("kept"), {}, force=False)
    # The kernel refuses to let a file grow past this: a write fails in the middle of the payload.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(StoreError, match="Nothing was published; free space there"):
            store.make(recipe(code_version="2"), writes("x" * 10_000), {}, force=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert store.read("actor_sft", "mine").id == kept.version.id
    assert half_written(store) == []


def test_two_makers_of_one_asset_wait_for_each_other(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from chatllama_pipeline.store.versions import Store
        from chatllama_pipeline.store.manifests import Recipe
        from chatllama_pipeline.records import Outcome

        root, started = Path(sys.argv[1]), Path(sys.argv[2])

        def build(bench):
            with started.open("a") as log:
                log.write("built\\n")
            time.sleep(0.5)
            (bench.output / "payload").write_text("same")
            return Outcome()

        made = Store(root).make(Recipe("grammar", None, "1", {}, {}, {}), build, {}, force=False)
        print(made.reused)
    """)
    started = tmp_path / "started"
    command = [sys.executable, "-c", program, str(tmp_path / "storage"), str(started)]
    makers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = sorted(maker.communicate(timeout=PATIENCE)[0].strip() for maker in makers)

    assert answers == ["False", "True"]
    assert started.read_text() == "built\n"


def test_pruning_keeps_the_newest_and_those_in_use(store: Store) -> None:
    versions = [
        store.make(recipe(code_version=str(n)), writes(str(n)), {}, force=False).version.id
        for n in range(4)
    ]
    removed = prune(store, "actor_sft", "mine", keep=1, needed=frozenset({versions[0]}))

    assert sorted(removed) == sorted(versions[1:3])
    assert {version.id for version in store.versions("actor_sft", "mine")} == {
        versions[0],
        versions[3],
    }


def test_sweeping_removes_old_logs_and_states_that_no_version_has(store: Store) -> None:
    def follow(number: int) -> Build:
        def build(bench: Workbench) -> Outcome:
            bench.logs.mkdir(parents=True)
            (bench.logs / "events").touch()
            return writes(str(number))(bench)

        return build

    def fails(bench: Workbench) -> Outcome:
        (bench.run_folder / "state").mkdir()
        raise RuntimeError("killed")

    recipes = [recipe(code_version=str(n)) for n in range(5)]
    for n in (0, 2, 3):
        if n == 2:
            with pytest.raises(RuntimeError, match="killed"):
                store.make(recipes[1], fails, {}, force=False)
        store.make(recipes[n], follow(n), {}, force=False)
    with pytest.raises(RuntimeError, match="killed"):
        store.make(recipes[4], fails, {}, force=False)
    logs = [store.logs_folder(each) for each in recipes]
    old, new = (store.root / "_runs/actor_sft/mine" / recipes[n].fingerprint for n in (1, 4))

    assert store.leftovers("actor_sft", "mine", 4, math.inf) == []
    assert store.leftovers("actor_sft", "mine", 1, math.inf) == [old]
    # Of states that young nothing goes by age.
    assert store.leftovers("actor_sft", "mine", 1, time.time() - 3600) == []
    store.remove([], [old])
    assert not old.exists() and (new / "state").is_dir()
    assert logs[0].is_dir(), "its version stands"
    prune(store, "actor_sft", "mine", keep=2)
    assert store.leftovers("actor_sft", "mine", 2, math.inf) == [logs[0]]
    assert logs[2].is_dir() and logs[3].is_dir()


def test_the_current_pointer_tells_how_the_last_run_came_to_it(store: Store) -> None:
    store.make(recipe(), writes("w"), {"seed": 1}, force=False)
    store.make(recipe(), never, {}, force=False)
    current = store.current("actor_sft", "mine")
    assert current is not None
    assert (current.reused, current.overrides) == (True, {})


def test_manifests_are_plain_json(store: Store) -> None:
    made = store.make(recipe(), writes("w"), {}, force=False)
    manifest = json.loads((made.version.path / "manifest.json").read_text())
    assert manifest["version"] == made.version.id
    assert manifest["settings"] == {"seed": 0, "actor_config.lr": 0.1}


def test_a_store_is_made_for_its_owner_alone_and_left_as_somebody_chose(tmp_path: Path) -> None:
    usual = os.umask(0)
    try:
        made = Store(tmp_path / "made")
        made.make(recipe(), writes("w"), {}, force=False)
        begun = begin_run(tmp_path / "begun", "run", None, experiment=False)
        (tmp_path / "shared").mkdir(mode=0o750)
        shared = Store(tmp_path / "shared")
        shared.make(recipe(), writes("w"), {}, force=False)
    finally:
        os.umask(usual)
    # No other user passes it, so that the modes within don't count.
    assert [oct(store.root.stat().st_mode)[-3:] for store in (made, begun)] == ["700", "700"]
    assert oct(shared.root.stat().st_mode)[-3:] == "750"
