"""Whether a model that was saved is loaded with the tensors it had, all of them numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

# Values compared of each tensor: garbage and mix-ups show in all of them, and each is a page of the
# file to bring in.
SAMPLED = 64
# Buffers are computed anew when a model is loaded.
CLOSE = 1e-2


def tensors(model: Any) -> dict[str, Tensor]:
    """Parameters and buffers by name, those too that are never saved."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


@torch.no_grad()
def not_finite(model: Any, source: Any = None) -> str | None:
    """The name of a parameter with NaN or infinity among its numbers, or of a buffer with NaN.

    What `model` has of `source`, from which it was saved, is looked at there: those numbers are in
    memory, and reading the file for them once more takes as long as adding them up.
    """
    known = {} if source is None else dict(source.named_parameters())
    for name, loaded in model.named_parameters():
        if not _finite(known.get(name, loaded)):
            return str(name)
    # Masks are kept as buffers too, and are infinite by right.
    return next((str(name) for name, b in model.named_buffers() if bool(b.isnan().any())), None)


def _finite(tensor: Tensor) -> bool:
    """Whether all of a tensor's numbers are finite.

    Sums over its last axis need no copy of it; one can also overflow, hence the second look.
    """
    if tensor.dim() < 2:
        return bool(tensor.isfinite().all())
    rows = tensor.detach().flatten(0, -2)
    # A product with ones is read as fast as memory gives it, but in float16.
    product = tensor.dtype in (torch.bfloat16, torch.float32)
    sums = rows @ rows.new_ones(rows.shape[1]) if product else rows.sum(1)
    doubtful = ~sums.isfinite()
    return not bool(doubtful.any()) or bool(rows[doubtful].isfinite().all())


def lost(source: Any, loaded: Any) -> Iterator[str]:
    """Names of tensors of `loaded` that `source` has, and that are not what they were there."""
    before = tensors(source)
    for name, tensor in tensors(loaded).items():
        if name in before and not _same(before[name], tensor):
            yield name


def _same(left: Tensor, right: Tensor) -> bool:
    if left.shape != right.shape:
        return False
    step = max(1, left.numel() // SAMPLED)
    mine, other = (tensor.detach().flatten()[::step] for tensor in (left, right))
    if not mine.is_floating_point():
        return bool(torch.equal(mine, other))
    return bool(torch.allclose(mine.float(), other.float(), rtol=CLOSE, atol=0.0, equal_nan=True))
