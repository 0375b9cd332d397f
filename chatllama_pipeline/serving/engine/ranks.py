"""A rank of DeepSpeed's ZeRO-3: `python -m ...ranks SPEC MEETING [DESCRIPTOR]`, by `sharded.py`.

Each rank holds a part of the weights and computes every step, since each layer is gathered from all
of them. The first, which has the socket with that descriptor, writes replies in waves and tells the
others before each step what it is; they do the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from weakref import WeakValueDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from chatllama_pipeline.errors import ChatllamaError, EngineError
from chatllama_pipeline.models.families.decoding import Decoding, decoding
from chatllama_pipeline.serving.engine.jobs import Job, Sampling, Written
from chatllama_pipeline.serving.engine.sharded import Shards
from chatllama_pipeline.serving.engine.waves import WavesEngine
from chatllama_pipeline.training.builds import do_without_shared_memory

# Between two requests anything may pass.
FOREVER = timedelta(days=365)
FILES = "async_io"
Begin = Callable[[Tensor, Tensor, int], Decoding]


def main(argv: list[str]) -> None:
    spec, meeting, *descriptor = argv
    shards = Shards(**json.loads(spec))
    line = socket.socket(fileno=int(descriptor[0])) if descriptor else None
    try:
        model, device = load(shards, meeting)
    except ChatllamaError as error:
        if line is not None:
            line.sendall(json.dumps({"refused": str(error)}).encode() + b"\n")
        raise SystemExit(str(error)) from error

    def begin(ids: Tensor, mask: Tensor, columns: int) -> Decoding:
        return decoding(model, ids.to(device), mask.to(device), columns)

    if line is None:
        follow(begin, device)
    else:
        asyncio.run(lead(begin, shards, line))


def load(shards: Shards, meeting: str) -> tuple[Any, torch.device]:
    """The model, of which this process holds its part, and where it takes ids.

    Raises EngineError where DeepSpeed can't hold it so.
    """
    import deepspeed
    from deepspeed import ops
    from transformers.integrations import HfDeepSpeedConfig

    from chatllama_pipeline.models.heads import load_actor
    from chatllama_pipeline.models.quiet import quiet_transformers

    quiet_transformers()
    do_without_shared_memory()
    if shards.held == "nvme" and not ops.__compatible_ops__.get(FILES):
        raise EngineError(
            "--nvme: DeepSpeed reads files by libaio, which is not here: apt-get install "
            "libaio-dev, or leave the weights in main memory"
        )
    on_gpu = shards.device == "cuda"
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    deepspeed.init_distributed(
        "nccl" if on_gpu else "gloo",
        auto_mpi_discovery=False,
        verbose=False,
        timeout=FOREVER,
        init_method=meeting,
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )
    settings = _settings(shards)
    # While it lives, whatever is loaded is shared out among the ranks.
    sharing = HfDeepSpeedConfig(settings)
    model = load_actor(shards.folder, torch.float32)
    held = deepspeed.initialize(model=model, config=settings)[0]
    del sharing
    return held.module.eval(), device


def _settings(shards: Shards) -> dict[str, Any]:
    places: dict[str, dict[str, Any]] = {
        "gpu": {},
        "cpu": {"offload_param": {"device": "cpu", "pin_memory": shards.device == "cuda"}},
        "nvme": {"offload_param": {"device": "nvme", "nvme_path": shards.nvme}},
    }
    return {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3, **places[shards.held]},
        "fp16": {"enabled": False},
        "steps_per_print": 10**9,
    }


@dataclass(frozen=True)
class _Step:
    """What all ranks do next with the decoding of that number; `alive` are all that go on."""

    number: int
    alive: frozenset[int]
    begins: tuple[Tensor, Tensor, int] | None = None
    appends: Tensor | None = None
    keeps: Tensor | None = None
    computes: bool = False


def _shared(step: _Step | None, group: Any) -> _Step:
    """The first rank's step, in every rank."""
    told: list[Any] = [step]
    dist.broadcast_object_list(told, src=0, group=group)
    found: _Step = told[0]
    return found


