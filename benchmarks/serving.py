"""Serving beside the bare engine: tokens per second at several streams, the first token, memory.

    python benchmarks/serving.py                     # a release of the quickstart's shape
    python benchmarks/serving.py --release FOLDER    # one that stands in a store
    python benchmarks/serving.py --shape smollm      # one of SmolLM2-135M's shape
    python benchmarks/serving.py --engine gguf       # by another engine
    python benchmarks/serving.py --whole             # replies that aren't streamed

On a GPU where there is one, in less than a minute:

    python benchmarks/serving.py --shape smollm --turns 2 --rounds 1 --tokens 32

Weights are random where no release is named: they cost what trained ones cost. At N streams N
clients ask N x `--rounds` greedy replies of `--tokens` tokens, streamed, one after another each.
How many pieces a stream has hangs on the clock: on a busy machine `--whole` compares.
Beside it, in turns with it: transformers' `generate` on a batch of N prompts, and the server's
engine without a server. Every figure is the median of `--turns` turns. Tokens per second of the
process's own CPU time stand beside those of the clock: on a busy machine they alone compare.
`share` is the server's of the engine's by CPU time, turn by turn: its median, the lowest and the
highest. Memory is the server's: main memory, and behind a + that of the GPU.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from chatllama_pipeline.data.grammar.rows import fresh_questions, grammar_pairs
from chatllama_pipeline.launch.child import child_environment, cores_at_hand
from chatllama_pipeline.machine import gpu_free_bytes
from chatllama_pipeline.models.bases.scratch import ScratchSize, make_scratch_model
from chatllama_pipeline.models.chat.template import prompt_ids
from chatllama_pipeline.models.loading import load_tokenizer
from chatllama_pipeline.records import Outcome, user_prompt
from chatllama_pipeline.serving.engine.jobs import Engine, Job, Sampling
from chatllama_pipeline.serving.engine.opening import written
from chatllama_pipeline.serving.engine.ways import WAYS, Way, open_release
from chatllama_pipeline.serving.loaded import Loaded, load_release
from chatllama_pipeline.store.manifests import Recipe
from chatllama_pipeline.store.versions import Store, Workbench
from chatllama_pipeline.training.ppo.rollout import pad_left

NAME = "benchmark"
# Those that hold the release themselves.
LOCAL = [engine for engine in WAYS if engine != "vllm"]
MEGABYTE = 10**6
QUICKSTART = ScratchSize(hidden_size=128, layers=2, heads=4, vocabulary=1024, max_length=128)
# What else a config says, over the quickstart's. The vocabulary is SmolLM2's in size alone.
SHAPES: dict[str, dict[str, int]] = {
    "quickstart": {},
    "smollm": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "vocab_size": 49152,
        "max_position_embeddings": 1024,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", type=Path)
    parser.add_argument("--shape", choices=list(SHAPES), default="quickstart")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=cores_at_hand())
    parser.add_argument("--engine", choices=LOCAL, default="pytorch")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--memory", type=float, help="GB for weights, with --engine accelerate")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place) / "store")
        folder = publish(store, options.release, SHAPES[options.shape])
        limit = None if options.memory is None else int(options.memory * 10**9)
        way = Way(options.engine, limit)
        release = load_release(folder)
        _, engine = open_release(folder, max(options.streams), way)
        on_gpu = GpuMemory()
        try:
            with serving(Path(place), store, options) as (url, process, seconds):
                print(f"{device()}; {engine.name}; up in {seconds:.1f} s")
                print("tokens/s by the clock and by CPU time; seconds to the first text; MB")
                print(
                    "streams         server         engine       generate             share"
                    "     first    memory"
                )
                for streams in options.streams:
                    measure(url, process, release, engine, streams, options, on_gpu)
        finally:
            engine.close()


class GpuMemory:
    """What others than this process have taken of the GPU's memory since this was made, in MB."""

    def __init__(self) -> None:
        self._before = self._free_of_own()

    def __str__(self) -> str:
        if self._before is None or (free := self._free_of_own()) is None:
            return ""
        return f" + {(self._before - free) / MEGABYTE:.0f}"

    def _free_of_own(self) -> int | None:
        free = gpu_free_bytes()
        return None if free is None else free + torch.cuda.memory_reserved()


