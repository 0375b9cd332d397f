"""Parameters of which each process holds its part (DeepSpeed's ZeRO-3), and models of such.

Other parameters, and models that nobody shares out, go through all of this as they are. What takes
whole weights of a model in parts must be done by all processes together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

# Elements that are read at once.
AT_ONCE = 2**22


def is_shared(parameter: Any) -> bool:
    """Whether this process holds but its part of a parameter."""
    return hasattr(parameter, "ds_tensor")


def is_in_parts(model: nn.Module) -> bool:
    """Whether the processes share out any of a model's parameters."""
    return any(map(is_shared, model.parameters()))


def whole_shape(parameter: Any) -> tuple[int, ...]:
    """The shape of a parameter, wherever its parts are."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def whole_size(parameter: Any) -> int:
    """How many weights a parameter has, wherever they are."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


@torch.no_grad()
def fill(parameter: Any, read: Callable[[int, int], Tensor]) -> None:
    """Give a shared parameter the values of which `read(first, last)` gives a range, flat.

    Each process reads its own part alone, some at a time.
    """
    own = parameter.ds_tensor
    first = parameter.ds_zero_partition_rank * own.ds_numel
    last = min(first + own.ds_numel, parameter.ds_numel)
    for start in range(first, last, AT_ONCE):
        end = min(start + AT_ONCE, last)
        own[start - first : end - first].copy_(read(start, end))
    # What the last process has too many.
    own[max(0, last - first) :].zero_()
    if parameter.numel():  # those that DeepSpeed keeps whole, being small
        parameter.copy_(read(0, parameter.ds_numel).view(parameter.ds_shape))


@torch.no_grad()
def put(parameter: Any, tensor: Tensor) -> None:
    """Give a parameter, shared or not, the values of a whole tensor that every process has."""
    if is_shared(parameter):
        flat = tensor.reshape(-1)
        fill(parameter, lambda first, last: flat[first:last])
    else:
        parameter.copy_(tensor)


@contextlib.contextmanager
def whole(parameters: Iterable[Any]) -> Iterator[None]:
    """Within it every process has all of these parameters, to read alone."""
    absent = [each for each in parameters if is_shared(each) and not each.numel()]
    if not absent:
        yield
        return
    from deepspeed.runtime.zero import GatheredParameters

    with GatheredParameters(absent):
        yield


@contextlib.contextmanager
def in_turn(model: nn.Module) -> Iterator[None]:
    """Within it a model in parts runs, without gradients, each of its blocks whole while it runs.

    What stands in no block (embeddings, heads) is whole all the while. All processes must run it as
    often as each other.
    """
    if not is_in_parts(model):
        yield
        return
    blocks = list(_blocks(model))
    inside = {id(each) for block in blocks for each in block.parameters()}
    outside = [each for each in model.parameters() if id(each) not in inside]
    with torch.no_grad(), whole(outside), contextlib.ExitStack() as hooks:
        for block in blocks:
            turn = _Turn(block)
            hooks.callback(block.register_forward_pre_hook(turn.begin, prepend=True).remove)
            hooks.callback(block.register_forward_hook(turn.end, always_call=True).remove)
        yield


class _Turn:
    """A block's parameters, whole while its forward runs."""

    def __init__(self, block: nn.Module) -> None:
        self.parameters = list(block.parameters())
        self.held = contextlib.ExitStack()

    def begin(self, *_: Any) -> None:
        self.held.enter_context(whole(self.parameters))

    def end(self, *_: Any) -> None:
        self.held.close()


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules in lists, which a model runs one after the other."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _blocks(child)


@torch.no_grad()
def as_type(model: nn.Module, dtype: torch.dtype) -> None:
    """Hold a model's parameters as `dtype`, in parts or whole."""
    parameters: Iterable[Any] = model.parameters()
    for parameter in parameters:
        parameter.data = parameter.data.to(dtype)
        if is_shared(parameter):
            own = parameter.ds_tensor
            own.data = own.data.to(dtype)