def _group() -> Any:
    """What steps are told by: objects stand in main memory, whatever the weights go by."""
    return dist.new_group(backend="gloo", timeout=FOREVER)


@torch.inference_mode()
def follow(begin: Begin, device: torch.device) -> None:
    """Do what the first rank does, until this process is ended."""
    group = _group()
    known: dict[int, Decoding] = {}
    while True:
        step = _shared(None, group)
        for number in known.keys() - step.alive:
            del known[number]
        if step.begins is not None:
            known[step.number] = begin(*step.begins)
        growing = known[step.number]
        if step.appends is not None:
            growing.append(step.appends.to(device))
        if step.keeps is not None:
            growing.keep(step.keeps.to(device))
        if step.computes:
            growing.next_logits()


class _Led:
    """A decoding of the first rank, whose steps all take: `together` does one, told to all."""

    def __init__(self, growing: Decoding, together: Callable[..., Any]) -> None:
        self._growing, self._together = growing, together

    def next_logits(self) -> Tensor:
        logits: Tensor = self._together(self._growing.next_logits, computes=True)
        return logits

    def append(self, tokens: Tensor) -> None:
        self._together(lambda: self._growing.append(tokens), appends=tokens.cpu())

    def keep(self, rows: Tensor) -> None:
        self._together(lambda: self._growing.keep(rows), keeps=rows.cpu())


class LeadingEngine(WavesEngine):
    """Waves whose every step all ranks take."""

    def __init__(self, begin: Begin, shards: Shards) -> None:
        self._begin_here, self._group, self._count = begin, _group(), 0
        self._alive: WeakValueDictionary[int, _Led] = WeakValueDictionary()
        super().__init__(None, shards.pad_id, shards.streams, shards.context, shards.device)

    def _decoding(self, ids: Tensor, mask: Tensor, columns: int) -> Decoding:
        self._count += 1
        number = self._count

        def together(work: Callable[[], Any], **step: Any) -> Any:
            return self._together(_Step(number, frozenset(self._alive), **step), work)

        begun = (ids, mask, columns)
        led = _Led(together(lambda: self._begin_here(*begun), begins=begun), together)
        self._alive[number] = led
        return led

    def _together(self, step: _Step, work: Callable[[], Any]) -> Any:
        try:
            _shared(step, self._group)
            return work()
        except Exception:
            if dist.get_world_size() > 1:
                # The others stand within the step: there is no next one.
                traceback.print_exc()
                os._exit(1)
            raise


async def lead(begin: Begin, shards: Shards, line: socket.socket) -> None:
    """Write what is asked for on `line` and tell it there, until that is closed."""
    reader, writer = await asyncio.open_connection(sock=line, limit=1 << 26)
    engine = LeadingEngine(begin, shards)
    counts: dict[str, int] = {}

    def say(told: dict[str, Any]) -> None:
        writer.write(json.dumps(told).encode() + b"\n")

    def listening(number: str) -> Callable[[Written], None]:
        def listen(told: Written) -> None:
            if number not in counts:
                return  # cancelled, and told before that
            fresh, counts[number] = told.ids[counts[number] :], len(told.ids)
            if told.finished:
                counts.pop(number)
            say({"number": number, "ids": fresh, "finished": told.finished, "error": told.error})

        return listen

    say({"ready": True})
    with contextlib.suppress(ConnectionError):
        while asked := await reader.readline():
            told = json.loads(asked)
            if "cancel" in told:
                engine.cancel(told["cancel"])
                counts.pop(told["cancel"], None)
                continue
            job = told["job"]
            settings = Sampling(**job.pop("sampling"))
            stops = frozenset(job.pop("stops"))
            work = Job(**job, stops=stops, sampling=settings)
            counts[told["start"]] = 0
            engine.start(told["start"], work, listening(told["start"]))
    # The other ranks wait for a step that never comes: whoever started them ends them.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