class Clock:
    """Tokens per second of the clock, and per second of a process's CPU time, turn by turn.

    That of its children counts too, but for `other` and its own.
    """

    def __init__(self, process: psutil.Process, other: psutil.Process | None = None) -> None:
        self._process, self._other = process, other
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def time(self, work: Callable[[], int]) -> None:
        """Do `work`, which returns how many tokens it made."""
        wall, cpu = time.monotonic(), self._cpu()
        count = work()
        self.wall.append(count / (time.monotonic() - wall))
        self.cpu.append(count / (self._cpu() - cpu))

    def _cpu(self) -> float:
        others = family(self._other) if self._other else []
        times = [one.cpu_times() for one in family(self._process) if one not in others]
        return float(sum(one.user + one.system for one in times))

    def __str__(self) -> str:
        return f"{statistics.median(self.wall):6.0f} {statistics.median(self.cpu):6.0f}"


def measure(
    url: str,
    process: psutil.Process,
    release: Loaded,
    engine: Engine,
    streams: int,
    options: argparse.Namespace,
    on_gpu: GpuMemory,
) -> None:
    """Print a line of figures at so many streams."""
    known = [question.text for question in fresh_questions()]
    texts = [known[number % len(known)] for number in range(streams)]
    ids = [prompt_ids(release.tokenizer, user_prompt(text), 10**6) for text in texts]
    tokens, rounds = options.tokens, options.rounds
    own = psutil.Process()
    server, alone, plain = Clock(process), Clock(own, process), Clock(own, process)
    firsts: list[float] = []
    for _ in range(options.turns):
        server.time(lambda: asyncio.run(asked(url, texts, options, firsts)))
        alone.time(lambda: asyncio.run(by_engine(engine, ids, tokens, rounds)))
        plain.time(lambda: generated(release, ids, tokens, rounds))
    first = statistics.median(firsts)
    shares = [one / other for one, other in zip(server.cpu, alone.cpu, strict=True)]
    share = f"{statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})"
    print(
        f"{streams:7}  {server}  {alone}  {plain}  {share}  {first:8.3f}  {memory(process):8.0f}"
        f"{on_gpu}",
        flush=True,
    )


async def asked(
    url: str, texts: Sequence[str], options: argparse.Namespace, firsts: list[float]
) -> int:
    """Tokens that the server wrote; `firsts` takes the seconds to each reply's first text."""

    host, _, port = url.removeprefix("http://").removesuffix("/v1").partition(":")

    async def ask_on(text: str) -> int:
        reader, writer = await asyncio.open_connection(host, int(port), limit=2**20)
        with contextlib.closing(writer):
            request = _request(text, options)
            return sum([await ask(reader, writer, request) for _ in range(options.rounds)])

    async def ask(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
    ) -> int:
        began = time.monotonic()
        writer.write(request)
        told = await reader.readuntil(b"\r\n\r\n")
        if not told.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(f"the server refused: {told.decode()}")
        if options.whole:
            told = await reader.readexactly(int(told.split(b"content-length: ")[1].split()[0]))
            firsts.append(time.monotonic() - began)
        else:
            # The first text comes with the beginning, in one part.
            told = await reader.readuntil(b"\n\n\r\n")
            firsts.append(time.monotonic() - began)
            rest = b"0\r\n\r\n" if b"[DONE]" in told else b"[DONE]\n\n\r\n0\r\n\r\n"
            told += await reader.readuntil(rest)
        return int(re.findall(rb'"completion_tokens": ?(\d+)', told)[-1])

    return sum(await asyncio.gather(*(ask_on(text) for text in texts)))


def _request(text: str, options: argparse.Namespace) -> bytes:
    """What asks for a reply to `text`: bytes, since a client that works takes the server's time."""
    body: dict[str, Any] = {"model": NAME, "messages": [{"role": "user", "content": text}]}
    body |= {"temperature": 0, "max_tokens": options.tokens}
    if not options.whole:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    sent = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(sent)}\r\n\r\n"
    return head.encode() + sent


