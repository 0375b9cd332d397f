"""`CHATLLAMA_STORE=s3://...`: machines that share one store, each with a cache of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from chatllama_pipeline.cli.main import cli
from chatllama_pipeline.errors import CorruptVersionError, StoreError
from chatllama_pipeline.settings.folder import Assistant, load_assistant
from chatllama_pipeline.store.approvals import accept, approve, is_approved, reject, rejection
from chatllama_pipeline.store.owned import remove_owned
from chatllama_pipeline.store.remote import bucket as bucket_module
from chatllama_pipeline.store.remote import mirror as mirror_module
from chatllama_pipeline.store.remote.bucket import Bucket
from chatllama_pipeline.store.versions import Store, store_root
from chatllama_pipeline.store.views import begin_run
from tests.automation.made import write_assistant
from tests.store.buckets.s3 import S3
from tests.store.recipes import never, prune, recipe, writes
from tests.store.test_full_disk import run
from tests.store.test_versions import flip_a_byte

Machine = Callable[[str], Store]
ASSET, NAME = "actor_sft", "mine"
LARGE = "x" * 10_000


@pytest.fixture
def machine(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The store as a machine of that name opens it; each looks whenever it asks."""
    monkeypatch.setattr(mirror_module, "LOOK_SECONDS", 0.0)
    monkeypatch.setenv("CHATLLAMA_STORE", url)

    def opened(name: str) -> Store:
        monkeypatch.setenv("CHATLLAMA_STORE_CACHE", str(tmp_path / name))
        return Store(store_root())

    return opened


@pytest.fixture
def mine(tmp_path: Path) -> Assistant:
    folder = tmp_path / "assistants" / NAME
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 1")
    return load_assistant(NAME, root=folder.parent)


def test_what_one_machine_makes_another_reads_and_reuses(machine: Machine) -> None:
    one, other = machine("one"), machine("other")
    made = one.make(recipe(), writes(LARGE), {"seed": 3}, force=False).version
    found = other.read(ASSET, NAME)
    assert (found.path / "weights" / "model.bin").read_text() == LARGE
    assert found.manifest == made.manifest and found.path != made.path
    again = other.make(recipe(), never, {}, force=False)
    assert again.reused and again.version.id == made.id
    assert [use.how for use in other.uses(ASSET, NAME)] == ["made"]


def test_the_same_bytes_are_fetched_once_and_stand_once(machine: Machine) -> None:
    one, other = machine("one"), machine("other")
    one.make(recipe(), writes(LARGE), {}, force=False)
    one.make(recipe(asset="release"), writes(LARGE), {}, force=False)
    files = [other.read(asset, NAME).path / "weights" / "model.bin" for asset in (ASSET, "release")]
    assert files[0].samefile(files[1])


def test_a_file_that_was_damaged_here_comes_again_from_the_bucket(machine: Machine) -> None:
    one = machine("one")
    made = one.make(recipe(), writes(LARGE), {}, force=False).version
    file = made.path / "weights" / "model.bin"
    flip_a_byte(file)
    assert one.read(ASSET, NAME).id == made.id and file.read_text() == LARGE
    shutil.rmtree(one.root / "_files")
    shutil.rmtree(made.path / "weights")
    assert one.make(recipe(), never, {}, force=False).reused


def test_what_the_bucket_lost_is_told_and_made_again(machine: Machine, url: str) -> None:
    made = machine("one").make(recipe(), writes(LARGE), {}, force=False).version
    [file] = made.manifest.files
    Bucket(url).objects.delete([f"files/{file.sha256}"])
    other = machine("other")
    with pytest.raises(CorruptVersionError, match=f"files/{file.sha256} is missing"):
        other.read(ASSET, NAME)
    assert not other.make(recipe(), writes(LARGE), {}, force=False).reused
    assert machine("third").read(ASSET, NAME).id == made.id


def test_machines_see_what_others_made_current_and_went_back_to(machine: Machine) -> None:
    one, other = machine("one"), machine("other")
    first = one.make(recipe(), writes("1"), {}, force=False).version
    second = other.make(recipe(code_version="2"), writes("2"), {}, force=False).version
    assert one.read(ASSET, NAME).id == second.id
    assert {version.id for version in one.versions(ASSET, NAME)} == {first.id, second.id}
    one.roll_back(first)
    assert other.read(ASSET, NAME).id == first.id
    assert [use.how for use in other.uses(ASSET, NAME)] == ["made", "made", "rolled back"]
    assert other.uses(ASSET, NAME) == one.uses(ASSET, NAME)


