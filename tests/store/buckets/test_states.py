"""States of unfinished trainings in a bucket: another machine goes on from them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from chatllama_pipeline.progress import Progress, listening
from chatllama_pipeline.records import Outcome
from chatllama_pipeline.store.remote import states as states_module
from chatllama_pipeline.store.remote.bucket import Bucket
from chatllama_pipeline.store.remote.objects import Objects
from chatllama_pipeline.store.versions import Build, Store, Workbench, store_root
from chatllama_pipeline.training.resume.state import States
from tests.store.buckets.s3 import S3
from tests.store.recipes import recipe, writes
from tests.waiting import wait_until

ORIGIN = {"settings": 1}


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(states_module, "LOOK_SECONDS", 0.02)
    monkeypatch.setenv("CHATLLAMA_STORE", url)


def machine(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("CHATLLAMA_STORE_CACHE", str(cache))
    return Store(store_root())


def save(bench: Workbench, step: int) -> None:
    states = States(bench.run_folder, ORIGIN)
    folder = states.begin()
    (folder / "step").write_text(str(step))
    (folder / "inner").mkdir()
    (folder / "inner" / "weights").write_text(str(step) * 1000)
    states.commit(folder)


def step_of(bench: Workbench) -> int:
    """The step of the state to go on from; 0 where there is none."""
    folder = States(bench.run_folder, ORIGIN).newest(lambda told: pytest.fail(told))
    return int((folder / "step").read_text()) if folder else 0


def keys(url: str) -> list[str]:
    return [entry.key for entry in Objects(url).list("states/")]


def sent(url: str) -> list[str]:
    """The numbers of the states that are whole in the bucket."""
    return [Path(key).stem for key in keys(url) if key.count("/") == 4]


def trains(url: str, found: list[int], *, ends: bool = False) -> Build:
    """Goes on, saves a state after each of two further steps, and dies once the last is sent."""

    def build(bench: Workbench) -> Outcome:
        found.append(step_of(bench))
        if ends:
            return writes("trained")(bench)
        for step in (1, 2):
            save(bench, found[-1] + step)
        number = max(path.stem for path in (bench.run_folder / "state").glob("*.json"))
        wait_until(lambda: number in sent(url))
        raise RuntimeError("the machine is lost")

    return build


def test_another_machine_goes_on_and_what_is_published_leaves_no_state(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    for name in ("one", "other", "one"):
        store = machine(tmp_path / name, monkeypatch)
        with pytest.raises(RuntimeError, match="the machine is lost"):
            store.make(recipe(), trains(url, found), {}, force=False)
        assert len(keys(url)) == 3, "the newest alone: two files, and what names them"
    store = machine(tmp_path / "third", monkeypatch)
    store.make(recipe(), trains(url, found, ends=True), {}, force=False)
    assert found == [0, 2, 4, 6]
    assert keys(url) == []
    folder = store.run_folder(recipe()).parents[3]
    assert list(folder.rglob("*.coming")) == []


def test_the_last_state_before_an_end_is_sent(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states_module, "LOOK_SECONDS", 1e6)

    def interrupted(bench: Workbench) -> Outcome:
        save(bench, 7)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        machine(tmp_path / "one", monkeypatch).make(recipe(), interrupted, {}, force=False)
    found: list[int] = []
    other = machine(tmp_path / "other", monkeypatch)
    other.make(recipe(), trains(url, found, ends=True), {}, force=False)
    assert found == [7]


def test_a_state_that_is_damaged_there_is_told_and_training_starts_over(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, said = list[int](), list[str]()
    with pytest.raises(RuntimeError):
        machine(tmp_path / "one", monkeypatch).make(recipe(), trains(url, found), {}, force=False)
    objects = Objects(url)
    [weights] = [key for key in keys(url) if key.endswith("inner/weights")]
    objects.delete([weights])
    objects.create(weights, b"3" * 1000)
    other = machine(tmp_path / "other", monkeypatch)
    with listening(Progress("actor_sft", said.append)):
        other.make(recipe(), trains(url, found, ends=True), {}, force=False)
    assert found == [0, 0]
    assert any("a state in the bucket is left alone" in line for line in said)


def test_a_bucket_that_refuses_states_ends_no_training(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3: S3
) -> None:
    said: list[str] = []

    def build(bench: Workbench) -> Outcome:
        s3.fail(refuse=["PUT"])
        save(bench, 1)
        wait_until(lambda: any("a state wasn't sent" in line for line in said))
        s3.fail()
        wait_until(lambda: any("is in s3://" in line for line in said))
        return writes("trained")(bench)

    with listening(Progress("actor_sft", said.append)):
        machine(tmp_path / "one", monkeypatch).make(recipe(), build, {}, force=False)
    assert keys(url) == []


def test_states_go_with_the_run_folder_that_is_pruned(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine(tmp_path / "one", monkeypatch)
    with pytest.raises(RuntimeError):
        store.make(recipe(), trains(url, []), {}, force=False)
    store.remove([], [store.run_folder(recipe())])
    assert keys(url) == []


def test_states_go_with_their_assistant(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError):
        machine(tmp_path / "one", monkeypatch).make(recipe(), trains(url, []), {}, force=False)
    Bucket(url).forget("mine")
    assert keys(url) == []


def test_a_machine_that_is_killed_amid_training_loses_at_most_what_was_not_sent(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = textwrap.dedent("""
        import os, time
        from chatllama_pipeline.store.remote import states
        from chatllama_pipeline.store.versions import Store, store_root
        from tests.store.buckets.test_states import save
        from tests.store.recipes import recipe

        states.LOOK_SECONDS = 0.02
        def build(bench):
            for step in range(1, 10_000):
                save(bench, step)
                time.sleep(0.05)
        Store(store_root()).make(recipe(), build, {}, force=False)
    """)
    variables = {**os.environ, "CHATLLAMA_STORE_CACHE": str(tmp_path / "one")}
    variables["PYTHONPATH"] = str(Path(__file__).parents[3])
    with subprocess.Popen([sys.executable, "-c", program], env=variables) as training:
        wait_until(lambda: any(whole >= "00000003" for whole in sent(url)))
        training.send_signal(signal.SIGKILL)
    found: list[int] = []
    other = machine(tmp_path / "other", monkeypatch)
    other.make(recipe(), trains(url, found, ends=True), {}, force=False)
    assert found[0] >= 3
