"""A server among hostile clients: what becomes of it, and of those who mean well.

    python -m benchmarks.clients.hostile --seconds 600 --clients 32

Clients ask at random, by a seed: well, whole and streamed; and they leave in mid-reply or before
it, send bodies too long, without an end or of garbage, heads without an end or letter by letter,
values that are none, and ask for replies without an end. The server is a real one on a release of
random weights.
Printed as a line of JSON: what each kind was told, what went `wrong` (a well-meant request that was
answered neither 200 nor 429, another answer than its kind deserves), whether the server lives, its
memory and open files after the first third and at the end, by how much its memory grew in a minute
of that time, and whether it answers at the end as at the beginning.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.serving import NAME, memory, publish
from chatllama_pipeline.launch.child import child_environment, cores_at_hand
from chatllama_pipeline.store.versions import Store

CHAT = "/v1/chat/completions"
WORDS = ("How should I cook rice?", "What is tea?", "Name a bird.", "hello")
# What a client that means well may wait for its answer.
PATIENCE = 300.0
LOOK_SECONDS = 0.5
# Some 2 MB, twice what a body may have, and many times a head.
ENDLESS_PIECES, PIECE = 2000, b"400\r\n" + b"x" * 1024 + b"\r\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--queue", type=int, default=8)
    parser.add_argument("--release", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=cores_at_hand())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place) / "store")
        publish(store, options.release)
        with server(Path(place), store, options) as (port, process):
            found = asyncio.run(besieged(port, process, options))
    print(json.dumps(found))


@contextlib.contextmanager
def server(
    place: Path, store: Store, options: argparse.Namespace
) -> Iterator[tuple[int, psutil.Process]]:
    """The port and process of a server of that release; what it says goes to a file, since a pipe
    that nobody reads would stop it."""
    assistant = place / "assistants" / NAME
    assistant.mkdir(parents=True)
    (assistant / "config.yaml").write_text("seed: 0\n")
    variables = {"CHATLLAMA_ASSISTANTS": str(assistant.parent), "CHATLLAMA_STORE": str(store.root)}
    command = [sys.executable, "-m", "chatllama_pipeline", "serve", NAME, "--port", "0"]
    said = place / "said"
    with said.open("w") as told:
        process = subprocess.Popen(
            [*command, "--streams", str(options.streams), "--queue", str(options.queue)],
            env=child_environment(options.threads, {**os.environ, **variables}),
            stderr=told,
        )
    try:
        while not (found := re.search(r"http://[^:]+:(\d+)", said.read_text())):
            if process.poll() is not None:
                raise SystemExit(f"the server didn't start: {said.read_text()}")
            time.sleep(0.1)
        yield int(found[1]), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


async def besieged(
    port: int, process: psutil.Process, options: argparse.Namespace
) -> dict[str, Any]:
    """What became of the server on `port` among `--clients` for `--seconds`."""
    siege = Siege(port)
    before = await siege.reply()
    until = time.monotonic() + options.seconds
    clients = [
        siege.client(random.Random(f"{options.seed} {number}"), until)
        for number in range(options.clients)
    ]
    watching = asyncio.create_task(siege.watch(process))
    await asyncio.gather(*clients)
    watching.cancel()
    settled = await siege.settled()
    third = len(siege.memory) // 3
    return {
        "answers": {kind: dict(counts) for kind, counts in sorted(siege.told.items())},
        "wrong": siege.wrong[:20],
        "wrong_count": len(siege.wrong),
        "alive": process.is_running() and process.status() != psutil.STATUS_ZOMBIE,
        "memory_mb": [round(statistics.median(part)) for part in _ends(siege.memory[third:])],
        "memory_mb_a_minute": round(_slope(siege.memory[third:]) * 60 / LOOK_SECONDS, 2),
        "open_files": [round(statistics.median(part)) for part in _ends(siege.files[third:])],
        "in_flight_at_the_end": settled,
        "answers_as_before": await siege.reply() == before,
    }


def _ends(values: list[float]) -> tuple[list[float], list[float]]:
    """The first and the last quarter."""
    quarter = max(1, len(values) // 4)
    return values[:quarter], values[-quarter:]


def _slope(values: list[float]) -> float:
    """By how much values grow from one to the next, by the line of least squares."""
    return statistics.linear_regression(range(len(values)), values).slope


@dataclass
class Siege:
    """Clients of the server on `port`, what they were told, and how the server looked meanwhile."""

    port: int
    told: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    wrong: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    files: list[float] = field(default_factory=list)

    async def client(self, chance: random.Random, until: float) -> None:
        """Ask, well or ill, until that time."""
        kinds: dict[str, Callable[[random.Random], Awaitable[str]]] = {
            "well": self.well,
            "well, streamed": self.streamed,
            "leaves in mid-stream": self.leaves,
            "leaves before the answer": self.leaves_early,
            "oversized": self.oversized,
            "a body without an end": self.endless_body,
            "a reply without an end": self.endless_reply,
            "malformed": self.malformed,
            "garbage": self.garbage,
            "a head letter by letter": self.slow_head,
            "a head without an end": self.endless_head,
        }
        deserved = {
            "well": {"200", "429"},
            "well, streamed": {"200", "429"},
            "oversized": {"413", "hung up"},
            "malformed": {"400", "404", "415", "429"},
            "a head without an end": {"431", "hung up"},
        }
        while time.monotonic() < until:
            kind = chance.choice([*kinds, "well", "well, streamed"])
            try:
                answer = await asyncio.wait_for(kinds[kind](chance), PATIENCE)
            except Exception as error:
                answer = "hung up" if isinstance(error, OSError) else repr(error)
            self.told[kind][answer] += 1
            if kind in deserved and answer not in deserved[kind]:
                self.wrong.append(f"{kind}: {answer}")

    async def well(self, chance: random.Random) -> str:
        status, _, body = await self.ask(_asked(chance))
        if status == "200" and not json.loads(body)["choices"][0]["finish_reason"]:
            return "200 without an end"
        return status

    async def streamed(self, chance: random.Random) -> str:
        status, head, body = await self.ask(_asked(chance, stream=True))
        if status == "429" and b"retry-after" not in head.lower():
            return "429 without Retry-After"
        return status if status != "200" or b"data: [DONE]" in body else "200 without an end"

    async def leaves(self, chance: random.Random) -> str:
        async with self.connection() as (reader, writer):
            writer.write(_post(_asked(chance, stream=True, max_tokens=40)))
            await writer.drain()
            await reader.read(chance.randrange(1, 2000))
        return "left"

    async def leaves_early(self, chance: random.Random) -> str:
        async with self.connection() as (_, writer):
            writer.write(_post(_asked(chance)))
            await writer.drain()
            await asyncio.sleep(chance.random() / 10)
        return "left"

    async def oversized(self, chance: random.Random) -> str:
        status, _, _ = await self.ask({**_asked(chance), "user": "x" * 1_200_000})
        return status

    async def endless_body(self, chance: random.Random) -> str:
        async with self.connection() as (reader, writer):
            writer.write(_head("transfer-encoding: chunked"))
            for _ in range(ENDLESS_PIECES):
                writer.write(PIECE)
                await writer.drain()
            return _status(await reader.read(100))

    async def endless_head(self, chance: random.Random) -> str:
        async with self.connection() as (reader, writer):
            writer.write(_head("content-length: 2")[:-2])
            for _ in range(ENDLESS_PIECES):
                writer.write(b"x: " + b"x" * 1024 + b"\r\n")
                await writer.drain()
            return _status(await reader.read(100))

    async def endless_reply(self, chance: random.Random) -> str:
        async with self.connection() as (reader, writer):
            writer.write(_post(_asked(chance, stream=True, max_tokens=10**6, temperature=2)))
            await writer.drain()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(reader.read(), chance.random() * 2)
        return "left"

    async def malformed(self, chance: random.Random) -> str:
        ill: dict[str, Any] = chance.choice(
            [
                {"messages": []},
                {"messages": "hello"},
                {"temperature": "hot"},
                {"max_tokens": -1},
                {"n": 3},
                {"model": "gpt-4"},
                {"messages": [{"role": "user", "content": "word " * 5000}]},
            ]
        )
        status, _, _ = await self.ask({**_asked(chance), **ill})
        return status

    async def garbage(self, chance: random.Random) -> str:
        rubbish = chance.randbytes(chance.randrange(1, 3000))
        sent = chance.choice([rubbish, _head(f"content-length: {len(rubbish)}") + rubbish])
        async with self.connection() as (reader, writer):
            writer.write(sent)
            await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
            return _status(await reader.read(100))

    async def slow_head(self, chance: random.Random) -> str:
        async with self.connection() as (_, writer):
            for letter in _head("content-length: 10")[: chance.randrange(5, 40)]:
                writer.write(bytes([letter]))
                await writer.drain()
                await asyncio.sleep(0.02)
        return "left"

    async def reply(self) -> str:
        """What the server says to a plain question, greedily."""
        body = {"model": NAME, "messages": [{"role": "user", "content": WORDS[0]}]}
        _, _, told = await self.ask({**body, "temperature": 0, "max_tokens": 20})
        return str(json.loads(told)["choices"][0]["message"]["content"])

    async def settled(self) -> int:
        """How many replies are still being written once all have left, after some patience."""
        deadline = time.monotonic() + PATIENCE
        while True:
            _, _, text = await self.ask(None, "/metrics")
            [left] = [
                int(float(line.split()[1]))
                for line in text.decode().splitlines()
                if line.startswith("chatllama_in_flight ")
            ]
            if not left or time.monotonic() > deadline:
                return left
            await asyncio.sleep(0.2)

    async def ask(self, body: dict[str, Any] | None, path: str = CHAT) -> tuple[str, bytes, bytes]:
        """Status, head and body of the answer to a request."""
        async with self.connection() as (reader, writer):
            plain = f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
            # It may refuse a body before it was sent, and then hang up.
            reading = asyncio.create_task(_read(reader))
            writer.write(plain.encode() if body is None else _post(body))
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            head, _, told = (await reading).partition(b"\r\n\r\n")
        return _status(head), head, told

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def watch(self, process: psutil.Process) -> None:
        """Look at the server's memory and open files again and again."""
        while True:
            self.memory.append(memory(process))
            self.files.append(float(process.num_fds()))
            await asyncio.sleep(LOOK_SECONDS)


async def _read(reader: asyncio.StreamReader) -> bytes:
    """All that arrives until the server hangs up, however it does."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while part := await reader.read(65536):
            found += part
    return found


def _asked(chance: random.Random, **more: Any) -> dict[str, Any]:
    asked = [{"role": "user", "content": chance.choice(WORDS)}]
    return {"model": NAME, "messages": asked, "max_tokens": chance.randrange(1, 20), **more}


def _head(length: str) -> bytes:
    lines = [f"POST {CHAT} HTTP/1.1", "host: localhost", "connection: close"]
    return "\r\n".join([*lines, "content-type: application/json", length, "", ""]).encode()


def _post(body: dict[str, Any]) -> bytes:
    text = json.dumps(body).encode()
    return _head(f"content-length: {len(text)}") + text


def _status(head: bytes) -> str:
    """The status of an answer; none where the server hung up."""
    return head.split()[1].decode() if head.startswith(b"HTTP/1.1 ") else "hung up"


if __name__ == "__main__":
    main()
