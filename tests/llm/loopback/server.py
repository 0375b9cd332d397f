"""A server on loopback that speaks the OpenAI API and misbehaves on demand.

Chat completions, completions, models, files and batches. It counts what it saw and what it would
have charged, and answers with `reply`, a function of the request's body. Tests use the fixture
`openai_server`; `python -m tests.llm.loopback.server` runs it alone (benchmarks do).
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httptools

from tests.llm.loopback.replies import (
    FAULTS,
    JSON,
    KEY,
    MODEL,
    Behaviour,
    Body,
    completion,
    prompt_text,
    refusal_of,
)

__all__ = ["FAULTS", "KEY", "MODEL", "Behaviour", "OpenAiServer", "Seen", "prompt_text"]


@dataclass
class Seen:
    """A completion asked for: when, with what body and key, and what the server did with it."""

    at: float
    body: Body
    key: str
    outcome: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    url: str = ""


class OpenAiServer:
    """Start it with `start`, set `behaviour`, read `seen`; `reset` between tests."""

    def __init__(self) -> None:
        self.behaviour = Behaviour()
        self.seen: list[Seen] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Body] = {}
        self.port = 0
        self._random = random.Random(0)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        self._thread.start()
        self._ready.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @classmethod
    def running(cls) -> Iterator[OpenAiServer]:
        """A started server, as a generator fixture wants it."""
        server = cls()
        server.start()
        yield server
        server.stop()

    def reset(self) -> None:
        self.behaviour = Behaviour()
        self.seen, self.files, self.batches = [], {}, {}
        self.in_flight = self.most_in_flight = 0
        self._random = random.Random(0)

    def charged(self, input_usd: float, output_usd: float) -> float:
        """US dollars for every request that was worked on, at prices per million tokens."""
        return (
            sum(
                seen.prompt_tokens * input_usd + seen.completion_tokens * output_usd
                for seen in self.seen
            )
            / 1e6
        )

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        serving = self._loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, backlog=512)
        server = self._loop.run_until_complete(serving)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def draw_fault(self) -> str:
        if self.behaviour.script:
            return self.behaviour.script.popleft()
        drawn, below = self._random.random(), 0.0
        for fault, share in self.behaviour.faults.items():
            below += share
            if drawn < below:
                return fault
        return "ok"


class _Connection(asyncio.Protocol):
    """One connection: parses requests with httptools and answers them one after another."""

    def __init__(self, server: OpenAiServer) -> None:
        self.server = server
        self.transport: Any = None
        self.parser: Any = None
        self.url, self.body, self.headers = b"", b"", {}
        self.tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)

    def connection_lost(self, error: Exception | None) -> None:
        for task in self.tasks:
            task.cancel()

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.url, self.body, self.headers = b"", b"", {}

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        method = self.parser.get_method().decode()
        work = self._handle(method, self.url.decode(), self.headers, self.body)
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _handle(
        self, method: str, url: str, headers: dict[bytes, bytes], body: bytes
    ) -> None:
        path = url.partition("?")[0].removeprefix(self.server.behaviour.root)
        bearer = headers.get(b"authorization", b"").decode().removeprefix("Bearer ")
        key = headers.get(b"api-key", b"").decode() or bearer
        if key != KEY and not self.server.behaviour.any_key:
            self.error(401, "Incorrect API key provided: sk-xx***yz.", "invalid_api_key")
        elif path in ("/chat/completions", "/completions") and method != "POST":
            self.error(405, "Method Not Allowed", None)
        elif path in ("/chat/completions", "/completions"):
            await self._complete(path, json.loads(body), key, url)
        elif path == "/models":
            listed = [{"id": name, "object": "model"} for name in self.server.behaviour.models]
            self.json(200, {"object": "list", "data": listed})
        elif path.startswith(("/files", "/batches")):
            self._batch_api(method, path, headers, body)
        else:
            self.error(404, f"Invalid URL ({method} {path})", None)

    async def _complete(self, path: str, body: Body, key: str, url: str) -> None:
        server, behaviour = self.server, self.server.behaviour
        if behaviour.product is not None and (told := behaviour.product(body)) is not None:
            server.seen.append(Seen(time.monotonic(), body, key, "product", headers=self.headers))
            server.seen[-1].url = url
            self.raw(*told)
            return
        refusal = refusal_of(body, behaviour)
        if refusal is not None:
            server.seen.append(Seen(time.monotonic(), body, key, "refused"))
            self.json(*refusal)
            return
        fault = server.draw_fault()
        seen = Seen(time.monotonic(), body, key, fault, headers=self.headers, url=url)
        server.seen.append(seen)
        server.in_flight += 1
        server.most_in_flight = max(server.most_in_flight, server.in_flight)
        try:
            while server.most_in_flight < behaviour.together:
                await asyncio.sleep(0.005)
            if behaviour.latency:
                await asyncio.sleep(behaviour.latency)
            if fault == "rate_limited":
                self.error(429, "Slow down.", "rate_limit_exceeded", behaviour.retry_after)
                return
            if fault.startswith("status_"):
                self.error(int(fault.removeprefix("status_")), "No.", None)
                return
            if fault == "server_error":
                self.error(500, "Something broke.", None)
                return
            reply = completion(path, body, behaviour)
            seen.prompt_tokens = reply["usage"]["prompt_tokens"]
            seen.completion_tokens = reply["usage"]["completion_tokens"]
            await self._send_reply(reply, fault)
        finally:
            server.in_flight -= 1

    async def _send_reply(self, reply: Body, fault: str) -> None:
        text = json.dumps(reply).encode()
        if fault == "dropped":
            self.transport.abort()
        elif fault == "stalled":
            await asyncio.sleep(3600)
        elif fault == "malformed":
            self.raw(200, text[: len(text) // 2])
        elif fault == "wrong_schema":
            self.json(200, {"object": "something else", "choices": "none"})
        elif fault == "truncated":
            self.transport.write(_head(200, len(text)) + text[: len(text) // 2])
            self.transport.close()
        else:
            self.raw(200, text)

    def _batch_api(self, method: str, path: str, headers: dict[bytes, bytes], body: bytes) -> None:
        server = self.server
        drops = server.behaviour.drops
        dropped = path.startswith("/batches") and drops.get(method, 0) > 0
        if dropped:
            drops[method] -= 1
        if dropped and method == "GET":
            self.transport.abort()
        elif (method, path) == ("POST", "/files"):
            name = f"file-{len(server.files)}"
            server.files[name] = _uploaded(headers, body)
            self.json(200, {"id": name, "object": "file", "purpose": "batch", "bytes": 1})
        elif method == "GET" and path.endswith("/content"):
            self.raw(200, server.files[path.split("/")[2]])
        elif (method, path) == ("POST", "/batches"):
            asked = json.loads(body)
            name = f"batch-{len(server.batches)}"
            server.batches[name] = {
                **asked,
                "id": name,
                "object": "batch",
                "status": "in_progress",
                "created_at": int(time.time()),
                "polls": 0,
            }
            if dropped:
                # It has the batch, and nobody is told.
                self.transport.abort()
            else:
                self.json(200, server.batches[name])
        elif (method, path) == ("GET", "/batches"):
            listed = list(server.batches.values())
            self.json(200, {"object": "list", "data": listed, "has_more": False})
        else:
            batch = server.batches[path.split("/")[2]]
            batch["polls"] += 1
            if batch["status"] == "in_progress" and batch["polls"] > server.behaviour.batch_polls:
                complete_batch(batch, server)
            self.json(200, batch)

    def error(
        self, status: int, message: str, code: str | None, retry_after: str | None = None
    ) -> None:
        body = {"error": {"message": message, "type": "loopback", "param": None, "code": code}}
        self.json(status, body, retry_after)

    def json(self, status: int, body: Body, retry_after: str | None = None) -> None:
        self.raw(status, json.dumps(body).encode(), retry_after)

    def raw(
        self, status: int, body: bytes, retry_after: str | None = None, kind: str = JSON
    ) -> None:
        self.transport.write(_head(status, len(body), retry_after, kind) + body)


def _head(status: int, length: int, retry_after: str | None = None, kind: str = JSON) -> bytes:
    extra = f"Retry-After: {retry_after}\r\n" if retry_after is not None else ""
    return (
        f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{extra}Content-Length: {length}\r\n\r\n"
    ).encode()


def _uploaded(headers: dict[bytes, bytes], body: bytes) -> bytes:
    """The file of a multipart form."""
    boundary = b"--" + headers[b"content-type"].partition(b"boundary=")[2]
    part = next(part for part in body.split(boundary) if b"filename=" in part)
    return part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")


def complete_batch(batch: Body, server: OpenAiServer) -> None:
    """Answer every line of a batch's input file into an output and an error file."""
    done: list[str] = []
    failed: list[str] = []
    for line in server.files[batch["input_file_id"]].decode().splitlines():
        asked = json.loads(line)
        said = prompt_text(asked["body"])
        if said in server.behaviour.batch_expires:
            error = {"code": "batch_expired", "message": "This request could not be executed."}
            row = {"id": "b", "custom_id": asked["custom_id"], "response": None, "error": error}
            failed.append(json.dumps(row))
            continue
        bad = said in server.behaviour.batch_fails
        seen = Seen(time.monotonic(), asked["body"], KEY, "batch_failed" if bad else "batch")
        server.seen.append(seen)
        if bad:
            body: Body = {"error": server.behaviour.batch_error}
        else:
            body = completion(
                batch["endpoint"].removeprefix("/v1"), asked["body"], server.behaviour
            )
            seen.prompt_tokens = body["usage"]["prompt_tokens"]
            seen.completion_tokens = body["usage"]["completion_tokens"]
        status = server.behaviour.batch_status if bad else 200
        response = {"status_code": status, "request_id": "r", "body": body}
        row = {"id": "b", "custom_id": asked["custom_id"], "response": response, "error": None}
        (failed if bad else done).append(json.dumps(row))
    name = batch["id"]
    batch["status"] = "completed"
    # As the real one: a file that would be empty doesn't exist.
    for kind, lines in (("output_file_id", done), ("error_file_id", failed)):
        if lines:
            server.files[f"{kind}-{name}"] = "\n".join(lines).encode()
            batch[kind] = f"{kind}-{name}"


def main() -> None:
    """Serve until killed, at the latency that argv gives in milliseconds; prints the URL."""
    server = OpenAiServer()
    server.start()
    server.behaviour.latency = float(sys.argv[1]) / 1000 if len(sys.argv) > 1 else 0.0
    print(server.url, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
