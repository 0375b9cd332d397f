"""How much passes through memory while models read and write, and so how many rows do so at once.

Where nothing is learned (validation, scores, replies) the rows at once cost only speed. As many are
taken as need little beside the weights; free memory has no say, so that the same rows are added up
alike on every machine. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

from chatllama_pipeline.machine import gpu_total_bytes
from chatllama_pipeline.models.memory.sizes import ModelSize, cached_floats, size_of

FLOAT_BYTES = 4
# Floats per token of a Llama-like block: ten of the hidden size (two norms' inputs and outputs,
# q, k, v, attention's output, two residuals) and four of the feed-forward size (gate, up, their
# activation and product). SDPA keeps no attention scores.
HIDDEN_COPIES, INTERMEDIATE_COPIES = 10, 4
# Of a block that learns nothing but passes gradients on, what its norms, products and attention
# need; not what its linear layers read. An adapted layer that drops out keeps its input as dropped
# and the noise.
FROZEN_HIDDEN, FROZEN_INTERMEDIATE = 6, 3
DROPOUT_COPIES = 2
# Logits, their log-softmax and its gradient.
LOGIT_COPIES = 3
# Of the next token's logits, as often once more as double precision: softmax and running sums.
SAMPLING_COPIES = 6
# glibc's malloc maps what is larger on its own, and gives it back whole.
MAPPED_BYTES = 32 * 2**20
# What passes through a model in one go and nobody minds.
SMALL_BYTES = 256 * 2**20
MOST_ROWS = 64
GPU_SHARE = 8


class Shape(NamedTuple):
    """Sizes of a model; `cached` are the floats that all its layers keep of a token read."""

    hidden: int
    intermediate: int
    vocabulary: int
    cached: int

    @classmethod
    def of(cls, size: ModelSize, config: Any) -> Self:
        """Of a model of that size and transformers config."""
        cached = cached_floats(config, size.layers)
        return cls(size.hidden, size.intermediate, size.vocabulary, cached)

    @property
    def layer(self) -> int:
        """Floats per token within a layer."""
        return layer_floats(self.hidden, self.intermediate)

    def reading(self, tokens: int, predicted: int = 0) -> int:
        """Bytes that pass while `tokens` are read, and `predicted` of them turned into logits."""
        logits = LOGIT_COPIES * self.vocabulary
        return FLOAT_BYTES * (tokens * self.layer + predicted * logits)

    def writing(self, prompt: int, reply: int) -> int:
        """Bytes that a reply of so many tokens to a prompt of so many keeps until it is written."""
        cache = (prompt + reply) * self.cached
        return FLOAT_BYTES * (cache + prompt * self.layer + SAMPLING_COPIES * self.vocabulary)


def shape_of(model: Any) -> Shape:
    """The sizes of a loaded model."""
    # Of a weight that processes share out (ZeRO-3), the shape of the whole.
    shapes = {n: getattr(p, "ds_shape", p.shape) for n, p in model.named_parameters()}
    weights = {name: tuple(shape) for name, shape in shapes.items()}
    return Shape.of(size_of(model.config, weights), model.config)


def layer_floats(hidden: int, intermediate: int) -> int:
    """Floats per token of one block of these sizes."""
    return HIDDEN_COPIES * hidden + INTERMEDIATE_COPIES * intermediate


def frozen_layer_floats(hidden: int, intermediate: int) -> int:
    """The same of a block of frozen weights that gradients pass through."""
    return FROZEN_HIDDEN * hidden + FROZEN_INTERMEDIATE * intermediate


def rows_at_once(row_bytes: int, most: int | None = None, bound: int | None = None) -> int:
    """How many rows of so many bytes each are within `bound` (SMALL_BYTES), one at least."""
    rows = max(1, (bound or SMALL_BYTES) // max(1, row_bytes))
    return rows if most is None else min(rows, most)


def read_bytes(device: str) -> int:
    """What may pass at once where PPO's models read: more of a GPU, which starves on few rows.

    An eighth of all its memory, free or not, so that a training goes on as it began.
    """
    total = gpu_total_bytes() if device.startswith("cuda") else None
    return max(SMALL_BYTES, (total or 0) // GPU_SHARE)


def batches(
    lengths: Sequence[int], shape: Shape, *, logits: bool = False, bound: int | None = None
) -> Iterator[slice]:
    """Consecutive rows, of `lengths` in tokens, that are read without a gradient at once.

    They need `bound` bytes at most, SMALL_BYTES if None.
    """
    start = width = 0
    for row, length in enumerate(lengths):
        wider = max(width, length)
        row_bytes = shape.reading(wider, wider if logits else 0)
        if row - start >= rows_at_once(row_bytes, MOST_ROWS, bound):
            yield slice(start, row)
            start, wider = row, length
        width = wider
    if lengths:
        yield slice(start, len(lengths))


def writing_rows(shape: Shape, weights: int, prompt: int, reply: int) -> int:
    """Replies written at once: their caches take no more than a quarter of the `weights`."""
    bound = max(SMALL_BYTES, weights * FLOAT_BYTES // 4)
    return rows_at_once(shape.writing(prompt, reply), bound=bound)
