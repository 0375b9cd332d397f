"""What DeepSpeed is asked before models are loaded; what a killed build of its operations leaves:
nobody may wait for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from torch.utils.file_baton import FileBaton

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.memory.means import Means
from chatllama_pipeline.settings.deepspeed_config import DeepSpeedPlan
from chatllama_pipeline.training.builds import OLD_SECONDS, builds_root, clear_abandoned_builds
from chatllama_pipeline.training.distributed import (
    prepare_processes,
    require_devices,
    require_known_to_deepspeed,
)


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """torch's own lock of a build, taken two minutes ago."""
    folder = tmp_path / "py311_cpu" / "deepspeed_shm_comm"
    folder.mkdir(parents=True)
    baton = FileBaton(str(folder / "lock"))
    assert baton.try_acquire()
    taken = time.time() - 2 * OLD_SECONDS
    os.utime(folder / "lock", (taken, taken))
    return folder / "lock"


def test_the_lock_of_a_killed_build_goes_before_deepspeed_is_asked_for(
    lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(lock.parents[2]))
    monkeypatch.setenv("RANK", "0")
    prepare_processes(Means("cuda", deepspeed=DeepSpeedPlan({"zero_optimization": {"stage": 2}})))
    assert FileBaton(str(lock)).try_acquire()


def test_without_a_compiler_only_what_is_built_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    sharded: dict[str, Any] = {"stage": 3}
    require_devices(Means(deepspeed=DeepSpeedPlan({"zero_optimization": sharded})))
    offloaded = {**sharded, "offload_optimizer": {"device": "cpu"}}
    with pytest.raises(SettingsError, match=r"install g\+\+, or train without offload"):
        require_devices(Means(deepspeed=DeepSpeedPlan({"zero_optimization": offloaded})))


@pytest.mark.parametrize(
    ("zero", "told"),
    [
        ({"stage": 3, "stage3_max_live_parametres": 7}, r"stage3_max_live_parametres.*correct"),
        ({"stage": 2, "zeropp_loco_param": {}}, r"has been removed.*correct or remove that there"),
        ({"stage": 3, "reduce_bucket_size": "many"}, "reduce_bucket_size.*correct"),
    ],
)
def test_what_deepspeed_does_not_take_is_told_by_file_and_key(
    tmp_path: Path, zero: dict[str, Any], told: str
) -> None:
    file = tmp_path / "ds_config.json"
    right = DeepSpeedPlan({"zero_optimization": {"stage": zero["stage"]}}, file)
    require_known_to_deepspeed(Means(deepspeed=right))
    wrong = DeepSpeedPlan({"zero_optimization": zero}, file)
    with pytest.raises(SettingsError, match=rf"{file}: DeepSpeed doesn't take it: .*{told}"):
        require_known_to_deepspeed(Means(deepspeed=wrong))


def test_a_build_that_goes_on_keeps_its_lock(lock: Path) -> None:
    sleeps = [sys.executable, "-c", "input()"]
    with subprocess.Popen(sleeps, cwd=lock.parent, stdin=subprocess.PIPE) as compiler:
        assert clear_abandoned_builds(lock.parents[2]) == []
        compiler.kill()
    assert clear_abandoned_builds(lock.parents[2]) == [lock]


def test_a_lock_that_was_taken_just_now_stays(lock: Path) -> None:
    lock.touch()
    assert clear_abandoned_builds(lock.parents[2]) == []


def test_without_a_folder_named_builds_stand_where_torch_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    assert builds_root().name == "torch_extensions"
