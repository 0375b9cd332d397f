"""`chatllama store copy`: folder to folder, to a bucket and back, killed, damaged, twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from chatllama_pipeline.cli.main import cli
from chatllama_pipeline.errors import AbsentError, StoreError
from chatllama_pipeline.records import Outcome
from chatllama_pipeline.store.approvals import approve, is_approved, reject, rejection
from chatllama_pipeline.store.copying.ends import Folder
from chatllama_pipeline.store.owned import owned_folders
from chatllama_pipeline.store.remote.bucket import Bucket
from chatllama_pipeline.store.versions import Store, Workbench
from tests.store.buckets.s3 import S3
from tests.store.recipes import recipe, writes
from tests.store.test_versions import flip_a_byte

LARGE = "x" * 10_000


def copied(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["store", "copy", *map(str, arguments)])


def done(*arguments: object) -> str:
    result = copied(*arguments)
    assert result.exit_code == 0, result.output + str(result.exception)
    return result.output


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two versions of an actor of `mine`, the older in use again, of a public source; another's."""
    store = Store(tmp_path / "store")

    def source(bench: Workbench) -> Outcome:
        (bench.output / "rows").write_text("rows")
        return Outcome(rows=1)

    public = store.make(recipe(asset="shp", assistant=None, upstream={}), source, {}, force=False)
    made_from = {"upstream": {"shp": public.version.id}}
    old = store.make(recipe(**made_from), writes(LARGE), {}, force=False).version
    store.make(recipe(**made_from, code_version="2"), writes(LARGE + "2"), {}, force=False)
    store.make(recipe(asset="release", **made_from), writes(LARGE), {}, force=False)
    store.roll_back(old)
    store.make(recipe(assistant="other"), writes("other's"), {}, force=False)
    approve(store.root, "mine", old.id, by="somebody")
    reject(store.root, "mine", "cc" * 8, by="somebody", back_to=old.id)
    return store


def content(root: Path) -> dict[str, bytes]:
    """Every version's files, manifests too, and approvals."""
    found = [*root.glob("[!_]*/*/versions/**/*"), *root.glob("_approvals/**/*")]
    return {str(p.relative_to(root)): p.read_bytes() for p in found if p.is_file()}


def test_all_of_a_store_goes_to_a_bucket_and_back_with_its_history(
    store: Store, url: str, tmp_path: Path
) -> None:
    assert "5 versions copied, 0 stood there already" in done(store.root, url)
    # The same bytes of actor and release stand there once.
    assert len(list(Bucket(url).objects.list("files/"))) == 4
    back = Store(tmp_path / "back")
    assert "5 versions copied" in done(url, back.root)
    assert content(back.root) == content(store.root)
    assert back.uses("actor_sft", "mine") == store.uses("actor_sft", "mine")
    current = back.standing("actor_sft", "mine")
    assert current and current.version == store.read("actor_sft", "mine").id
    assert back.read("actor_sft", "mine").manifest == store.read("actor_sft", "mine").manifest
    assert is_approved(back.root, "mine", current.version)
    assert rejection(back.root, "mine", "cc" * 8) is not None
    pooled = back.root / "_files"
    assert len([path for path in pooled.iterdir() if path.name[0] != "."]) == 2
    assert back.make(
        recipe(upstream=back.read("actor_sft", "mine").manifest.upstream),
        writes("never"),
        {},
        force=False,
    ).reused


def test_a_second_copy_doubles_nothing(store: Store, url: str, tmp_path: Path) -> None:
    for target in (url, str(tmp_path / "folder")):
        done(store.root, target)
        assert "0 versions copied, 5 stood there already" in done(store.root, target)
    there = Store(tmp_path / "folder")
    assert there.uses("actor_sft", "mine") == store.uses("actor_sft", "mine")
    assert Bucket(url).pointer("actor_sft", "mine").uses == store.uses("actor_sft", "mine")


