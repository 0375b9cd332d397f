"""A model in shards: DeepSpeed's ZeRO-3 in child processes, one for each GPU.

DeepSpeed's settings hold for a whole process, and every rank computes each step: so the ranks are
children of their own (`ranks.py`), and the first of them is told the jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from chatllama_pipeline.errors import EngineError
from chatllama_pipeline.launch import shim
from chatllama_pipeline.launch.child import child_environment, cores_at_hand
from chatllama_pipeline.machine import free_bytes
from chatllama_pipeline.serving.engine.jobs import CLOSED, Job, Listener, Written
from chatllama_pipeline.serving.loaded import GPU_SHARE, Loaded, weight_bytes

LOOPBACK = "127.0.0.1"
RANKS = "chatllama_pipeline.serving.engine.ranks"
_LOG_LINES = 12
_LOOK_SECONDS = 1.0
_BYTES_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Shards:
    """What each rank is told. `held`: where the weights stand that aren't computed with: on the
    `gpu`s, in the `cpu`'s memory, or in files (`nvme`) in the folder of that name."""

    folder: str
    streams: int
    context: int
    pad_id: int
    device: str
    held: str
    nvme: str = ""


def shards_of(
    folder: Path, release: Loaded, streams: int, processes: int | None, nvme: Path | None
) -> tuple[Shards, int]:
    """How the release in `folder` is shared out, and among how many ranks.

    Weights stand on the GPUs where they leave room there, else in main memory, or in files in the
    folder `nvme`. Raises EngineError for more ranks than there are GPUs.
    """
    gpus = torch.cuda.device_count()
    ranks = processes or max(gpus, 1)
    if gpus and ranks > gpus:
        raise EngineError(f"--processes {ranks}: {gpus} GPU(s) stand here, and each wants its own")
    device = "cuda" if gpus else "cpu"
    fits = gpus and weight_bytes(folder) / ranks < GPU_SHARE * free_bytes("cuda")
    held = "nvme" if nvme else "gpu" if fits else "cpu"
    pad = release.tokenizer.pad_token_id
    where = (str(folder), streams, release.context, pad, device, held)
    return Shards(*where, str(nvme or "")), ranks


