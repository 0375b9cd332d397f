"""A vLLM elsewhere writes the replies; here a server that speaks as it does, by `generate`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from click.testing import CliRunner
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from chatllama_pipeline.cli.serving.serve import serve
from chatllama_pipeline.errors import EngineError
from chatllama_pipeline.serving.api.access.place import open_place
from chatllama_pipeline.serving.engine.jobs import Engine, Job, Sampling, Written
from chatllama_pipeline.serving.engine.opening import written
from chatllama_pipeline.serving.engine.vllm import KEY_VARIABLE, VllmEngine, holding
from chatllama_pipeline.serving.engine.ways import WAYS, Way, open_release
from chatllama_pipeline.serving.wanted import Wanted
from chatllama_pipeline.store.manifests import Version
from chatllama_pipeline.store.versions import Store
from tests.serving.served import NAME, greedy, serving
from tests.waiting import PATIENCE, wait_until

Released = tuple[Store, Version, Version]
KEY = "s3cret"


class VllmAlike:
    """vLLM's /v1 as of 0.11: a model by its path, ids in and out, pieces of a few tokens."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, list[dict[str, Any]]()
        # Whether the token that stops a reply is told, as it is or by `stop_reason` alone.
        self.tells_stop, self.breaks, self.dawdles = True, False, False
        self.left = threading.Event()
        # transformers patches itself while it loads: two at once leave it patched.
        self._loading = asyncio.Lock()

    async def models(self, request: Request) -> Response:
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return JSONResponse({"error": "Unauthorized"}, 401)
        path = f"/mnt/elsewhere/{self.folder.name}"
        card = {"id": "tiny", "object": "model", "root": path, "max_model_len": 100}
        return JSONResponse({"object": "list", "data": [card, card | {"max_model_len": None}]})

    async def completions(self, request: Request) -> Response:
        body = await request.json()
        if len(body["prompt"]) > 90:
            return JSONResponse({"error": {"message": "too long for this one"}}, 400)
        self.asked.append(body)
        stops = body["stop_token_ids"]
        async with self._loading:
            ids = await asyncio.to_thread(
                greedy, self.folder, body["prompt"], body["max_tokens"], stops or [-1]
            )
        return StreamingResponse(self._events(ids, stops), media_type="text/event-stream")

    async def _events(self, ids: list[int], stops: list[int]) -> AsyncIterator[str]:
        stopped = ids[-1] in stops
        told = ids[:-1] if stopped and not self.tells_stop else ids
        parts = [told[place : place + 3] for place in range(0, len(told), 3)] or [[]]
        for place, part in enumerate(parts):
            if self.dawdles and place:
                try:
                    await asyncio.sleep(PATIENCE)
                finally:
                    self.left.set()
            if self.breaks and place:
                yield _event({"error": {"message": "EngineCore encountered an issue"}})
                return
            last = place == len(parts) - 1
            reason = ("stop" if stopped else "length") if last else None
            choice = {"index": 0, "text": "", "token_ids": part, "finish_reason": reason}
            by = {"stop_reason": ids[-1] if stopped and last else None}
            yield _event({"object": "text_completion", "choices": [choice | by]})
        yield "data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"


@contextlib.contextmanager
def running(alike: VllmAlike) -> Iterator[str]:
    """Its address, until the block ends."""
    place = open_place("127.0.0.1", 0, ())
    routes = [
        Route("/v1/models", alike.models),
        Route("/v1/completions", alike.completions, methods=["POST"]),
    ]
    config = uvicorn.Config(Starlette(routes=routes), log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=lambda: asyncio.run(server.serve(sockets=[place.listening])), daemon=True
    )
    thread.start()
    try:
        yield f"{place.url}/v1"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(PATIENCE)
        place.listening.close()


@pytest.fixture
def alike(released: Released, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[VllmAlike, str]]:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    elsewhere = VllmAlike(released[1].path)
    with running(elsewhere) as url:
        yield elsewhere, url


def together(engine: Engine, jobs: Sequence[Job]) -> list[Written]:
    async def last(asked: Job) -> Written:
        return [step async for step in written(engine, asked)][-1]

    async def ask() -> list[Written]:
        return await asyncio.gather(*(last(one) for one in jobs))

    return asyncio.run(asyncio.wait_for(ask(), PATIENCE))


def job(ids: Sequence[int], most: int = 8, stops: Sequence[int] = ()) -> Job:
    return Job(list(ids), most, frozenset(stops), Sampling(0.0))


