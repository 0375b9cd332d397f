from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.training.resume import state as resume
from chatllama_pipeline.training.resume.state import States

ORIGIN = {"code version": "1", "actor_config.lr": 0.001}


def states(folder: Path, keep: int = 1, **origin: Any) -> States:
    return States(folder, ORIGIN | origin, keep)


def save(into: States, text: str) -> Path:
    folder = into.begin()
    (folder / "inner").mkdir()
    (folder / "inner" / "weights").write_text(text)
    (folder / "step").write_text("7")
    into.commit(folder)
    return folder


def newest(of: States) -> str | None:
    folder = of.newest(lambda text: pytest.fail(text))
    return (folder / "inner" / "weights").read_text() if folder else None


def kept(of: States) -> list[str]:
    return sorted(
        (path / "inner" / "weights").read_text() for path in of.folder.iterdir() if path.is_dir()
    )


def test_a_saved_state_is_loaded_whole_and_only_the_last_are_kept(tmp_path: Path) -> None:
    one = states(tmp_path, keep=2)
    assert newest(one) is None
    for text in ("one", "two", "three"):
        save(one, text)
    assert newest(one) == "three"
    assert kept(one) == ["three", "two"]


def test_the_state_is_private(tmp_path: Path) -> None:
    folder = save(states(tmp_path), "one")
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_save_killed_half_way_leaves_the_older_state(tmp_path: Path) -> None:
    mine = states(tmp_path)
    save(mine, "one")
    unfinished = mine.begin()
    (unfinished / "step").write_text("8")
    assert newest(mine) == "one"
    save(mine, "two")
    assert newest(mine) == "two"
    assert not unfinished.exists()


@pytest.mark.parametrize("damage", ["changed", "removed", "added", "manifest"])
def test_a_damaged_state_is_set_aside_and_the_one_before_it_taken(
    tmp_path: Path, damage: str
) -> None:
    mine = states(tmp_path, keep=2)
    save(mine, "one")
    folder = save(mine, "two")
    if damage == "changed":
        (folder / "inner" / "weights").write_text("2wo")
    elif damage == "removed":
        (folder / "step").unlink()
    elif damage == "added":
        (folder / "more").write_text("")
    else:
        folder.with_suffix(".json").write_text("{")
    warnings: list[str] = []
    found = mine.newest(warnings.append)
    assert found is not None and (found / "inner" / "weights").read_text() == "one"
    assert len(warnings) == 1 and f"{folder} is damaged" in warnings[0]
    assert (tmp_path / "state.damaged" / folder.name).is_dir()
    assert newest(mine) == "one"


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        ({"actor_config.lr": 0.002}, r"actor_config\.lr 0\.001 there, 0\.002 now"),
        ({"code version": "2"}, r'code version "1" there, "2" now'),
        ({"actor_config.packing": True}, r"actor_config\.packing null there, true now"),
    ],
)
def test_a_state_of_other_settings_or_code_is_never_mixed(
    tmp_path: Path, origin: dict[str, Any], said: str
) -> None:
    save(states(tmp_path), "one")
    with pytest.raises(SettingsError, match=said + ".*remove"):
        states(tmp_path, **origin).newest(print)
    assert newest(states(tmp_path)) == "one"


def test_old_states_make_room_for_a_new_one_and_the_newest_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = states(tmp_path, keep=3)
    for text in ("one", "two", "three"):
        save(mine, text)

    class Usage:
        free = 10 * 2**20

    monkeypatch.setattr(resume.shutil, "disk_usage", lambda folder: Usage)
    missing = mine.room_for(2**30)
    assert missing is not None
    assert "needs about 1024 MiB, 10 MiB are free there: free space, lower" in missing
    assert kept(mine) == ["three"]


def test_what_a_state_is_made_from_is_readable(tmp_path: Path) -> None:
    folder = save(states(tmp_path), "one")
    manifest = json.loads(folder.with_suffix(".json").read_text())
    assert manifest["made_from"] == ORIGIN
    assert sorted(manifest["files"]) == ["inner/weights", "step"]
