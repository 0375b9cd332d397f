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


def test_a_file_of_many_parts_is_there_whole(cloud: Cloud, url: str, tmp_path: Path) -> None:
    if cloud.scheme == "gs":
        pytest.skip("fake-gcs-server knows no multipart uploads of the XML API")
    file = tmp_path / "file"
    file.write_bytes(bytes(range(256)) * (PART_BYTES // 100))
    Objects(url).send(file, "large")
    found = Objects(url).get("large")
    assert found is not None and found.data == file.read_bytes()


def test_what_is_no_bucket_is_told(cloud: Cloud) -> None:
    if cloud.scheme == "gs":
        pytest.skip("fake-gcs-server tells no more of it than of an object that isn't there")
    nowhere = Objects("az://nowhere/at/all")
    for ask in (lambda: nowhere.create("a", b"1"), lambda: list(nowhere.list("a"))):
        with pytest.raises(StoreError, match="there is no such bucket; make it first"):
            ask()


def test_a_bucket_without_rights_names_the_clouds_own_variables(
    cloud: Cloud, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cloud.scheme == "gs":
        pytest.skip("fake-gcs-server lets everybody in")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "d3Jvbmc=")
    other = Objects(url)
    for ask in (lambda: other.get("a"), lambda: list(other.list("a"))):
        with pytest.raises(StoreError, match=r"no right to .* set AZURE_STORAGE_ACCOUNT_NAME and"):
            ask()
