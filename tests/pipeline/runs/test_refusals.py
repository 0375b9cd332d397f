"""Errors raised on purpose end a step by their message; tracebacks are for what nobody expected."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from chatllama_pipeline.definitions import definitions
from chatllama_pipeline.errors import CheckError, DataError
from resources.console import console_logger
from resources.refusals import refusing
from resources.store import StoreResource
from tests.pipeline.place import REPOSITORY, Place
from tests.waiting import PATIENCE


@dg.asset
@refusing
def refuses(store: StoreResource) -> Iterator[dg.MaterializeResult]:  # type: ignore[type-arg]
    yield from ()
    try:
        raise OSError("nobody answers")
    except OSError as error:
        raise DataError("rows.csv could not be had: look at the network") from error


@dg.asset
@refusing
def refuses_too(store: StoreResource) -> Iterator[dg.MaterializeResult]:  # type: ignore[type-arg]
    yield from ()
    raise CheckError("rows.csv could not be had: look at the network")


@dg.asset
@refusing
def surprises(store: StoreResource) -> Iterator[dg.MaterializeResult]:  # type: ignore[type-arg]
    yield from ()
    raise ZeroDivisionError("of the step")


def run(*assets: dg.AssetsDefinition) -> dg.ExecuteInProcessResult:
    """A run of the assets, with our console."""
    job = dg.Definitions(
        assets=assets, resources={"store": StoreResource()}, loggers={"console": console_logger}
    ).resolve_implicit_global_asset_job_def()
    return job.execute_in_process(raise_on_error=False, run_config={"loggers": {"console": {}}})


def materialize(
    place: Place, name: str, asset: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """The command as a person types it, without our console."""
    command = "dagster asset materialize -m chatllama_pipeline.definitions"
    return subprocess.run(
        [sys.executable, "-m", *command.split(), "--select", asset, "--partition", name],
        cwd=REPOSITORY,
        env={**place.environment(), **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.usefixtures("capsys")
def test_a_refusal_is_recorded_as_its_message_alone_and_is_not_tried_again() -> None:
    ended = run(refuses)
    [event] = [event for event in ended.all_events if event.is_step_failure]
    failed = event.step_failure_data
    assert failed.error is not None and failed.user_failure_data is not None
    assert failed.error.to_string().strip().endswith("could not be had: look at the network")
    assert failed.error.stack == [] and failed.error.cause is None and failed.error.context is None
    assert failed.user_failure_data.description == "rows.csv could not be had: look at the network"
    with pytest.raises(dg.Failure) as caught:
        list(refusing(lambda: (_ for _ in ()).throw(DataError("no")))())
    assert caught.value.allow_retries is False


@pytest.mark.usefixtures("capsys")
def test_what_nobody_expected_keeps_its_traceback_after_a_refusal_too() -> None:
    ended = run(refuses, surprises)
    [event] = [
        event
        for event in ended.all_events
        if event.is_step_failure and event.step_key == "surprises"
    ]
    error = event.step_failure_data.error
    assert error is not None and error.cause is not None
    assert "in surprises" in error.cause.to_string()
    assert not hasattr(sys, "tracebacklimit")


def test_the_terminal_tells_once_why_and_last(capsys: pytest.CaptureFixture[str]) -> None:
    run(refuses, refuses_too)
    shown = capsys.readouterr().err
    last = shown.splitlines()[-1]
    assert last == "refuses, refuses_too: rows.csv could not be had: look at the network"
    assert shown.count("could not be had") == 1 and "Traceback" not in shown


def test_the_plain_command_without_a_network_ends_with_the_cause_and_is_quiet(place: Place) -> None:
    place.add_assistant("mine", "data: {sources: [shp]}")
    home = Path(place.environment()["DAGSTER_HOME"])
    (home / "dagster.yaml").write_text((REPOSITORY / "dagster_home/dagster.yaml").read_text())
    nobody = "http://127.0.0.1:9/shp.jsonl"
    ended = materialize(
        place, "mine", "shp,personal_data", CHATLLAMA_SHP=nobody, HF_HUB_OFFLINE="0"
    )
    assert ended.returncode == 1
    *_, cause, _, closing = ended.stderr.splitlines()
    assert f"{nobody} could not be read" in cause
    assert closing == "Error: Materialization failed."
    assert "Stack Trace" not in ended.stderr and "Traceback" not in ended.stderr
    assert "DEBUG" not in ended.stdout + ended.stderr


def test_an_unknown_assistant_is_told_by_the_plain_command_in_one_line(place: Place) -> None:
    place.add_assistant("mine", "seed: 0")
    ended = materialize(place, "mime", "personal_data")
    assert ended.returncode == 1
    assert "Error: unknown assistant 'mime' (did you mean 'mine'?)" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_every_asset_refuses_so() -> None:
    for asset in definitions.get_repository_def().assets_defs_by_key.values():
        compute = asset.op.compute_fn.decorated_fn  # type: ignore[union-attr]
        assert compute.__code__ is refusing(compute).__code__, asset.key
