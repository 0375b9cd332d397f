from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.serving.api import versions as module
from chatllama_pipeline.serving.engine import opening
from chatllama_pipeline.serving.engine.jobs import Job, Sampling
from chatllama_pipeline.serving.engine.opening import written
from chatllama_pipeline.serving.engine.paged import PagedEngine
from chatllama_pipeline.serving.engine.waves import WavesEngine
from chatllama_pipeline.serving.wanted import Wanted
from chatllama_pipeline.store.manifests import Version
from chatllama_pipeline.store.versions import Store
from tests.serving.served import NAME, serving
from tests.waiting import PATIENCE, wait_until

Released = tuple[Store, Version, Version]


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.02)


def test_a_new_release_takes_over_under_load_without_a_dropped_request(released: Released) -> None:
    _, first, second = released
    over = threading.Event()
    with serving([Wanted(first, 1.0)]) as served, ThreadPoolExecutor(6) as pool:
        statuses, told = Counter[int](), Counter[str]()
        replies: dict[str, set[str]] = {first.id: set(), second.id: set()}

        def ask_on(_: int) -> None:
            while not over.is_set():
                status, headers, body = served.chat("alpha bravo", max_tokens=30)
                statuses[status] += 1
                if status == 200:
                    version = headers["x-chatllama-version"]
                    assert version == body["system_fingerprint"]
                    told[version] += 1
                    replies[version].add(body["choices"][0]["message"]["content"])

        asking = [pool.submit(ask_on, number) for number in range(6)]
        try:
            wait_until(lambda: told[first.id] > 5)
            served.wanted[:] = [Wanted(second, 1.0)]
            wait_until(lambda: told[second.id] > 20)
            served.wanted[:] = [Wanted(first, 1.0)]  # taken back
            wait_until(lambda: len(served.said) == 2)
            before = told[first.id]
            wait_until(lambda: told[first.id] > before + 5)
        finally:
            over.set()
        for one in asking:
            one.result()
    assert set(statuses) == {200}
    assert len(replies[first.id]) == len(replies[second.id]) == 1
    assert replies[first.id] != replies[second.id]
    assert [line.split()[-1] for line in served.said] == [second.id, first.id]


def test_why_a_version_is_not_written_by_the_fast_engine_is_told(
    released: Released, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no such kernel")

    _, first, second = released
    monkeypatch.setattr(opening, "PagedEngine", fails)
    why = "continuous batching failed on it: RuntimeError: no such kernel"
    slow = f"is written by {WavesEngine.name}: {why}"
    with serving([Wanted(first, 1.0)]) as served:
        assert served.said == [f"version {first.id} {slow}"]
        [told] = served.ask("/health")[2]["versions"]
        assert (told["engine"], told["why"]) == (WavesEngine.name, why)
        assert f'engine="{WavesEngine.name}"' in served.ask("/metrics")[2]
        served.wanted[:] = [Wanted(second, 1.0)]
        wait_until(lambda: len(served.said) == 3)
    assert served.said[1:] == [
        f"{NAME} speaks by version {second.id}",
        f"version {second.id} {slow}",
    ]


def test_a_connection_outlasts_what_clients_keep_of_it(released: Released) -> None:
    # One that the server closes just as its client asks on it is a request without an answer.
    kept = httpx.Limits().keepalive_expiry
    assert kept is not None
    with serving([Wanted(released[1], 1.0)]) as served, httpx.Client() as client:
        assert client.get(f"{served.url}/models").status_code == 200
        [connection] = served.server.server_state.connections
        wait_until(lambda: connection.timeout_keep_alive_task is not None)
        closing = connection.timeout_keep_alive_task
        assert closing.when() - connection.loop.time() > 2 * kept


def test_a_version_that_is_replaced_stays_until_its_last_reply(released: Released) -> None:
    _, first, second = released
    wanted = [Wanted(first, 1.0)]
    versions = module.Versions(NAME, lambda: wanted, 2, lambda line: None)
    versions.begin()

    async def replace_amid_a_reply() -> None:
        following = asyncio.create_task(versions.follow())
        with versions.speaking(NAME) as speaker:
            wanted[:] = [Wanted(second, 1.0)]
            while versions.speakers[0].id == first.id:
                await asyncio.sleep(0.01)
            job = Job([5, 6, 7], 8, frozenset(), Sampling(0.0))
            async with contextlib.aclosing(written(speaker.engine, job)) as steps:
                last = [step async for step in steps][-1]
            assert (len(last.ids), last.error) == (8, "")
        while not _is_closed(speaker):
            await asyncio.sleep(0.01)
        following.cancel()

    try:
        asyncio.run(asyncio.wait_for(replace_amid_a_reply(), PATIENCE))
    finally:
        versions.close()


def _is_closed(speaker: module.Speaker) -> bool:
    assert isinstance(speaker.engine, PagedEngine)
    return not speaker.engine._manager.is_running()


def test_two_versions_share_the_requests_by_their_weights(released: Released) -> None:
    _, first, second = released
    with serving([Wanted(first, 90), Wanted(second, 10)]) as served:
        told = Counter(served.chat("alpha")[1]["x-chatllama-version"] for _ in range(20))
        assert told == {first.id: 18, second.id: 2}
        shares = {one["version"]: one["share"] for one in served.ask("/health")[2]["versions"]}
        assert shares == {first.id: 0.9, second.id: 0.1}
        for version in (first, second):
            body = {
                "model": f"{NAME}@{version.id}",
                "messages": [{"role": "user", "content": "alpha"}],
                "stream": True,
            }
            _, headers, text = served.ask("/v1/chat/completions", body)
            assert headers["x-chatllama-version"] == version.id
            events = [line[6:] for line in text.splitlines() if line.startswith("data: {")]
            assert {json.loads(event)["system_fingerprint"] for event in events} == {version.id}


def test_a_version_that_cannot_be_loaded_leaves_the_others_speaking(
    released: Released, tmp_path: Path
) -> None:
    _, first, second = released
    broken = tmp_path / "broken"
    shutil.copytree(second.path, broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    with serving([Wanted(first, 1.0)]) as served:
        served.wanted[:] = [Wanted(replace(second, path=broken), 1.0)]
        wait_until(lambda: bool(served.said))
        assert f"version {second.id} can't speak, the others go on: " in served.said[0]
        assert served.chat("alpha")[1]["x-chatllama-version"] == first.id
        served.wanted[:] = [Wanted(first, 1.0)]
    assert len(served.said) == 1


def test_an_assistant_that_is_broken_meanwhile_is_told_once_and_served_on(
    released: Released,
) -> None:
    first = [Wanted(released[1], 1.0)]
    broken, looked = threading.Event(), Counter[bool]()

    def look() -> Sequence[Wanted]:
        looked[broken.is_set()] += 1
        if broken.is_set():
            raise SettingsError("config.yaml is empty")
        return first

    with serving([], look=look) as served:
        broken.set()
        wait_until(lambda: looked[True] > 3)
        assert served.said == ["config.yaml is empty"]
        assert served.chat("alpha")[0] == 200