def test_a_pin_reads_a_version_that_no_list_tells(machine: Machine, s3: S3) -> None:
    one, other = machine("one"), machine("other")
    s3.fail(stale=True)
    old = one.make(recipe(), writes("1"), {}, force=False).version
    new = one.make(recipe(code_version="2"), writes("2"), {}, force=False).version
    listed = [version.id for version in other.versions(ASSET, NAME)]
    assert listed == [new.id], "what is current is found by its name"
    assert other.read(ASSET, NAME).id == new.id
    assert other.read(ASSET, NAME, pin=old.id).id == old.id


def test_of_two_runs_at_once_the_one_that_began_later_wins_and_the_other_is_told(
    machine: Machine, mine: Assistant
) -> None:
    early = begin_run(machine("one").root, "early", mine, experiment=False)
    late = begin_run(machine("other").root, "late", mine, experiment=False)
    won = late.make(recipe(), writes("late"), {}, force=False).version
    lost = early.make(recipe(code_version="2"), writes("early"), {}, force=False).version
    left = early.left_to(ASSET, NAME)
    assert left is not None and (left.run, left.version) == ("late", won.id)
    assert early.read(ASSET, NAME).id == lost.id, "a run builds on what it made itself"
    assert machine("third").read(ASSET, NAME).id == won.id
    assert {version.id for version in late.versions(ASSET, NAME)} == {won.id, lost.id}


