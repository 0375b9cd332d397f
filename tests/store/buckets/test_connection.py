"""A bucket over a real connection: conditions, lost replies, rights, lists that lag, cut lines."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from chatllama_pipeline.errors import CorruptVersionError, StoreError
from chatllama_pipeline.store.history import Use
from chatllama_pipeline.store.manifests import PayloadFile, hash_file
from chatllama_pipeline.store.remote import objects as objects_module
from chatllama_pipeline.store.remote.bucket import Bucket, Pointer
from chatllama_pipeline.store.remote.objects import Objects
from tests.store.buckets.s3 import S3


def current(version: str) -> dict[str, object]:
    return {"version": version}


def use(version: str) -> Use:
    return Use(version, f"2026-01-01T00:00:0{len(version)}", "made")


def test_an_object_is_made_once_and_replaced_only_by_who_saw_it(url: str) -> None:
    objects = Objects(url)
    assert objects.get("a/b") is None and objects.entry("a/b") is None
    assert objects.create("a/b", b"1")
    assert not objects.create("a/b", b"2")
    seen = objects.get("a/b")
    assert seen is not None and seen.data == b"1"
    assert objects.replace("a/b", b"2", seen.tag)
    assert not objects.replace("a/b", b"3", seen.tag)
    assert [(entry.key, entry.size) for entry in objects.list("a/")] == [("a/b", 1)]
    objects.delete(["a/b", "never"])
    assert not objects.replace("a/b", b"3", seen.tag)
    assert list(objects.list("a/")) == []


def test_a_put_whose_reply_was_lost_is_known_as_ones_own(url: str, s3: S3) -> None:
    objects = Objects(url)
    s3.fail(lose="a/b")
    assert objects.create("a/b", b"1")
    seen = objects.get("a/b")
    assert seen is not None
    s3.fail(lose="a/b")
    assert objects.replace("a/b", b"2", seen.tag)
    found = objects.get("a/b")
    assert found is not None and found.data == b"2"


def test_a_file_comes_whole_over_a_line_that_is_cut_and_goes_on_where_it_stopped(
    url: str, s3: S3, tmp_path: Path
) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * 2**16)
    digest, size = hash_file(large), large.stat().st_size
    objects = Objects(url)
    s3.fail(drop=3)
    objects.send(large, "large")
    part = tmp_path / "part"
    part.write_bytes(large.read_bytes()[: size // 2])
    objects.fetch("large", part, size, digest)
    assert part.read_bytes() == large.read_bytes()
    part.write_bytes(b"others" + large.read_bytes()[6 : size // 2])
    with pytest.raises(CorruptVersionError, match="hasn't the hash that names it"):
        objects.fetch("large", part, size, digest)
    assert not part.exists()
    with pytest.raises(CorruptVersionError, match="is missing"):
        objects.fetch("lost", part, size, digest)


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_bucket_without_rights_says_what_may_not_be_done_and_by_whom(
    url: str, s3: S3, method: str
) -> None:
    s3.fail(refuse=[method])
    with pytest.raises(StoreError, match=r"no right to (read|write) .*AWS_ACCESS_KEY_ID"):
        if method == "GET":
            Objects(url).get("a")
        else:
            Objects(url).create("a", b"1")


def test_what_is_no_bucket_is_refused_in_a_line(s3: S3) -> None:
    with pytest.raises(StoreError, match="there is no such bucket; make it first"):
        Objects("s3://nowhere/at/all").create("a", b"1")
    with pytest.raises(StoreError, match="there is no such bucket"):
        Objects("s3://nowhere/at/all").get("a")
    for wrong in ("ftp://host/a", "https://host/a", "memory://a"):
        with pytest.raises(StoreError, match="a store at a URL stands in a bucket"):
            Objects(wrong)
    with pytest.raises(StoreError, match="it names no bucket") as told:
        Objects("s3:///a")
    assert "\n" not in str(told.value)


def test_a_server_that_is_away_is_told_with_what_to_do(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setitem(objects_module.PATIENCE, "max_retries", 1)
    with pytest.raises(StoreError, match=r"could not read a: .* run the same again once it answ"):
        Objects(url).get("a")


def test_without_obstore_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(StoreError, match=r"pip install 'chatllama-pipeline\[objects\]'"):
        Objects("s3://bucket")


def test_of_two_that_move_current_at_once_one_wins_and_the_other_is_told(url: str) -> None:
    first, second = Bucket(url), Bucket(url)
    first.move("actor_sft", "mine", None, current("aa"), use("aa"))
    with pytest.raises(StoreError, match="another machine made aa of actor_sft current meanwhile"):
        second.move("actor_sft", "mine", None, current("bb"), use("bb"))
    assert second.pointer("actor_sft", "mine") == Pointer(current("aa"), [use("aa")])
    second.move("actor_sft", "mine", "aa", current("bb"), use("bb"))
    second.move("actor_sft", "mine", "aa", current("bb"), use("bb"))
    assert first.pointer("actor_sft", "mine") == Pointer(current("bb"), [use("aa"), use("bb")])
    # Of another asset in the same document nobody is told.
    first.move("release", "mine", None, current("cc"), use("cc"))
    assert set(first.pointers("mine")) == {"actor_sft", "release"}


def test_processes_that_move_pointers_all_the_time_lose_none(url: str) -> None:
    program = textwrap.dedent("""
        import sys
        from chatllama_pipeline.store.history import Use
        from chatllama_pipeline.store.remote.bucket import Bucket
        bucket, asset = Bucket(sys.argv[1]), sys.argv[2]
        seen = None
        for number in range(5):
            name = str(number)
            bucket.move(asset, "mine", seen, {"version": name}, Use(name, "x", "made"))
            seen = name
    """)
    command = [sys.executable, "-c", program, url]
    with contextlib.ExitStack() as running:
        writers = [
            running.enter_context(subprocess.Popen([*command, asset])) for asset in ("a", "b")
        ]
    assert [writer.returncode for writer in writers] == [0, 0]
    found = Bucket(url).pointers("mine")
    assert [len(found[asset].uses) for asset in ("a", "b")] == [5, 5]


def test_a_pointer_is_found_though_lists_lag_behind(url: str, s3: S3) -> None:
    s3.fail(stale=True)
    bucket = Bucket(url)
    bucket.move("actor_sft", "mine", None, current("aa"), use("aa"))
    assert bucket.owners() == []
    assert bucket.pointer("actor_sft", "mine").current == current("aa")


def test_a_manifest_that_is_none_is_named(url: str) -> None:
    bucket = Bucket(url)
    bucket.objects.create("versions/mine/actor_sft/aa.json", json.dumps({"a": 1}).encode())
    with pytest.raises(StoreError, match=r"versions/mine/actor_sft/aa\.json .* is no manifest"):
        bucket.manifest("actor_sft", "mine", "aa")


def test_an_object_of_another_size_is_sent_again(url: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"whole")
    payload = PayloadFile("file", 5, hash_file(file))
    bucket = Bucket(url)
    bucket.objects.create(f"files/{payload.sha256}", b"half")
    bucket._send([payload], lambda _: contextlib.nullcontext(file))
    bucket.fetch(payload, tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == b"whole"
