"""The ways to hold a release and to write its replies, one of which `--engine` names."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chatllama_pipeline.serving.engine.jobs import Engine
from chatllama_pipeline.serving.engine.opening import open_engine
from chatllama_pipeline.serving.loaded import (
    GPU_SHARE_OF_MANY,
    Loaded,
    load_outline,
    load_release,
    load_spread,
)


@dataclass(frozen=True)
class Way:
    """`engine` is one of `WAYS`; `memory`: bytes of main memory for weights, None for all.

    With `deepspeed`, `processes` share a model, one for each GPU if None; and `nvme` is the folder
    for weights that stand in files. With `vllm`, `urls` are the addresses of servers elsewhere.
    """

    engine: str = "pytorch"
    memory: int | None = None
    processes: int | None = None
    nvme: Path | None = None
    urls: tuple[str, ...] = ()


Opened = tuple[Loaded, Engine]


def open_release(folder: Path, streams: int, way: Way) -> Opened:
    """The release in `folder`, ready to write `streams` replies at once in that way.

    Raises StoreError, EngineError, and SettingsError for a family that the way can't run.
    """
    return WAYS[way.engine](folder, streams, way)


def _in_memory(folder: Path, streams: int, way: Way) -> Opened:
    release = load_release(folder)
    pad = release.tokenizer.pad_token_id
    return release, open_engine(release.model, pad, streams, release.context)


def _spread(folder: Path, streams: int, way: Way) -> Opened:
    from chatllama_pipeline.serving.engine.spread import SpreadEngine

    place = tempfile.TemporaryDirectory(prefix="chatllama-layers-")
    release = load_spread(folder, way.memory, Path(place.name))
    return release, SpreadEngine(release, streams, place)


def _offloaded(folder: Path, streams: int, way: Way) -> Opened:
    from chatllama_pipeline.serving.engine.spread import OffloadEngine

    place = tempfile.TemporaryDirectory(prefix="chatllama-layers-")
    release = load_spread(folder, way.memory, Path(place.name), GPU_SHARE_OF_MANY)
    return release, OffloadEngine(release, streams, place)


def _by_llama(folder: Path, streams: int, way: Way) -> Opened:
    from chatllama_pipeline.models.bases.exportable import require_exportable
    from chatllama_pipeline.serving.engine.llama import LlamaEngine
    from chatllama_pipeline.serving.gguf.conversion import convert

    release = load_outline(folder)
    name = type(release.model).__name__
    require_exportable(release.model.config, name, release.tokenizer, "--engine gguf")
    place = tempfile.TemporaryDirectory(prefix="chatllama-gguf-")
    file = Path(place.name) / "release.gguf"
    convert(folder, release.tokenizer, "--engine gguf: the release", file)
    return release, LlamaEngine(file, streams, release.context, place)


def _in_shards(folder: Path, streams: int, way: Way) -> Opened:
    from chatllama_pipeline.serving.engine.sharded import ShardedEngine, shards_of

    release = load_outline(folder)
    shards, processes = shards_of(folder, release, streams, way.processes, way.nvme)
    return release, ShardedEngine(shards, processes)


def _by_vllm(folder: Path, streams: int, way: Way) -> Opened:
    from chatllama_pipeline.serving.engine.vllm import VllmEngine, holding

    held = holding(way.urls, folder)
    release = load_outline(folder)
    return release, VllmEngine(held, release.context)


WAYS: dict[str, Callable[[Path, int, Way], Opened]] = {
    "pytorch": _in_memory,
    "accelerate": _spread,
    "deepspeed": _in_shards,
    "offload": _offloaded,
    "gguf": _by_llama,
    "vllm": _by_vllm,
}
