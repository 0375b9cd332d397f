"""The same bytes stand once in a store, whoever damages, prunes, publishes or dies meanwhile."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from chatllama_pipeline.errors import CorruptVersionError
from chatllama_pipeline.progress import Progress, listening
from chatllama_pipeline.store.manifests import Version
from chatllama_pipeline.store.pool import link_or_copy
from chatllama_pipeline.store.versions import Store
from tests.store.recipes import never, prune, recipe, writes
from tests.waiting import PATIENCE

BIG = "0123456789abcdef" * 4096
ASSETS = ("actor_base", "reward_base", "actor_sft")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "storage")


def made(store: Store, asset: str, text: str = BIG, code: str = "1") -> Version:
    build = writes(text)
    return store.make(recipe(asset=asset, code_version=code), build, {}, force=True).version


def weights(version: Version) -> Path:
    return version.path / "weights" / "model.bin"


def pooled(store: Store) -> list[Path]:
    return sorted((store.root / "_files").glob("[!.]*"))


def disk_bytes(folder: Path) -> int:
    """What the files under `folder` take, each once whatever its names."""
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum({file.st_ino: file.st_size for file in files}.values())


def damage(path: Path) -> None:
    with path.open("r+") as file:
        file.write("x")


def test_the_same_bytes_stand_once_whatever_versions_have_them(store: Store) -> None:
    versions = [made(store, asset) for asset in ASSETS]
    others = recipe(asset="actor_base", assistant="another")
    versions.append(store.make(others, writes(BIG), {}, force=True).version)

    assert [weights(version).read_text() for version in versions] == [BIG] * 4
    assert len({weights(version).stat().st_ino for version in versions}) == 1
    assert [path.name for path in pooled(store)] == [versions[0].manifest.files[0].sha256]
    assert disk_bytes(store.root) < 1.5 * len(BIG)


def test_a_file_of_less_than_a_block_stays_where_it_is(store: Store) -> None:
    first, second = (made(store, asset, "small") for asset in ASSETS[:2])
    assert weights(first).stat().st_ino != weights(second).stat().st_ino
    assert pooled(store) == []


def test_pruning_frees_a_file_with_its_last_user(store: Store) -> None:
    old = made(store, "actor_base")
    made(store, "actor_base", BIG + "more", code="2")
    sharing = made(store, "reward_base")
    others = recipe(asset="actor_base", assistant="another")
    store.make(others, writes(BIG), {}, force=True)

    assert prune(store, "actor_base", "mine", keep=1) == [old.id]
    store.make(dataclasses.replace(others, code_version="2"), writes(BIG + "more"), {}, force=True)
    assert prune(store, "actor_base", "another", keep=1) == [old.id]
    assert len(pooled(store)) == 2
    assert store.read("reward_base", "mine").id == sharing.id

    made(store, "reward_base", BIG + "other", code="2")
    assert prune(store, "reward_base", "mine", keep=1) == [sharing.id]
    assert old.manifest.files[0].sha256 not in {path.name for path in pooled(store)}
    assert disk_bytes(store.root) < 2.5 * len(BIG)


def test_a_damaged_file_is_never_spread_and_goes_from_the_pool(store: Store) -> None:
    damage(weights(made(store, "actor_base")))
    whole = made(store, "reward_base")

    assert weights(whole).read_text() == BIG
    assert store.read("reward_base", "mine").id == whole.id
    assert [path.read_text() for path in pooled(store)] == [BIG]
    with pytest.raises(CorruptVersionError, match=r"model\.bin no longer has the hash"):
        store.read("actor_base", "mine")


def test_the_error_says_which_versions_share_a_damaged_file(store: Store) -> None:
    version = made(store, "actor_base")
    made(store, "reward_base")
    made(store, "actor_sft", BIG + "other")
    damage(weights(version))

    with pytest.raises(CorruptVersionError) as caught:
        store.read("actor_base", "mine")
    shared = f"The same file is damaged in {version.id} of reward_base of assistant mine: once"
    assert shared in str(caught.value) and "actor_sft" not in str(caught.value)


def test_a_file_damaged_in_one_version_alone_is_no_other_version_s_fault(store: Store) -> None:
    version = made(store, "actor_base")
    made(store, "reward_base")
    weights(version).unlink()
    weights(version).write_text("another")
    with pytest.raises(CorruptVersionError) as caught:
        store.read("actor_base", "mine")
    assert "reward_base" not in str(caught.value)


def test_what_is_made_again_mends_the_others_without_making_them(store: Store) -> None:
    first = made(store, "actor_base")
    made(store, "reward_base")
    damage(weights(first))

    again = store.make(recipe(asset="actor_base"), writes(BIG), {}, force=False)
    assert not again.reused and store.read("actor_base", "mine").id == first.id
    with pytest.raises(CorruptVersionError):
        store.read("reward_base", "mine")

    other = store.make(recipe(asset="reward_base"), never, {}, force=False)
    assert other.reused and weights(other.version).read_text() == BIG
    assert len({weights(version).stat().st_ino for version in (first, other.version)}) == 1


def test_a_missing_file_comes_back_from_another_version(store: Store) -> None:
    first, second = (made(store, asset) for asset in ASSETS[:2])
    weights(first).unlink()
    weights(first).parent.rmdir()
    assert store.make(recipe(asset="actor_base"), never, {}, force=False).reused
    assert weights(first).samefile(weights(second))


def test_what_cannot_be_linked_back_is_made_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made(store, "actor_base")
    made(store, "reward_base")
    weights(first).unlink()

    def refuse(*_: object) -> None:
        raise OSError(errno.EMLINK, "Too many links")

    monkeypatch.setattr(os, "link", refuse)
    again = store.make(recipe(asset="actor_base"), writes(BIG), {}, force=False)
    assert not again.reused and store.read("actor_base", "mine").id == first.id


def test_where_the_disk_cannot_link_versions_are_copies(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    versions = [made(store, asset) for asset in ASSETS]
    assert [store.read(asset, "mine").id for asset in ASSETS] == [v.id for v in versions]
    assert pooled(store) == []
    made(store, "actor_base", "new", code="2")
    assert prune(store, "actor_base", "mine", keep=1) == [versions[0].id]
    assert store.read("reward_base", "mine").id == versions[1].id


def test_a_copy_in_place_of_a_link_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    source, lines = tmp_path / "model.safetensors", list[str]()
    source.write_bytes(bytes(range(256)) * 20_000)
    with listening(Progress("release", lines.append, every_seconds=0, first_seconds=0)):
        link_or_copy(source, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    assert lines[0].startswith("release: copies copy: ") and " of 5 MB, " in lines[0]


def test_a_store_without_a_pool_goes_on_and_gets_one(store: Store) -> None:
    version = made(store, "actor_base")
    for path in pooled(store):
        path.unlink()
    (store.root / "_files" / ".lock").unlink()
    assert store.read("actor_base", "mine").id == version.id

    assert store.make(recipe(asset="actor_base"), never, {}, force=False).reused
    assert weights(made(store, "reward_base")).samefile(weights(version))


# A call that changes a folder is the last one: a fork of the program dies at the n-th.
KILLED = """
    import os, sys
    from pathlib import Path
    from chatllama_pipeline.store import versions
    from chatllama_pipeline.store.versions import Store
    from tests.store.recipes import prune, recipe, writes

    root, number, stride = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    text = "0123456789abcdef" * 512
    versions.library_versions = dict  # slow, and no part of this
    calls = ("link", "unlink", "rename", "replace", "mkdir", "rmdir")

    os.fsync = lambda descriptor: None  # no power fails here

    def make(store, asset, code):
        built = writes(text + code)
        store.make(recipe(asset=asset, code_version=code), built, {}, force=True)

    def work(store):
        make(store, "reward_base", "1")  # the bytes that another version has
        make(store, "reward_base", "2")
        make(store, "reward_base", "2")  # once more, in the place of itself
        prune(store, "reward_base", "mine", 1)

    def die_at(number):
        left = [number]
        for name in calls:
            def call(*given, original=getattr(os, name), **named):
                left[0] -= 1
                if left[0] == 0:
                    os._exit(1)
                return original(*given, **named)
            setattr(os, name, call)

    def whole(store):
        for asset in ("actor_base", "reward_base"):
            for version in store.versions(asset, "mine"):
                assert not list(version.damaged()), (number, version.path)

    killed = True
    while killed:
        store = Store(root / str(number))
        make(store, "actor_base", "1")
        if os.fork() == 0:
            die_at(number)
            work(store)
            os._exit(0)
        killed = os.wait()[1] != 0
        whole(store)
        work(store)
        whole(store)
        files = [path for path in (store.root / "_files").rglob("*") if path.is_file()]
        names = sorted(path.stat().st_nlink for path in files if path.name != ".lock")
        assert names == [2, 2], (number, files)
        number += stride
    print(number)
