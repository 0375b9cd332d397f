from __future__ import annotations

import stat
from pathlib import Path

import pytest

from chatllama_pipeline.training.resume import load_state, save_state


def write(text: str, folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "weights").write_text(text)
    (folder / "step").write_text("7")


def test_a_saved_state_is_loaded_whole_and_only_the_newest_is_kept(tmp_path: Path) -> None:
    assert load_state(tmp_path) is None
    save_state(tmp_path, lambda folder: write("one", folder))
    save_state(tmp_path, lambda folder: write("two", folder))
    state = load_state(tmp_path)
    assert state is not None
    assert (state / "inner" / "weights").read_text() == "two"
    assert len([path for path in (tmp_path / "state").iterdir() if path.is_dir()]) == 1


def test_the_state_is_private(tmp_path: Path) -> None:
    save_state(tmp_path, lambda folder: write("one", folder))
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_a_save_killed_half_way_leaves_the_older_state(tmp_path: Path) -> None:
    save_state(tmp_path, lambda folder: write("one", folder))

    def killed(folder: Path) -> None:
        (folder / "step").write_text("8")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_state(tmp_path, killed)
    state = load_state(tmp_path)
    assert state is not None
    assert (state / "step").read_text() == "7"
    save_state(tmp_path, lambda folder: write("three", folder))
    state = load_state(tmp_path)
    assert state is not None
    assert (state / "inner" / "weights").read_text() == "three"


@pytest.mark.parametrize("damage", ["changed", "removed", "added", "manifest"])
def test_a_damaged_state_is_set_aside_with_a_warning(tmp_path: Path, damage: str) -> None:
    save_state(tmp_path, lambda folder: write("one", folder))
    state = load_state(tmp_path)
    assert state is not None
    if damage == "changed":
        (state / "inner" / "weights").write_text("0ne")
    elif damage == "removed":
        (state / "step").unlink()
    elif damage == "added":
        (state / "more").write_text("")
    else:
        (tmp_path / "state" / "manifest.json").write_text("{")
    warnings: list[str] = []
    assert load_state(tmp_path, warnings.append) is None
    assert len(warnings) == 1 and "starts over" in warnings[0]
    assert (tmp_path / "state.damaged").is_dir()
    assert load_state(tmp_path, warnings.append) is None and len(warnings) == 1
