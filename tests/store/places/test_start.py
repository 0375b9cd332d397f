"""What is looked at when a run begins: once for a place, and refused in a line."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import time_machine

from chatllama_pipeline.errors import StoreError
from chatllama_pipeline.store.places.hosts import HOSTS, note_host, noted_hosts, this_host
from chatllama_pipeline.store.views import begin_run
from tests.store.places.test_check import copies


def test_a_run_is_refused_where_renames_are_no_single_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "replace", copies)
    with pytest.raises(StoreError, match="renamed files: a rename isn't one step here") as told:
        begin_run(tmp_path / "store", "run", None, experiment=False)
    assert "\n" not in str(told.value)
    assert "`chatllama store check` tells all" in str(told.value)
    assert list((tmp_path / "store").iterdir()) == []


def test_a_place_is_tried_once_and_again_where_it_was_moved_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_run(tmp_path / "store", "first", None, experiment=False)
    monkeypatch.setattr(os, "rename", copies)
    begin_run(tmp_path / "store", "second", None, experiment=False)
    monkeypatch.undo()
    (tmp_path / "store").rename(tmp_path / "moved")
    monkeypatch.setattr(os, "rename", copies)
    with pytest.raises(StoreError, match="renamed folders"):
        begin_run(tmp_path / "moved", "third", None, experiment=False)


def test_several_runs_may_begin_at_once_at_a_place_that_none_has_tried(tmp_path: Path) -> None:
    host = this_host(tmp_path, 0.0)
    with ThreadPoolExecutor(8) as several:
        list(several.map(lambda _: note_host(tmp_path, host), range(200)))
    assert list(noted_hosts(tmp_path)) == [host]
    assert [path.name for path in (tmp_path / HOSTS).iterdir()] == [f"{host.name}.json"]


def test_a_run_begins_once_where_nothing_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    first = begin_run(tmp_path / "store", "run", None, experiment=False)
    again = begin_run(tmp_path / "store", "run", None, experiment=True)
    assert (again.begun.at, again.begun.experiment) == (first.begun.at, False)
    assert sorted(path.name for path in first.view.iterdir()) == [".begun.json.lock", "begun.json"]


def test_a_run_warns_of_a_clock_that_is_minutes_away(tmp_path: Path) -> None:
    store = begin_run(tmp_path / "store", "run", None, experiment=False)
    assert store.begun.warnings == []
    with time_machine.travel(1.0e9, tick=True):
        store = begin_run(tmp_path / "store", "later", None, experiment=False)
    [told] = store.begun.warnings
    assert "the clock of the store is" in told and "ahead of this machine's" in told