def test_the_server_speaks_the_same_api_by_it(
    released: Released, alike: tuple[VllmAlike, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, url = alike
    own = WAYS["pytorch"]
    monkeypatch.setitem(
        WAYS, "pytorch", lambda folder, *_: open_release(folder, 2, Way("vllm", urls=(url,)))
    )
    with serving([Wanted(released[1], 1.0)]) as served:
        told = served.chat("alpha beta")
        streamed = served.chat("alpha beta", stream=True)[2]
        refused = served.chat("x" * 110)
        _, _, health = served.ask("/health")
    monkeypatch.setitem(WAYS, "pytorch", own)
    with serving([Wanted(released[1], 1.0)]) as served:
        expected = served.chat("alpha beta")
    assert told[2]["choices"] == expected[2]["choices"]
    assert told[2]["usage"] == expected[2]["usage"]
    assert told[1]["x-chatllama-version"] == released[1].id
    text = expected[2]["choices"][0]["message"]["content"]
    events = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in events) == text
    # It reads less than the release could.
    assert refused[0] == 400 and "maximum context length is 100" in refused[2]["error"]["message"]
    assert health["versions"][0]["engine"] == f"vLLM at {url}"
    assert elsewhere.asked[0] == {
        "model": "tiny",
        "prompt": elsewhere.asked[0]["prompt"],
        "max_tokens": 12,
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": elsewhere.asked[0]["top_k"],
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "seed": None,
        "stop_token_ids": elsewhere.asked[0]["stop_token_ids"],
        "ignore_eos": True,
        "stream": True,
        "return_token_ids": True,
    }


@pytest.mark.parametrize("tells_stop", [True, False])
def test_a_reply_holds_the_token_that_stops_it_however_that_is_told(
    released: Released, alike: tuple[VllmAlike, str], tells_stop: bool
) -> None:
    alike[0].tells_stop = tells_stop
    engine = VllmEngine(holding([alike[1]], released[1].path), 128)
    plain = greedy(released[1].path, [5, 6, 7], 8, [-1])
    stop = next(token for token in plain[2:] if token not in plain[:2])
    told = together(engine, [job([5, 6, 7]), job([5, 6, 7], stops=[stop, 999])])
    assert [one.ids for one in told] == [plain, plain[: plain.index(stop) + 1]]
    assert all(one.finished and not one.error for one in told)


def test_what_goes_wrong_there_ends_that_reply_with_its_words(
    released: Released, alike: tuple[VllmAlike, str]
) -> None:
    elsewhere, url = alike
    engine = VllmEngine(holding([url], released[1].path), 128)
    [told] = together(engine, [job([5] * 95)])
    assert told.finished and "too long for this one" in told.error
    elsewhere.breaks = True
    [told] = together(engine, [job([5, 6, 7])])
    assert told.finished and "EngineCore encountered an issue" in told.error
    elsewhere.breaks = False
    assert together(engine, [job([5, 6, 7])])[0].error == ""
    engine.close()
    with pytest.raises(EngineError, match="was closed"):
        together(engine, [job([5])])


def test_whoever_leaves_ends_the_work_there(
    released: Released, alike: tuple[VllmAlike, str]
) -> None:
    elsewhere, url = alike
    elsewhere.dawdles = True
    engine = VllmEngine(holding([url], released[1].path), 128)

    async def leave() -> None:
        steps = written(engine, job([5, 6, 7]))
        await anext(steps)
        await steps.aclose()
        await asyncio.to_thread(wait_until, elsewhere.left.is_set)

    asyncio.run(asyncio.wait_for(leave(), PATIENCE))


def test_a_version_that_nobody_holds_is_told_with_how_to_start_one(
    released: Released, alike: tuple[VllmAlike, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (version.path for version in released[1:])
    nobody = "http://127.0.0.1:9/v1"
    assert holding([nobody, alike[1]], first).model == "tiny"
    told = (
        rf"no vLLM holds version {second.name}: {nobody} doesn't answer \(.*\); {alike[1]} serves "
        rf"/mnt/elsewhere/{first.name}. Start one with `vllm serve {second}`, .* --url"
    )
    with pytest.raises(EngineError, match=told):
        open_release(second, 2, Way("vllm", urls=(nobody, alike[1])))
    with pytest.raises(EngineError, match="says 404"):
        holding([alike[1] + "/no"], first)
    monkeypatch.delenv(KEY_VARIABLE)
    with pytest.raises(EngineError, match="says 401"):
        holding([alike[1]], first)


def test_its_address_goes_with_it_alone() -> None:
    for options in (["--engine", "vllm"], ["--url", "http://127.0.0.1:9/v1"]):
        result = CliRunner().invoke(serve, [NAME, *options])
        assert result.exit_code == 2
        assert "--engine vllm goes with --url, and neither without the other" in result.output
