"""A store whose locks are leases: who is kept out, what isn't published, when it comes to that."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest

from chatllama_pipeline.errors import SettingsError, StoreError
from chatllama_pipeline.records import Outcome
from chatllama_pipeline.store.locks import lease
from chatllama_pipeline.store.locks.held import MARK, by_leases, hold, is_held, leases_of, mark
from chatllama_pipeline.store.owned import all_locked, busy_assets
from chatllama_pipeline.store.places.check import folder_findings
from chatllama_pipeline.store.places.start import require_sound
from chatllama_pipeline.store.versions import Store, Workbench
from tests.store.recipes import recipe

LOCK = Path("checked") / "mine" / ".lock"


def build(bench: Workbench) -> Outcome:
    (bench.output / "payload").write_text("made")
    return Outcome()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holders show that they live within a moment."""
    terms = lease.Terms(beat=0.02, lasts=30.0, look=0.01)
    monkeypatch.setattr(lease, "Terms", lambda: terms)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    mark(tmp_path, "a test says so")
    return tmp_path


@pytest.fixture
def no_kernel_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that knows no locks, as some mounts are."""

    def refuse(handle: object, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("quick", "no_kernel_locks")
def test_what_is_made_in_one_place_keeps_others_out(root: Path) -> None:
    (root / LOCK).parent.mkdir(parents=True)
    held = hold(root, root / LOCK)
    assert is_held(root, root / LOCK)
    assert busy_assets(root, "mine") == ["checked"]
    told = r"is being made: .*\(process \d+ on"
    with pytest.raises(StoreError, match=told), all_locked(root, "mine"):
        pass
    held.close()
    assert busy_assets(root, "mine") == []
    with all_locked(root, "mine"):
        pass


@pytest.mark.usefixtures("no_kernel_locks")
def test_a_version_is_made_and_given_up(root: Path) -> None:
    made = Store(root).make(recipe(), build, {}, force=False)
    assert (made.version.path / "payload").read_text() == "made"
    assert len(list(root.glob("*/*/.lock.leases/*.json"))) == 1


def test_who_loses_the_lease_publishes_nothing(root: Path) -> None:
    def outlived(bench: Workbench) -> Outcome:
        [folder] = root.glob("*/*/.lock.leases")
        (folder / "00000002.json").write_text('{"host": "n2", "pid": 7}')
        return build(bench)

    with pytest.raises(StoreError, match=r"process 7 on n2 has taken it\): .*nothing is published"):
        Store(root).make(recipe(), outlived, {}, force=False)
    assert list(root.glob("*/*/versions/*")) == []
    assert list(root.glob("*/*/current.json")) == []


def test_a_store_without_the_mark_has_no_leases(tmp_path: Path) -> None:
    Store(tmp_path).make(recipe(), build, {}, force=False)
    assert list(tmp_path.glob("**/*.leases")) == []


def test_a_run_where_the_environment_asks_for_leases_marks_the_store_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_sound(tmp_path)
    assert not by_leases(tmp_path)
    monkeypatch.setenv("CHATLLAMA_STORE_LOCKS", "leases")
    require_sound(tmp_path)
    assert by_leases(tmp_path)
    assert "CHATLLAMA_STORE_LOCKS asks for it" in (tmp_path / MARK).read_text()


def test_a_kind_of_lock_that_there_is_not_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATLLAMA_STORE_LOCKS", "lease")
    with pytest.raises(SettingsError, match="CHATLLAMA_STORE_LOCKS is 'lease': use one of kernel"):
        require_sound(tmp_path)


@pytest.mark.usefixtures("no_kernel_locks")
def test_a_place_without_locks_gets_leases_when_a_run_begins(tmp_path: Path) -> None:
    require_sound(tmp_path)
    assert by_leases(tmp_path)
    Store(tmp_path).make(recipe(), build, {}, force=False)
    assert leases_of(next(tmp_path.glob("*/*/.lock"))).is_dir()


def test_a_check_says_that_leases_take_the_place_of_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda handle, how: None)
    found = {one.what: one for one in folder_findings(tmp_path)}
    assert by_leases(tmp_path)
    for what in ("locks", "locks between processes"):
        assert found[what].level == "warning"
        assert "leases take their place" in found[what].told
    assert found["several makers"].level == "ok"
