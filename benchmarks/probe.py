"""What the probe of a base costs beside loading it.

    python benchmarks/probe.py                     # tiny, 135 M weights, 1.2 B weights
    python benchmarks/probe.py --shapes smollm --dtype float32

CPU seconds on one thread, of random Llamas as `actor_base` publishes them. To load is to read the
weights into memory in float32, as training does. Pairs of both in turns, after one that brings the
files into memory: their medians, and the median of the pairs' ratios with the least and the most.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from benchmarks.llamas import WORDS, llama_config
from chatllama_pipeline.models.bases.build import run
from chatllama_pipeline.models.bases.scratch import train_tokenizer
from chatllama_pipeline.models.heads import load_actor
from chatllama_pipeline.models.loading import load_tokenizer
from chatllama_pipeline.models.probe.base import probe_actor
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import StageSpec

SHAPES = ("tiny", "smollm", "llama")
DRAWN = 1 << 20  # random numbers, of which all weights are made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=SHAPES)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet_transformers()
    print("             weights     load    probe    ratio   least    most   (CPU seconds)")
    for shape in options.shapes:
        with tempfile.TemporaryDirectory(prefix="chatllama_benchmark_") as folder:
            measure(shape, getattr(torch, options.dtype), options.times, Path(folder))


def measure(shape: str, dtype: torch.dtype, times: int, folder: Path) -> None:
    """Print the line of a shape."""
    published, base = folder / "published", folder / "base"
    weights = make(shape, dtype, published)
    base.mkdir()
    build(published, base)
    source = AutoModelForCausalLM.from_pretrained(published, dtype="auto")
    tokenizer = load_tokenizer(base)
    pairs = [
        (
            cpu_seconds(lambda: read(base, dtype)),
            cpu_seconds(lambda: probe_actor(base, "", "", source, tokenizer)),
        )
        for _ in range(times + 1)
    ][1:]
    load, probe = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratios = [probe / load for load, probe in pairs]
    ratio = statistics.median(ratios)
    spread = f"{min(ratios):7.2f} {max(ratios):7.2f}"
    print(f"{shape:6} {weights:13,} {load:8.2f} {probe:8.2f} {ratio:8.2f} {spread}", flush=True)


def make(shape: str, dtype: torch.dtype, folder: Path) -> int:
    """Write a Llama of that shape, and a tokenizer, to `folder`; how many weights it has."""
    model = drawn(llama_config(shape), dtype)
    model.save_pretrained(folder)
    train_tokenizer((" ".join(WORDS) for _ in range(9)), 300, 2048).save_pretrained(folder)
    return int(model.num_parameters())


@torch.no_grad()
def drawn(config: LlamaConfig, dtype: torch.dtype) -> Any:
    """A model of random weights, drawn faster than the library would."""
    with torch.device("meta"):
        empty = LlamaForCausalLM(config).to(dtype)
    model = empty.to_empty(device="cpu")
    model.tie_weights()
    some = torch.randn(DRAWN, generator=torch.Generator().manual_seed(0)) * 0.02
    for weight in model.parameters():
        if weight.dim() == 1:
            weight.fill_(1.0)
        else:
            for part in weight.view(-1).split(DRAWN):
                part.copy_(some[: len(part)])
    return model


def build(published: Path, base: Path) -> None:
    """The stage actor_base on a published folder."""
    settings = {"actor_config": {"model": str(published), "max_sequence_length": 256}}
    places = (str(base), str(base.parent / "run"), str(base.parent / "result"))
    run(StageSpec("actor_base", "tiny", settings, {}, *places), Progress("probe", lambda _: None))


def read(base: Path, dtype: torch.dtype) -> None:
    """Every weight in memory of its own; a file in float32 alone would only be mapped."""
    model = load_actor(base, torch.float32)
    if dtype is torch.float32:
        _ = [weight.clone() for weight in model.parameters()]


def cpu_seconds(work: Callable[[], Any]) -> float:
    """What `work` takes of this process."""
    started = time.process_time()
    work()
    return time.process_time() - started


if __name__ == "__main__":
    main()