class ShardedEngine:
    """Up to `streams` rows at once, written by `processes` ranks in step."""

    why = ""

    def __init__(self, shards: Shards, processes: int) -> None:
        """Returns once the model is loaded; EngineError, with what the ranks said, where not."""
        where = {"gpu": "on the GPU", "cpu": "in main memory", "nvme": "in files"}[shards.held]
        self.name = f"ZeRO-3 of {processes} process(es), weights {where} (DeepSpeed)"
        self.longest = shards.context
        self._shards, self._processes = shards, processes
        self._rows: dict[str, _Row] = {}
        self._lock, self._saying = threading.Lock(), threading.Lock()
        self._ready, self._over = threading.Event(), ""
        self._place = tempfile.TemporaryDirectory(prefix="chatllama-ranks-")
        self._files = tempfile.TemporaryDirectory(prefix="weights-", dir=shards.nvme or None)
        if shards.nvme:
            # Another version's weights have the same names.
            self._shards = replace(shards, nvme=self._files.name)
        self._socket, theirs = socket.socketpair()
        self._thread = threading.Thread(target=self._run, args=(theirs,), name="ranks", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._over:
            error = self._over
            self.close()
            raise EngineError(error)

    def start(self, number: str, job: Job, listen: Listener) -> None:
        row = _Row(listen, asyncio.get_running_loop())
        with self._lock:
            if self._over:
                raise EngineError(self._over)
            self._rows[number] = row
        told = asdict(job) | {"ids": list(job.ids), "stops": sorted(job.stops)}
        self._say({"start": number, "job": told})

    def cancel(self, number: str) -> None:
        with self._lock:
            known = self._rows.pop(number, None)
        if known:
            self._say({"cancel": number})

    def close(self) -> None:
        with self._lock:
            self._over = self._over or CLOSED
        # At which whoever reads it ends the ranks.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        self._place.cleanup()
        self._files.cleanup()

    def _say(self, told: Mapping[str, Any]) -> None:
        # A rank that is gone is heard of by who reads.
        with self._saying, contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(told).encode() + b"\n")

    def _run(self, theirs: socket.socket) -> None:
        """Start the ranks, hear what they say until one of them ends, and end all.

        In one thread, since the kernel ends a child with the thread that started it.
        """
        ranks: list[subprocess.Popen[bytes]] = []
        try:
            with theirs:
                ranks = [self._rank(number, theirs) for number in range(self._processes)]
            self._hear(ranks)
        except OSError as error:
            self._end(str(error))
        finally:
            for rank in ranks:
                rank.kill()
            for rank in ranks:
                rank.wait()
            self._end(self._last_words())

    def _hear(self, ranks: list[subprocess.Popen[bytes]]) -> None:
        rest = b""
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._socket, selectors.EVENT_READ)
            while not any(rank.poll() is not None for rank in ranks[1:]):
                if not waiting.select(_LOOK_SECONDS):
                    continue
                if not (read := self._socket.recv(_BYTES_AT_ONCE)):
                    return
                *lines, rest = (rest + read).split(b"\n")
                for line in lines:
                    self._take(json.loads(line))

    def _take(self, told: Mapping[str, Any]) -> None:
        if "refused" in told:
            self._end(told["refused"])
        elif "ready" in told:
            self._ready.set()
        else:
            with self._lock:
                row = self._rows.get(told["number"])
                if told["finished"]:
                    self._rows.pop(told["number"], None)
            if row is not None:
                row.take(told["ids"], finished=told["finished"], error=told["error"])

    def _end(self, error: str) -> None:
        """No more is written: whoever waits is told why."""
        with self._lock:
            self._over = self._over or error
            left, self._rows = self._rows, {}
        self._ready.set()
        for row in left.values():
            row.take([], finished=True, error=self._over)

    def _rank(self, number: int, theirs: socket.socket) -> subprocess.Popen[bytes]:
        shared = {
            "RANK": str(number),
            "LOCAL_RANK": str(number),
            "WORLD_SIZE": str(self._processes),
            "LOCAL_WORLD_SIZE": str(self._processes),
            "MASTER_ADDR": LOOPBACK,
            shim.PARENT_VARIABLE: str(os.getpid()),
        }
        if self._shards.device == "cpu":
            # DeepSpeed looks for an accelerator at its import, and says so where it finds none.
            shared["DS_ACCELERATOR"] = "cpu"
        threads = max(1, cores_at_hand() // self._processes)
        # The ranks meet at a file's side: no port is taken meanwhile by anybody else.
        spec = json.dumps(asdict(self._shards))
        meeting = f"file://{self._place.name}/meeting"
        # The first alone is spoken with.
        fds = [theirs.fileno()] if number == 0 else []
        command = [sys.executable, "-m", RANKS, spec, meeting, *map(str, fds)]
        with (Path(self._place.name) / f"{number}.log").open("wb") as log:
            return subprocess.Popen(
                shim.through_shim(command),
                env=child_environment(threads, {**os.environ, **shared}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=fds,
                start_new_session=True,
            )

    def _last_words(self) -> str:
        lines = [
            line
            for log in sorted(Path(self._place.name).glob("*.log"))
            for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
        ]
        return "DeepSpeed's processes ended: " + ("\n".join(lines) or "they said nothing")


class _Row:
    """A reply that is being written, and the loop in which somebody waits for it."""

    def __init__(self, listen: Listener, loop: asyncio.AbstractEventLoop) -> None:
        self._listen, self._loop = listen, loop
        self._ids: list[int] = []

    def take(self, ids: list[int], *, finished: bool, error: str) -> None:
        """Hand over `ids` more."""
        self._ids += ids
        if not self._loop.is_closed():
            told = Written(self._ids.copy(), finished, error)
            with contextlib.suppress(RuntimeError):  # closed since
                self._loop.call_soon_threadsafe(self._listen, told)
