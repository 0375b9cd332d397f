"""Decoding by a recorded step: a CUDA graph over keys and values of a fixed size.

A step of decoding computes little and starts hundreds of kernels: at 1.3 billion weights a GPU
waits for Python most of the time. Recorded once, a step is started as a whole (CUDA graphs:
pytorch.org/docs/stable/notes/cuda.html).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from transformers import Cache
from transformers.cache_utils import DynamicLayer, StaticLayer
from transformers.pytorch_utils import Conv1D

from chatllama_pipeline.machine import free_bytes
from chatllama_pipeline.models.families.cached import Cached
from chatllama_pipeline.models.families.kinds import plain, takes_positions

# Tokens written in the general way before a step is recorded: short replies don't repay it.
RECORD_AFTER = 4
# How far the recorded step's logits may lie from the general way's, as a share of their spread:
# rounding apart (bfloat16 gives some .005), a mask or a position that is wrong gives .1 and more.
SAME = 0.03

Step = Callable[[], Tensor]


def can_record(model: Any) -> bool:
    """Whether a step of `model` can be recorded: on a GPU, nothing in it asking the CPU back."""
    bare = plain(model)
    hooked = any(
        part._forward_hooks or part._forward_pre_hooks or hasattr(part, "_hf_hook")
        for part in bare.modules()
    )
    return (
        next(bare.parameters()).is_cuda
        and bare._can_compile_fullgraph
        and bare.config._attn_implementation == "sdpa"
        and takes_positions(model)
        and not hooked
    )


def record_on_gpu(step: Step) -> Step | None:
    """`step`, which has run before, as a CUDA graph; each call overwrites what it returned.

    None where it cannot be recorded: something in it waits for what the GPU says, or memory ends.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        # Other threads of this process may go on asking the GPU (NCCL's do).
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            logits = step()
    except RuntimeError:
        torch.cuda.synchronize()
        return None

    def replay() -> Tensor:
        graph.replay()
        return logits

    return replay


class Recorded(Cached):
    """As the general way, until a step is recorded: it then repeats, and rows that stop stay in it.

    The step that is recorded is run beside the general one first; where they don't agree, the step
    can't be recorded, or keys and values aren't kept plainly, the general way goes on.
    """

    def __init__(
        self,
        model: Any,
        ids: Tensor,
        mask: Tensor,
        columns: int,
        record: Callable[[Step], Step | None] = record_on_gpu,
    ) -> None:
        super().__init__(model, ids, mask, columns)
        self._record, self._left = record, RECORD_AFTER
        self._step: Step | None = None
        # Of the rows that the step computes, those that are still asked for.
        self._kept = torch.arange(len(ids), device=ids.device)

    @property
    def is_recorded(self) -> bool:
        """Whether the step is a recorded one by now."""
        return self._step is not None

    def next_logits(self) -> Tensor:
        if self._step is not None:
            return self._step()[self._kept]
        self._left -= 1
        if self._left or not self._is_plain():
            return super().next_logits()
        ahead = _Fixed(self)
        logits = super().next_logits()
        self._kept = torch.arange(len(logits), device=logits.device)
        if same(ahead.step(), logits):
            self._step = self._record(ahead.step)
        if self._step is not None:
            self._fixed, self.cache = ahead, None
        return logits

    def append(self, tokens: Tensor) -> None:
        if self._step is None:
            super().append(tokens)
        else:
            self._fixed.append(tokens, self._kept)

    def keep(self, rows: Tensor) -> None:
        if self._step is None:
            super().keep(rows)
        else:
            self._kept = self._kept[rows]

    def _is_plain(self) -> bool:
        layers = getattr(self.cache, "layers", [])
        return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def same(recorded: Tensor, general: Tensor) -> bool:
    """Whether two `[B,V]` of logits are one distribution but for rounding."""
    apart = (recorded.float() - general.float()).abs().mean()
    return bool(apart <= SAME * general.float().std())


class _Fixed:
    """What a step reads, at fixed addresses: tokens, positions, mask, keys and values, weights."""

    def __init__(self, growing: Cached) -> None:
        self.model, self.kept = growing.model, growing.kept
        self.tokens = growing.tokens.clone()
        self.positions = growing.next_position - 1
        # The column that the step writes; all before it that are a row's own, and itself, are read.
        self.column = torch.tensor([growing.width - 1], device=self.tokens.device)
        seen = growing.mask.bool()
        seen[:, growing.width :] = False
        self.mask = seen[:, None, None, :]
        precision = _autocast(self.tokens.device.type)
        self.cache = _fixed_cache(growing.cache, growing.mask.shape[1], precision)
        self.weights = _cast_weights(growing.model, precision)

    def step(self) -> Tensor:
        inputs = {
            "input_ids": self.tokens,
            "attention_mask": self.mask,
            "position_ids": self.positions,
            "past_key_values": self.cache,
            "use_cache": True,
            **self.kept,
        }
        # Tied weights stay as they are elsewhere: an embedding isn't read in lower precision.
        output = functional_call(self.model, self.weights, (), inputs, tie_weights=False)
        logits: Tensor = output.logits
        return logits[:, -1]

    def append(self, tokens: Tensor, rows: Tensor) -> None:
        """Take `tokens` as the next of `rows`; the others repeat theirs, and nobody sees it."""
        self.tokens[rows, 0] = tokens
        self.positions += 1
        self.column += 1
        self.mask.index_fill_(3, self.column, True)


def _autocast(device: str) -> torch.dtype | None:
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _cast_weights(model: Any, precision: torch.dtype | None) -> dict[str, Tensor]:
    """What autocast would cast at every step (it keeps nothing in inference mode), cast once.

    Nothing is where they would take more than half of the memory that is free.
    """
    if precision is None:
        return {}
    weights = {
        f"{name}.{own}": weight
        for name, part in model.named_modules()
        if isinstance(part, (torch.nn.Linear, Conv1D))
        for own, weight in part.named_parameters(recurse=False)
    }
    taken = sum(weight.numel() for weight in weights.values()) * precision.itemsize
    if taken > free_bytes(model.device.type) / 2:
        return {}
    return {name: weight.to(precision) for name, weight in weights.items()}


class _FixedLayer(StaticLayer):  # type: ignore[misc]
    """Keys and values of a fixed number of columns, each of the type that it was begun with."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values = key_states.to(self.keys.dtype), value_states.to(self.values.dtype)
        found: tuple[Tensor, Tensor] = super().update(keys, values, *args, **kwargs)
        return found


def _fixed_cache(cache: Any, columns: int, precision: torch.dtype | None) -> Cache:
    """Keys and values `[B,heads,L,size]` of a cache that grows, in one with room for `columns`.

    Attention reads them in autocast's `precision`, and so they are kept.
    """
    layers = []
    for old in cache.layers:
        kept = _FixedLayer(max_cache_len=columns)
        kept.lazy_initialization(
            old.keys.to(precision or old.keys.dtype), old.values.to(precision or old.values.dtype)
        )
        read = old.keys.shape[2]
        kept.keys[:, :, :read] = old.keys
        kept.values[:, :, :read] = old.values
        kept.cumulative_length.fill_(read)
        layers.append(kept)
    return Cache(layers=layers)