"""


@pytest.mark.parametrize(("first", "stride"), [(3, 7), pytest.param(1, 1, marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_leaves_whole_versions_and_nothing_for_good(
    tmp_path: Path, first: int, stride: int
) -> None:
    assert int(run(KILLED, tmp_path, first, stride)) > 50


AT_ONCE = """
    import os, sys
    from pathlib import Path
    from chatllama_pipeline.store.versions import Store
    from tests.store.recipes import prune, recipe, writes

    os.fsync = lambda descriptor: None
    store, asset = Store(Path(sys.argv[1])), sys.argv[2]
    for number in range(20):
        made = recipe(asset=asset, code_version=str(number))
        build = writes("ab"[number % 2] * 5000)
        version = store.make(made, build, {}, force=True).version
        assert not list(version.damaged()), version.path
        prune(store, asset, "mine", 1)
        assert store.read(asset, "mine").id == version.id
"""


def test_makers_of_the_same_bytes_publish_and_prune_at_once(tmp_path: Path) -> None:
    for process in [start(AT_ONCE, tmp_path, asset) for asset in ASSETS]:
        finish(process)
    store = Store(tmp_path)
    assert len({weights(store.read(asset, "mine")).stat().st_ino for asset in ASSETS}) == 1
    assert len(pooled(store)) == 1


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, **pipes)  # type: ignore[call-overload,no-any-return]


def finish(process: subprocess.Popen[str]) -> str:
    told, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, error
    return told


def run(program: str, *arguments: object) -> str:
    return finish(start(program, *arguments))