def test_an_assistant_takes_along_its_public_sources_and_nobody_elses_versions(
    store: Store, url: str
) -> None:
    said = done(store.root, url, "--assistant", "mine")
    assert "4 versions copied" in said and "other" not in said
    assert {one.asset for one in Bucket(url).manifests()} == {"shp", "actor_sft", "release"}


def test_one_version_goes_alone_with_its_approval(store: Store, tmp_path: Path, url: str) -> None:
    version = store.read("actor_sft", "mine").id
    options = ("--asset", "actor_sft", "--version", version[:6])
    assert "1 versions copied" in done(store.root, tmp_path / "one", *options)
    assert is_approved(tmp_path / "one", "mine", version)
    assert rejection(tmp_path / "one", "mine", "cc" * 8) is None
    result = copied(store.root, url, "--version", "ffff")
    assert isinstance(result.exception, AbsentError)
    assert "holds no version version ffff; it has those of mine/actor_sft" in str(result.exception)


def test_what_is_in_use_in_the_other_store_stays_in_use(store: Store, url: str) -> None:
    version = store.read("actor_sft", "mine").id
    done(store.root, url)
    moved = store.make(recipe(code_version="3"), writes("3"), {}, force=False).version
    said = done(store.root, url)
    assert (
        f"actor_sft of mine: {version} stays in use in {url}; in {store.root} it is {moved.id}"
        in (said)
    )
    pointer = Bucket(url).pointer("actor_sft", "mine")
    assert pointer.current and pointer.current["version"] == version
    assert [use.version for use in pointer.uses].count(moved.id) == 1


def test_a_damaged_version_is_left_out_and_told_and_the_others_go(
    store: Store, url: str, tmp_path: Path
) -> None:
    release = store.make(recipe(asset="evaluation"), writes("bad" * 2000), {}, force=False).version
    flip_a_byte(release.path / "weights" / "model.bin")
    for target in (url, tmp_path / "folder"):
        result = copied(store.root, target)
        assert result.exit_code == 1
        assert f"DAMAGED  evaluation of mine {release.id}: " in result.output
        assert "5 versions copied, 0 stood there already, 1 are damaged" in result.output
    assert Store(tmp_path / "folder").versions("evaluation", "mine") == []


def test_a_damaged_object_is_never_published(store: Store, url: str, tmp_path: Path) -> None:
    done(store.root, url)
    bucket = Bucket(url)
    [file] = store.read("actor_sft", "mine").manifest.files
    bucket.objects.delete([f"files/{file.sha256}"])
    bucket.objects.create(f"files/{file.sha256}", b"y" * file.size)
    result = copied(url, tmp_path / "folder")
    assert result.exit_code == 1
    assert result.output.count("hasn't the hash that names it") == 2, "actor and release"
    assert "3 versions copied" in result.output


def test_a_store_that_holds_nothing_or_is_the_same_is_refused(tmp_path: Path, url: str) -> None:
    for place in (tmp_path / "nothing", url):
        result = copied(place, tmp_path / "there")
        assert "holds no version at all; it has those of nothing" in str(result.exception)
    assert not (tmp_path / "there").exists() and not (tmp_path / "nothing").exists()
    for one, other in ((url, url + "/"), (tmp_path, f"{tmp_path}/../{tmp_path.name}")):
        assert "are one store: name another" in str(copied(one, other).exception)


def test_an_asset_that_is_being_made_there_is_refused(store: Store, tmp_path: Path) -> None:
    there = Store(tmp_path / "there")

    def build(bench: Workbench) -> Outcome:
        result = copied(store.root, there.root, "--asset", "actor_sft")
        assert isinstance(result.exception, StoreError)
        assert "actor_sft of mine is being made in" in str(result.exception)
        return writes("here")(bench)

    there.make(recipe(code_version="9"), build, {}, force=False)
    assert [each.manifest.code_version for each in there.versions("actor_sft", "mine")] == ["9"]


