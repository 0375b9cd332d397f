"""What trackers keep of a training; real event files, real offline runs."""

from __future__ import annotations

import importlib.util
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import directory_check

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.records import StageSpec
from chatllama_pipeline.settings import TrackingSettings
from chatllama_pipeline.training import trackers
from chatllama_pipeline.training.trackers import Trackers
from tests.tiny import MakeSpec


@pytest.fixture
def spec(make_spec: MakeSpec, tmp_path: Path) -> StageSpec:
    return replace(make_spec("actor_sft", {}, {}), logs=str(tmp_path / "_logs" / "abc"))


def scalars(folder: str) -> list[tuple[str, int, float]]:
    """All scalars of TensorBoard's event files: each record is length, CRC, event, CRC."""
    directory_check(folder)
    found = []
    for path in sorted(Path(folder).glob("events*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "little")
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
            found += [(v.tag, event.step, round(v.simple_value, 4)) for v in event.summary.value]
            at += 12 + length + 4
    return found


def test_figures_go_to_tensorboard_by_default_and_a_gap_stays_a_gap(spec: StageSpec) -> None:
    with Trackers(spec, TrackingSettings(), is_main=True) as tracked:
        tracked.log(1, {"loss": 2.5})
        tracked.log(2, {"loss": float("nan"), "validation_loss": 1.25})
    assert scalars(spec.logs) == [("loss", 1, 2.5), ("validation_loss", 2, 1.25)]


def test_other_processes_and_a_run_by_hand_track_nothing(spec: StageSpec, tmp_path: Path) -> None:
    for mute, main in ((spec, False), (replace(spec, logs=""), True)):
        with Trackers(mute, TrackingSettings(), is_main=main) as tracked:
            tracked.log(1, {"loss": 2.5})
    assert not (tmp_path / "_logs").exists()


def test_a_tracker_that_fails_is_left_out_and_told(
    spec: StageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Trackers(spec, TrackingSettings(), is_main=True) as tracked:

        def away(step: int, figures: Any) -> None:
            raise ConnectionError("no answer")

        monkeypatch.setattr(tracked._open["tensorboard"], "log", away)
        tracked.log(1, {"loss": 2.5})
        tracked.log(2, {"loss": 2.5})
    assert tracked.warnings == ["the tracker tensorboard failed and was left out: no answer"]


def test_a_tracker_that_is_not_installed_is_refused_with_how_to_get_it(
    spec: StageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any) -> None:
        raise ModuleNotFoundError("No module named 'wandb'", name="wandb")

    monkeypatch.setitem(trackers.TRACKERS, "wandb", missing)
    with pytest.raises(SettingsError, match=r"names wandb, .*pip install -e '\.\[wandb\]'"):
        Trackers(spec, TrackingSettings(trackers=["wandb"]), is_main=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.skipif(not importlib.util.find_spec("wandb"), reason="the extra wandb")
def test_wandb_keeps_an_offline_run(spec: StageSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    with Trackers(spec, TrackingSettings(trackers=["wandb"]), is_main=True) as tracked:
        tracked.log(1, {"loss": 2.5})
    assert tracked.warnings == []
    assert len(list(Path(spec.logs).rglob("run-actor_sft-abc.wandb"))) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.skipif(not importlib.util.find_spec("mlflow"), reason="the extra mlflow")
def test_mlflow_continues_its_run_in_a_file(spec: StageSpec) -> None:
    for step in (1, 2):
        with Trackers(spec, TrackingSettings(trackers=["mlflow"]), is_main=True) as tracked:
            tracked.log(step, {"loss": 2.5 / step})
        assert tracked.warnings == []
    with sqlite3.connect(Path(spec.logs) / "mlflow.db") as database:
        rows = database.execute("select step, value, run_uuid from metrics order by step")
        found = rows.fetchall()
    assert [(step, value) for step, value, _ in found] == [(1, 2.5), (2, 1.25)]
    assert len({run for _, _, run in found}) == 1