def test_of_two_that_move_current_in_the_same_moment_one_is_told(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = machine("one"), machine("other")
    # The other has looked for the last time, and moves before this one does.
    monkeypatch.setattr(mirror_module, "LOOK_SECONDS", 1e9)
    other.look(NAME)
    moved = Bucket.move

    def meanwhile(bucket: Bucket, *rest: object) -> None:
        monkeypatch.setattr(Bucket, "move", moved)
        one.make(recipe(), writes("first"), {}, force=False)
        moved(bucket, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Bucket, "move", meanwhile)
    with pytest.raises(StoreError, match=r"another machine made .* meanwhile, so .* is kept"):
        other.make(recipe(code_version="2"), writes("second"), {}, force=False)
    assert len(machine("third").versions(ASSET, NAME)) == 2
    assert other.make(recipe(code_version="2"), never, {}, force=False).reused


def test_approvals_and_rejections_are_everybodys(machine: Machine) -> None:
    one, other = machine("one"), machine("other")
    approve(one.root, NAME, "aa", by="somebody")
    reject(one.root, NAME, "bb", by="somebody", back_to="cc")
    other.look(NAME)
    assert is_approved(other.root, NAME, "aa")
    assert rejection(other.root, NAME, "bb") == rejection(one.root, NAME, "bb")
    accept(other.root, NAME, "bb")
    one.look(NAME)
    assert rejection(one.root, NAME, "bb") is None and is_approved(one.root, NAME, "aa")


def test_what_is_pruned_or_forgotten_is_so_for_all_and_files_go_when_they_are_old(
    machine: Machine, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = machine("one")
    for number in range(3):
        text = LARGE + str(number)
        one.make(recipe(code_version=str(number)), writes(text), {}, force=False)
    one.make(recipe(assistant="other"), writes(LARGE + "0"), {}, force=False)
    objects = Bucket(url).objects
    prune(one, ASSET, NAME, keep=2)
    assert len(machine("other").versions(ASSET, NAME)) == 2
    assert len(list(objects.list("files/"))) == 3, "the other assistant has it too"
    prune(one, ASSET, NAME, keep=1)
    assert len(list(objects.list("files/"))) == 3, "whoever publishes now may have found it there"
    monkeypatch.setattr(bucket_module, "SWEPT", bucket_module.SWEPT * -1)
    approve(one.root, NAME, "aa", by="somebody")
    remove_owned(one.root, NAME)
    assert len(list(objects.list("files/"))) == 2
    third = machine("third")
    assert third.versions(ASSET, NAME) == [] and third.standing(ASSET, NAME) is None
    assert third.read(ASSET, "other").id
    third.look(NAME)
    assert not is_approved(third.root, NAME, "aa")


def test_what_another_machine_removed_goes_from_the_caches_that_had_it(machine: Machine) -> None:
    one, other = machine("one"), machine("other")
    made = [
        one.make(recipe(code_version=str(number)), writes(LARGE + str(number)), {}, force=False)
        for number in range(3)
    ]
    folders = [other.read(ASSET, NAME, each.version.id).path for each in made]
    assert all(any(folder.iterdir()) for folder in folders)
    prune(one, ASSET, NAME, keep=1)
    assert [version.id for version in other.versions(ASSET, NAME)] == [made[2].version.id]
    assert [folder.exists() for folder in folders] == [False, False, True]
    remove_owned(one.root, NAME)
    assert other.versions(ASSET, NAME) == [] and other.standing(ASSET, NAME) is None
    assert not folders[2].exists()


def test_a_file_that_may_be_swept_soon_is_sent_again(
    machine: Machine, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = machine("one").make(recipe(), writes(LARGE), {}, force=False).version
    [file] = made.manifest.files
    objects = Bucket(url).objects
    objects.delete([f"files/{file.sha256}"])
    objects.create(f"files/{file.sha256}", b"y" * file.size)
    machine("one").make(recipe(), never, {}, force=False)
    assert objects.get(f"files/{file.sha256}").data[:1] == b"y"  # type: ignore[union-attr]
    monkeypatch.setattr(bucket_module, "SENT_AGAIN", bucket_module.SENT_AGAIN * -1)
    machine("one").make(recipe(), never, {}, force=False)
    assert objects.get(f"files/{file.sha256}").data == LARGE.encode()  # type: ignore[union-attr]


def test_what_else_stands_in_the_bucket_is_passed_over(machine: Machine, url: str) -> None:
    made = machine("one").make(recipe(), writes(LARGE), {}, force=False).version
    objects = Bucket(url).objects
    for key in ("README", "actor_sft/aa.txt", "actor_sft/deep/er/aa.json"):
        objects.create(f"versions/{NAME}/{key}", b"hello")
    assert [version.id for version in machine("other").versions(ASSET, NAME)] == [made.id]
    assert [manifest.version for manifest in Bucket(url).manifests()] == [made.id]


def test_a_bucket_that_refuses_is_told_before_anything_is_built(machine: Machine, s3: S3) -> None:
    store = machine("one")
    s3.fail(refuse=["GET"])
    with pytest.raises(StoreError, match="no right to read"):
        store.make(recipe(), never, {}, force=False)


def test_commands_work_on_a_store_in_a_bucket(
    machine: Machine, url: str, mine: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(mine.folder.parent))
    made = machine("one").make(recipe(), writes(LARGE), {}, force=False).version
    machine("other")
    done = CliRunner().invoke(cli, ["versions", NAME, ASSET])
    assert made.id in done.output, done.output
    checked = CliRunner().invoke(cli, ["store", "check"])
    assert checked.exit_code == 0 and f"a store can stand in {url}" in checked.output


def test_a_run_on_one_machine_is_reused_by_a_run_on_another(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(tmp_path / "assistants"))
    write_assistant(tmp_path / "assistants" / NAME)
    made = []
    for name in ("one", "other"):
        store = machine(name)
        assert run(NAME) == ""
        current = store.standing("personal_data", NAME)
        assert current is not None
        made.append((current.version, current.reused))
    assert made[1] == (made[0][0], True) and not made[0][1]


def make_and_die(url: str, cache: Path, number: int, after: int) -> bool:
    """Make a version in a process that kills itself around the `after`-th request that writes;
    whether it was killed."""
    program = textwrap.dedent("""
        import os, signal, sys
        from chatllama_pipeline.records import Outcome
        from chatllama_pipeline.store.manifests import Recipe
        from chatllama_pipeline.store.remote import objects
        from chatllama_pipeline.store.versions import Store, store_root

        number, left = sys.argv[1], int(sys.argv[2])
        def count():
            global left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        for name in ("create", "replace", "send"):
            def told(self, *rest, _do=getattr(objects.Objects, name)):
                count()
                done = _do(self, *rest)
                count()
                return done
            setattr(objects.Objects, name, told)

        def build(bench):
            for part in range(2):
                (bench.output / f"part{part}").write_text(f"{number} {part} " * 2000)
            return Outcome()

        recipe = Recipe("actor_sft", "mine", number, {}, {}, {})
        Store(store_root()).make(recipe, build, {}, force=False)
    """)
    variables = {**os.environ, "CHATLLAMA_STORE": url, "CHATLLAMA_STORE_CACHE": str(cache)}
    command = [sys.executable, "-c", program, str(number), str(after)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_amid_publishing_leave_whole_versions_and_lose_none(
    machine: Machine, url: str, tmp_path: Path, kills: int
) -> None:
    reader, published = machine("reader"), set[str]()
    for number in range(kills):
        # Every write of the eight before and after which it may die, in turn.
        after = (number * 3) % 8 if kills == 4 else number % 8
        assert make_and_die(url, tmp_path / f"maker{number % 2}", number, after)
        found = reader.versions(ASSET, NAME)
        assert all(not list(reader.read(ASSET, NAME, each.id).damaged()) for each in found)
        assert published <= {each.id for each in found}, "none is lost"
        published = {each.id for each in found}
        if reader.standing(ASSET, NAME):
            reader.read(ASSET, NAME)
        if number % 4 == 3:
            # The same machine goes on where it was killed.
            assert not make_and_die(url, tmp_path / f"maker{number % 2}", number, 100)
            assert reader.read(ASSET, NAME).manifest.code_version == str(number)
