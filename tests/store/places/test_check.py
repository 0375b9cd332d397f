"""`chatllama store check`: what holds of a folder, tried there, and what follows."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import time_machine
from click.testing import CliRunner

from chatllama_pipeline.cli.main import cli
from chatllama_pipeline.records import Finding
from chatllama_pipeline.store.places.check import folder_findings
from chatllama_pipeline.store.places.folder import ALONE, findings, linked, locked
from chatllama_pipeline.store.places.hosts import Host, host_findings, note_host, this_host
from chatllama_pipeline.store.places.mounts import locks_of, mount_of, read_mounts
from chatllama_pipeline.store.places.together import (
    created_once,
    locked_between,
    peers,
    seen_by_reader,
)


def wrong(found: Iterator[Finding]) -> dict[str, str]:
    return {one.what: f"{one.level}: {one.told}" for one in found if one.level != "ok"}


def copies(source: os.PathLike[str], target: os.PathLike[str]) -> None:
    """A rename as mounts of buckets have it: the target is written over, then the source goes."""
    if Path(source).is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
        shutil.rmtree(source)
    else:
        shutil.copyfile(source, target)
        os.unlink(source)


def test_a_local_disk_holds_to_all_and_nothing_but_a_note_stays(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["store", "check", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "fault" not in done.output
    assert "several makers: 3 processes published 9 versions, all whole" in done.output
    assert done.output.endswith(f"a store can stand in {tmp_path}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["_hosts"]


def test_a_place_that_is_not_there_is_no_store(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["store", "check", str(tmp_path / "unmounted")])
    assert "is no folder: make it, or mount what should stand there" in str(done.exception)
    assert not (tmp_path / "unmounted").exists()


def test_renames_that_copy_are_faults_and_nothing_further_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "replace", copies)
    monkeypatch.setattr(os, "rename", copies)
    done = CliRunner().invoke(cli, ["store", "check", str(tmp_path)])
    assert done.exit_code == 1
    assert done.output.count("a rename isn't one step here: a version could be read half") == 2
    assert "several makers" not in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_reader_in_another_process_sees_a_rename_that_takes_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(source: Path, target: Path) -> None:
        content = Path(source).read_text()
        Path(target).unlink(missing_ok=True)
        time.sleep(0.01)
        for first in range(0, len(content), 1000):
            with Path(target).open("a") as handle:
                handle.write(content[first : first + 1000])
        Path(source).unlink()

    assert seen_by_reader(tmp_path).level == "ok"
    (tmp_path / "again").mkdir()
    monkeypatch.setattr(os, "replace", slowly)
    found = seen_by_reader(tmp_path / "again")
    assert found.level == "fault" and "a version could be read half" in found.told


def test_a_reader_counts_what_is_missing_and_folders_that_lack_files(tmp_path: Path) -> None:
    (tmp_path / "versions" / "half").mkdir(parents=True)
    (tmp_path / "stop").touch()
    with peers("read", (tmp_path,)) as (reader,):
        reader.begin()
        seen = reader.heard()
    assert seen == {"reads": 1, "missing": 1, "mixed": 0, "refused": 0, "half": 1}


def test_a_process_that_ends_without_a_word_is_told(tmp_path: Path) -> None:
    with peers("read", (tmp_path / "nowhere",)) as (reader,):
        reader.begin()
        with pytest.raises(OSError, match="a process that tried it ended with 1"):
            reader.heard()


def test_where_nothing_links_copies_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert wrong(findings(tmp_path, ALONE)) == {
        "hard links": "warning: Operation not permitted: copies stand in their place, and the same "
        "bytes take room again"
    }
    monkeypatch.setattr(os, "link", shutil.copyfile)
    (tmp_path / "copied").mkdir()
    assert linked(tmp_path / "copied").level == "fault"


def test_locks_that_hold_nobody_out_are_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda handle, how: None)
    assert "two hold one lock: two runs could make one asset at once" in locked(tmp_path).told
    found = locked_between(tmp_path)
    assert found.level == "fault" and "another process' lock: taken" in found.told


def test_a_place_without_locks_says_how_to_have_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: object, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    found = locked(tmp_path)
    assert found.level == "fault"
    assert found.told.startswith("No locks available: ") and "Mount it with locks" in found.told


def test_locks_and_new_files_are_kept_apart_between_processes(tmp_path: Path) -> None:
    assert locked_between(tmp_path).level == "ok"
    (tmp_path / "made").mkdir()
    assert created_once(tmp_path / "made").level == "ok"
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "7").touch()
    assert created_once(tmp_path / "some").level == "fault", "50 files were made 49 times"


def test_a_clock_minutes_away_is_told_with_what_follows(tmp_path: Path) -> None:
    with time_machine.travel(10 * 60 + 1.0e9, tick=True):
        found = wrong(folder_findings(tmp_path))
    assert set(found) == {"clock"}
    assert "ahead of this machine's: which run began later" in found["clock"]


@pytest.mark.parametrize(
    ("path", "apart", "told"),
    [
        (None, 0.0, None),
        ("/mnt/store", 0.0, "node2 has it at /mnt/store, this one at "),
        (None, -300.0, "the clock of node2 is 300 s ahead of this machine's"),
        (None, 300.0, "the clock of node2 is 300 s behind this machine's"),
    ],
)
def test_another_machine_that_sees_the_store_elsewhere_or_at_another_time_is_told(
    tmp_path: Path, path: str | None, apart: float, told: str | None
) -> None:
    here = this_host(tmp_path, 0.0)
    note_host(tmp_path, here)
    note_host(tmp_path, Host("node2", path or here.path, here.device, apart, here.at))
    (tmp_path / "_hosts" / "broken.json").write_text("{")
    [found] = host_findings(tmp_path, here)
    assert found.level == ("warning" if told else "ok")
    assert found.told.startswith(told or "node2 has it at the same path and time")


MOUNTS = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:40 / /mnt/nfs rw,relatime shared:9 - nfs4 server:/export rw,vers=4.2,local_lock=none
31 22 0:41 / /mnt/nolock rw - nfs server:/old rw,vers=3,nolock,local_lock=all
32 22 0:42 / /mnt/scratch rw - lustre 10.0.0.1@tcp:/fs rw,flock
33 22 0:43 / /mnt/own\040scratch rw - lustre 10.0.0.1@tcp:/fs rw,localflock
34 22 0:44 / /mnt/bare rw - lustre 10.0.0.1@tcp:/fs rw
35 30 0:45 / /mnt/nfs/inner rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("place", "kind", "reaches"),
    [
        ("/srv/store", "ext4", True),
        ("/mnt/nfs/store", "nfs4", True),
        ("/mnt/nfs/inner/store", "tmpfs", True),
        ("/mnt/nolock/store", "nfs", False),
        ("/mnt/scratch", "lustre", True),
        ("/mnt/own scratch/a", "lustre", False),
        ("/mnt/bare/a", "lustre", False),
    ],
)
def test_a_mount_whose_locks_stay_on_one_machine_is_told(
    place: str, kind: str, reaches: bool
) -> None:
    mount = mount_of(Path(place), read_mounts(MOUNTS))
    assert mount is not None and mount.kind == kind
    assert locks_of(mount).level == ("ok" if reaches else "warning")