def test_a_pin_that_the_other_store_lacks_is_told(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = store.read("actor_sft", "mine").id
    (tmp_path / "assistants" / "mine").mkdir(parents=True)
    config = tmp_path / "assistants" / "mine" / "config.yaml"
    config.write_text(f"store: {{pins: {{actor_sft: '{old}'}}}}")
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(config.parents[1]))
    said = done(store.root, tmp_path / "there", "--asset", "release")
    assert f"mine pins actor_sft to {old}, which {tmp_path / 'there'} hasn't: copy it too" in said
    assert "pins" not in done(store.root, tmp_path / "there")


@pytest.mark.parametrize("wrong", ["../outside", "/tmp/outside", "a/../../outside", ""])
def test_a_stranger_s_manifest_writes_nothing_outside_of_its_version(
    store: Store, url: str, tmp_path: Path, wrong: str
) -> None:
    done(store.root, url, "--asset", "release")
    objects = Bucket(url).objects
    [key] = [entry.key for entry in objects.list("versions/")]
    stored = objects.get(key)
    assert stored is not None
    manifest = json.loads(stored.data)
    manifest["files"][0]["path"] = wrong
    assert objects.replace(key, json.dumps(manifest).encode(), stored.tag)
    result = copied(url, tmp_path / "there")
    assert "which no version of ours does: left alone" in str(result.exception)
    assert not list(tmp_path.rglob("outside")) and not Path("/tmp/outside").exists()


def copy_and_die(source: object, target: object, after: int) -> int:
    """Copy in a process that kills itself at the `after`-th call that opens or renames a file."""
    program = """
import os, signal, sys
left = int(sys.argv[1])
def count(event, arguments):
    global left
    wanted = event in ("os.rename", "os.link", "obstore") or (
        event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wa"))
    left -= bool(wanted)
    if left < 0 and event != "os.kill":
        os.kill(os.getpid(), signal.SIGKILL)
from chatllama_pipeline.cli.main import cli
from chatllama_pipeline.store.remote import objects
for name in ("create", "replace", "send"):
    def told(self, *rest, _do=getattr(objects.Objects, name)):
        sys.audit("obstore")
        done = _do(self, *rest)
        sys.audit("obstore")
        return done
    setattr(objects.Objects, name, told)
sys.addaudithook(count)
cli(["store", "copy", *sys.argv[2:]])
"""
    command = [sys.executable, "-c", program, str(after), str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("to", ["bucket", "folder"])
def test_a_copy_that_is_killed_again_and_again_goes_on_and_ends_whole(
    store: Store, url: str, tmp_path: Path, kills: int, to: str, s3: S3
) -> None:
    target = url if to == "bucket" else str(tmp_path / "folder")
    for kill in range(kills):
        code = copy_and_die(store.root, target, after=2 + kill * (12 if kills == 3 else 2))
        if code == 0:
            assert kill, "it was killed once at least"
            break
        # What is there is whole at any moment.
        if to == "bucket":
            bucket = Bucket(url)
            for manifest in bucket.manifests():
                for file in manifest.files:
                    bucket.fetch(file, tmp_path / "fetched")
                    (tmp_path / "fetched").unlink()
        else:
            found = [
                Store(Path(target)).version(m.asset, m.assistant, m.version)
                for m in Folder(Path(target)).manifests()
            ]
            assert all(version and not list(version.damaged()) for version in found)
    done(store.root, target)
    back = tmp_path / "folder" if to == "folder" else tmp_path / "back"
    if to == "bucket":
        done(url, back)
    assert content(back) == content(store.root)
    assert Store(back).uses("actor_sft", "mine") == store.uses("actor_sft", "mine")


def test_what_a_killed_copy_left_is_its_assistants(store: Store, tmp_path: Path) -> None:
    for after in range(3, 12, 2):
        assert copy_and_die(store.root, tmp_path / "there", after) == -signal.SIGKILL
        left = list((tmp_path / "there").glob("_adopting/*/*"))
        owned = {
            path
            for name in ("mine", "other", "_shared")
            for path in owned_folders(tmp_path / "there", name)
        }
        assert set(left) <= owned