async def by_engine(engine: Engine, prompts: Sequence[list[int]], tokens: int, rounds: int) -> int:
    """Tokens that the engine wrote where nobody asks over HTTP."""

    async def write_on(ids: list[int]) -> int:
        count = 0
        for _ in range(rounds):
            job = Job(ids, tokens, frozenset(), Sampling(0.0))
            count += len([step async for step in written(engine, job)][-1].ids)
        return count

    return sum(await asyncio.gather(*(write_on(ids) for ids in prompts)))


def generated(release: Loaded, prompts: Sequence[list[int]], tokens: int, rounds: int) -> int:
    """Tokens that `generate` wrote for all prompts at once."""
    pad = release.tokenizer.pad_token_id
    ids, mask = (part.to(release.model.device) for part in pad_left(prompts, pad))
    plain = GenerationConfig(
        do_sample=False, max_new_tokens=tokens, eos_token_id=-1, pad_token_id=pad
    )
    for _ in range(rounds):
        release.model.generate(ids, attention_mask=mask.long(), generation_config=plain)
    return len(prompts) * tokens * rounds


def publish(
    store: Store, release: Path | None, shape: Mapping[str, int] = SHAPES["quickstart"]
) -> Path:
    """`release` in a store of its own; without one, random weights in that shape."""

    def build(bench: Workbench) -> Outcome:
        if release is not None:
            for path in release.iterdir():
                (bench.output / path.name).symlink_to(path.resolve())
            return Outcome()
        texts = [pair["chosen"] for pair, _ in zip(grammar_pairs(), range(2000), strict=False)]
        make_scratch_model(texts, QUICKSTART, seed=0, folder=bench.output)
        # Larger weights than those that training begins with: replies then vary and go on.
        config = AutoConfig.from_pretrained(bench.output, initializer_range=0.3, **shape)
        tokenizer = load_tokenizer(bench.output)
        model = AutoModelForCausalLM.from_config(config)
        # What stands for no text, or ends a reply, is never the likeliest.
        rows = model.get_input_embeddings().weight.data
        rows[len(tokenizer) :] = rows[tokenizer.eos_token_id] = 0
        model.save_pretrained(bench.output)
        GenerationConfig(
            max_new_tokens=48, eos_token_id=tokenizer.eos_token_id, pad_token_id=0
        ).save_pretrained(bench.output)
        return Outcome()

    recipe = Recipe("release", NAME, "1", {}, {}, {})
    return store.make(recipe, build, {}, force=False).version.path


@contextlib.contextmanager
def serving(
    place: Path, store: Store, options: argparse.Namespace
) -> Iterator[tuple[str, psutil.Process, float]]:
    """`chatllama serve` of that release: its URL, its process, and the seconds it took."""
    assistant = place / "assistants" / NAME
    assistant.mkdir(parents=True)
    (assistant / "config.yaml").write_text("seed: 0\n")
    variables = {"CHATLLAMA_ASSISTANTS": str(assistant.parent), "CHATLLAMA_STORE": str(store.root)}
    began = time.monotonic()
    command = [sys.executable, "-m", "chatllama_pipeline", "serve", NAME, "--port", "0"]
    command += ["--engine", options.engine]
    if options.memory is not None:
        command += ["--memory", str(options.memory)]
    server = subprocess.Popen(
        [*command, "--streams", str(max(options.streams))],
        env=child_environment(options.threads, {**os.environ, **variables}),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        heard: list[str] = []
        for line in server.stderr:
            heard.append(line)
            if "answers at" in line:
                break
        else:
            raise SystemExit(f"the server didn't start: {''.join(heard)}")
        told = heard[-1]
        url = told.split("answers at ")[1].split()[0]
        yield url, psutil.Process(server.pid), time.monotonic() - began
    finally:
        server.terminate()
        server.wait(60)


def device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def memory(process: psutil.Process) -> float:
    """Megabytes of main memory that the process and its children have."""
    return sum(one.memory_info().rss for one in family(process)) / MEGABYTE


def family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


if __name__ == "__main__":
    main()
