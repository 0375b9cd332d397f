"""Stores at gs:// and az://, on emulators of Google's and Azure's storage."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from chatllama_pipeline.cli.main import cli
from chatllama_pipeline.errors import StoreError
from chatllama_pipeline.store.remote import mirror
from chatllama_pipeline.store.remote.address import WHO_ASKS
from chatllama_pipeline.store.remote.objects import PART_BYTES, Objects
from chatllama_pipeline.store.versions import Store, store_root
from tests.store.buckets.clouds import Cloud, azure, google
from tests.store.buckets.test_connection import (
    test_an_object_is_made_once_and_replaced_only_by_who_saw_it as holds_to_conditions,
)
from tests.store.buckets.test_connection import (
    test_of_two_that_move_current_at_once_one_wins_and_the_other_is_told as holds_to_current,
)
from tests.store.recipes import never, prune, recipe, writes

CLOUDS = {"gs": google, "az": azure}


@pytest.fixture(
    scope="module", params=["gs", pytest.param("az", marks=pytest.mark.slow)], name="server"
)
def _server(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    with CLOUDS[request.param]() as found:
        yield found


@pytest.fixture
def cloud(server: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """The server, where this process finds it."""
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    server.faults.fail({})
    return server


@pytest.fixture
def url(cloud: Cloud) -> str:
    """An empty place in a bucket of its own."""
    bucket = uuid.uuid4().hex
    cloud.make_bucket(bucket)
    return f"{cloud.scheme}://{bucket}/stores/mine"


def test_a_store_can_stand_there_and_nothing_stays_of_the_check(url: str) -> None:
    done = CliRunner().invoke(cli, ["store", "check", url])
    assert done.exit_code == 0, done.output
    assert "warning" not in done.output
    assert done.output.count("of 4 writers at once one wins, 5 times") == 2
    assert list(Objects(url).list("")) == []


def test_conditions_and_pointers_hold_as_on_s3(url: str) -> None:
    holds_to_conditions(f"{url}/objects")
    holds_to_current(f"{url}/pointers")


def test_what_one_machine_makes_another_reads_reuses_and_prunes(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "LOOK_SECONDS", 0.0)
    monkeypatch.setenv("CHATLLAMA_STORE", url)
    stores = []
    for name in ("one", "other", "third"):
        monkeypatch.setenv("CHATLLAMA_STORE_CACHE", str(tmp_path / name))
        stores.append(Store(store_root()))
    one, other, third = stores
    first = one.make(recipe(), writes("1"), {}, force=False).version
    assert other.make(recipe(), never, {}, force=False).version.id == first.id
    second = other.make(recipe(code_version="2"), writes("2"), {}, force=False).version
    assert one.read("actor_sft", "mine").id == second.id
    assert (one.read("actor_sft", "mine").path / "weights" / "model.bin").read_text() == "2"
    assert prune(other, "actor_sft", "mine", keep=1) == [first.id]
    assert [version.id for version in third.versions("actor_sft", "mine")] == [second.id]


@pytest.mark.parametrize("faults", [{}, {"drop": 3}], ids=["whole lines", "cut lines"])
def test_a_file_of_many_parts_is_there_whole(
    cloud: Cloud, url: str, tmp_path: Path, faults: dict[str, object]
) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(range(256)) * (PART_BYTES // 100))
    cloud.faults.fail(faults)
    Objects(url).send(file, "large")
    found = Objects(url).get("large")
    assert found is not None and found.data == file.read_bytes()


def test_where_lines_are_cut_all_is_there_once(cloud: Cloud, url: str) -> None:
    objects = Objects(url)
    cloud.faults.fail({"drop": 3})
    for number in range(9):
        assert objects.create(f"cut/{number}", b"1")
        assert not objects.create(f"cut/{number}", b"2")
    cloud.faults.fail({})
    assert sorted(entry.key for entry in objects.list("cut/")) == [f"cut/{n}" for n in range(9)]


def test_a_put_whose_answer_is_lost_counts_as_made(cloud: Cloud, url: str) -> None:
    objects = Objects(url)
    cloud.faults.fail({"lose": "/lost"})
    assert objects.create("lost", b"1")
    seen = objects.get("lost")
    assert seen is not None
    cloud.faults.fail({"lose": "/lost"})
    assert objects.replace("lost", b"2", seen.tag)
    assert not objects.replace("lost", b"3", seen.tag)


def test_what_is_no_bucket_is_told(cloud: Cloud) -> None:
    if cloud.scheme == "gs":
        pytest.skip("fake-gcs-server tells no more of it than of an object that isn't there")
    nowhere = Objects("az://nowhere/at/all")
    for ask in (lambda: nowhere.create("a", b"1"), lambda: list(nowhere.list("a"))):
        with pytest.raises(StoreError, match="there is no such bucket; make it first"):
            ask()


def test_a_bucket_without_rights_names_the_clouds_own_variables(
    cloud: Cloud, url: str, tmp_path: Path
) -> None:
    objects, file = Objects(url), tmp_path / "file"
    objects.create("a", b"1")
    file.write_bytes(bytes(PART_BYTES + 1))
    cloud.faults.fail({"refuse": ["GET", "PUT", "POST", "DELETE"]})
    for ask in (
        lambda: objects.get("a"),
        lambda: objects.create("b", b"1"),
        lambda: objects.send(file, "c"),
        lambda: list(objects.list("a")),
        lambda: objects.delete(["a"]),
    ):
        with pytest.raises(StoreError, match=rf"no right to .* set {WHO_ASKS[cloud.scheme]}"):
            ask()


def test_a_key_that_is_not_taken_names_the_clouds_own_variables(
    cloud: Cloud, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cloud.scheme == "gs":
        pytest.skip("fake-gcs-server lets everybody in")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "d3Jvbmc=")
    other = Objects(url)
    for ask in (lambda: other.get("a"), lambda: list(other.list("a"))):
        with pytest.raises(StoreError, match=r"no right to .* set AZURE_STORAGE_ACCOUNT_NAME and"):
            ask()
