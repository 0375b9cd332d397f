"""The client of language models: throughput against the ideal, CPU per call, speed of the cache.

    python benchmarks/llm.py [--rows 2000] [--latency 400] [--concurrency 32] [--cached 10000]

A server of our own (`tests/llm/loopback/server.py`) answers in a process of its own after `latency`
milliseconds. The bare `openai` SDK and our client take the same rows in turns, so that what slows
the machine slows both: on busy machines trust the ratios. The ideal is rows x latency /
concurrency.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import openai

from chatllama_pipeline.llm.client.requests import LlmReply, LlmRequest
from chatllama_pipeline.llm.clients import open_client
from chatllama_pipeline.records import Message
from chatllama_pipeline.settings import AssistantSettings, RoleSettings
from tests.llm.loopback.server import KEY, MODEL

REPOSITORY = Path(__file__).resolve().parents[1]
KEY_VARIABLE = "CHATLLAMA_BENCHMARK_KEY"
TURNS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--latency", type=float, default=400, help="milliseconds")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--cached", type=int, default=10_000)
    options = parser.parse_args()
    os.environ[KEY_VARIABLE] = KEY
    with subprocess.Popen(
        [sys.executable, "-m", "tests.llm.loopback.server", str(options.latency)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        try:
            compare_with_the_sdk(url, options.rows, options.latency / 1000, options.concurrency)
        finally:
            server.kill()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.llm.loopback.server", "0"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        try:
            time_the_cache(url, options.cached, options.concurrency)
        finally:
            server.kill()


def requests(rows: int) -> list[LlmRequest]:
    asked = "How do I grow basil, and what does it need in winter?"
    return [LlmRequest((Message("user", f"{n}: {asked}"),), 0.1, 64) for n in range(rows)]


def role(url: str, concurrency: int) -> RoleSettings:
    llm = {
        "provider": "openai",
        "base_url": url,
        "model": MODEL,
        "api_key_env": KEY_VARIABLE,
        "price": {"input": 0.1, "output": 0.1},
        "concurrency": concurrency,
    }
    return AssistantSettings.model_validate({"llm": llm}).role("judge")


def compare_with_the_sdk(url: str, rows: int, latency: float, concurrency: int) -> None:
    """Print seconds and CPU per call of both, median of `TURNS` turns of a share of the rows, and
    our seconds for all rows against the ideal."""
    share = max(concurrency, rows // TURNS)
    by_sdk, by_us = [], []
    for _ in range(TURNS):
        by_sdk.append(bare_sdk(url, share, concurrency)[1])
        by_us.append(our_client(url, share, concurrency)[1])
    sdk, ours = statistics.median(by_sdk), statistics.median(by_us)
    print(f"CPU per call, ms: bare SDK {1e3 * sdk:.2f}, client {1e3 * ours:.2f}: ", end="")
    print(f"{ours / sdk:.2f} x")
    ideal = rows * latency / concurrency
    print(f"{rows} rows at {1e3 * latency:.0f} ms and concurrency {concurrency}, ", end="")
    print(f"ideal {ideal:.2f} s:")
    for name, ask in (("bare SDK", bare_sdk), ("client", our_client)):
        seconds = ask(url, rows, concurrency)[0]
        print(f"  {name:8} {seconds:.2f} s, {seconds / ideal:.3f} x")


def bare_sdk(url: str, rows: int, concurrency: int) -> tuple[float, float]:
    """Seconds in all and CPU seconds per call of the SDK alone, `concurrency` workers."""

    async def work() -> None:
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
            waiting = iter(requests(rows))

            async def take() -> None:
                for request in waiting:
                    reply = await client.chat.completions.create(
                        model=MODEL,
                        messages=[{"role": "user", "content": request.messages[0].content}],
                        temperature=0.1,
                        max_tokens=64,
                    )
                    assert reply.choices[0].message.content

            await asyncio.gather(*(take() for _ in range(concurrency)))

    started, cpu = time.monotonic(), time.process_time()
    asyncio.run(work())
    return time.monotonic() - started, (time.process_time() - cpu) / rows


def our_client(url: str, rows: int, concurrency: int) -> tuple[float, float]:
    """Seconds in all and CPU seconds per call, from an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CHATLLAMA_STORE"] = folder
        with open_client(role(url, concurrency), Path(folder) / "run") as client:
            asked = requests(rows)
            started, cpu = time.monotonic(), time.process_time()
            answers = client.answer(asked)
            seconds = time.monotonic() - started
            cpu = time.process_time() - cpu
    assert all(isinstance(answer, LlmReply) for answer in answers)
    return seconds, cpu / rows


def time_the_cache(url: str, rows: int, concurrency: int) -> None:
    """Print how long rows take that were answered before."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CHATLLAMA_STORE"] = folder
        with open_client(role(url, concurrency), Path(folder) / "run") as client:
            client.answer(requests(rows))
        with open_client(role(url, concurrency), Path(folder) / "run") as client:
            started = time.monotonic()
            answers = client.answer(requests(rows))
            seconds = time.monotonic() - started
            assert client.ledger().cached == len(answers) == rows
    print(f"{rows} cached rows: {seconds:.2f} s")


if __name__ == "__main__":
    main()
