"""Notices to a webhook: what is sent, tried again, given up, and when."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from chatllama_pipeline.automation.notices import failures, old_releases
from chatllama_pipeline.definitions import definitions
from resources import notices
from resources.notices import WEBHOOK, Notice, tell
from tests.waiting import PATIENCE

SECRET = "T0K3N"


@dataclass
class Receiver:
    """A webhook on loopback that answers with `codes` one after the other, then with 200."""

    codes: list[int] = field(default_factory=list)
    got: list[dict[str, Any]] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)
    hangs: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    found = Receiver()
    found.hangs.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.got.append(json.loads(body))
            found.hangs.wait(PATIENCE)
            found.answered.append(found.codes.pop(0) if found.codes else 200)
            self.send_response(found.answered[-1])
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv(WEBHOOK, f"http://127.0.0.1:{server.server_address[1]}/{SECRET}")
    monkeypatch.setattr(notices, "PAUSE_SECONDS", 0.01)
    yield found
    found.hangs.set()
    server.shutdown()
    thread.join()
    server.server_close()


def told(notice: Notice, most_seconds: float = PATIENCE) -> list[str]:
    """The warnings of telling it."""
    warned: list[str] = []
    tell(notice, warned.append, most_seconds)
    return warned


RELEASED = Notice("released", "mine", "it won", "run1", "aa11", {"win_rate": 0.8})


def test_a_notice_is_one_json_object_with_a_text_for_chats(receiver: Receiver) -> None:
    assert told(RELEASED) == []
    [got] = receiver.got
    assert got.pop("at").startswith("20")
    assert got == {
        "event": "released",
        "assistant": "mine",
        "message": "it won",
        "run": "run1",
        "version": "aa11",
        "figures": {"win_rate": 0.8},
        "text": "mine: released: it won",
    }


def test_what_may_pass_is_tried_again_and_what_is_refused_is_not(receiver: Receiver) -> None:
    receiver.codes = [503, 429]
    assert told(RELEASED) == [] and len(receiver.got) == 3
    receiver.codes = [404]
    [warning] = told(RELEASED)
    assert "HTTP 404" in warning and len(receiver.got) == 4
    receiver.codes = [500, 500, 500]
    assert "HTTP 500" in told(RELEASED)[0] and len(receiver.got) == 7


def test_a_webhook_that_hangs_holds_nobody_up(receiver: Receiver) -> None:
    receiver.hangs.clear()
    [warning] = told(RELEASED, most_seconds=0.3)
    assert receiver.answered == []
    assert "no answer in 0.3 s" in warning


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/T0K3N", "ftp://x/T0K3N", "T0K3N", "http:///"])
def test_an_address_that_nobody_answers_is_a_warning_without_its_path(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv(WEBHOOK, url)
    monkeypatch.setattr(notices, "PAUSE_SECONDS", 0.01)
    [warning] = told(RELEASED)
    assert WEBHOOK in warning and SECRET not in warning


def test_without_a_webhook_nothing_is_sent(receiver: Receiver, monkeypatch: Any) -> None:
    monkeypatch.delenv(WEBHOOK)
    assert told(RELEASED) == [] and receiver.got == []


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(tmp_path / "assistants"))
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "storage"))
    folder = tmp_path / "assistants" / "mine"
    (folder / "datasets").mkdir(parents=True)
    (folder / "config.yaml").write_text("data: {sources: []}")
    return tmp_path


def test_a_failed_run_of_an_assistant_is_told_with_its_error(
    receiver: Receiver, place: Path, instance: dg.DagsterInstance
) -> None:
    data = place / "assistants" / "mine" / "datasets" / "actor_training_data.json"
    data.write_text('[{"user_input": 1}]')
    done = dg.materialize(
        definitions.assets or [],
        selection=["personal_data"],
        partition_key="mine",
        resources=definitions.resources,
        instance=instance,
        raise_on_error=False,
    )
    context = dg.build_run_status_sensor_context(
        sensor_name="failures",
        dagster_instance=instance,
        dagster_run=done.dagster_run,
        dagster_event=done.get_run_failure_event(),
    ).for_run_failure()
    failures(context)
    [got] = receiver.got
    assert (got["event"], got["assistant"], got["run"]) == ("failed", "mine", done.run_id)
    assert got["message"].startswith("personal_data: ")
    assert "actor_training_data.json" in got["message"] and "Traceback" not in got["message"]


def test_an_old_release_is_recorded_and_told_once(
    receiver: Receiver,
    place: Path,
    instance: dg.DagsterInstance,
    released: Callable[[int], None],
) -> None:
    def tick(cursor: str | None) -> dg.SensorResult:
        context = dg.build_sensor_context(instance=instance, cursor=cursor)
        found = old_releases(context)
        assert isinstance(found, dg.SensorResult)
        for request in found.run_requests or []:
            job = definitions.resolve_job_def("freshness")
            job.execute_in_process(partition_key=request.partition_key, instance=instance)
        return found

    released(24 * 20)
    first = tick(None)
    assert tick(first.cursor).run_requests == []
    [got] = receiver.got
    assert (got["event"], got["assistant"]) == ("stale", "mine")
    released(1)
    tick(first.cursor)
    key = dg.AssetCheckKey(dg.AssetKey("release"), "fresh")
    newest, oldest = instance.event_log_storage.get_asset_check_execution_history(key, 9)
    assert newest.partition == oldest.partition == "mine"
    passed = [
        execution.event.dagster_event.asset_check_evaluation_data.passed  # type: ignore[union-attr]
        for execution in (oldest, newest)
    ]
    assert passed == [False, True]
    assert len(receiver.got) == 1


@pytest.fixture
def released(place: Path) -> Callable[[int], None]:
    """A release that a run found unchanged so many hours ago."""
    from datetime import UTC, datetime, timedelta

    from chatllama_pipeline.records import Outcome
    from chatllama_pipeline.store.manifests import Recipe
    from chatllama_pipeline.store.versions import Store

    def call(hours: int) -> None:
        store = Store(place / "storage")
        store.make(Recipe("release", "mine", "1", {}, {}, {}), lambda _: Outcome(), {}, False)
        path = store.root / "release" / "mine" / "current.json"
        current = json.loads(path.read_text())
        current["at"] = (datetime.now(UTC) - timedelta(hours=hours)).isoformat()
        path.write_text(json.dumps(current))

    return call
