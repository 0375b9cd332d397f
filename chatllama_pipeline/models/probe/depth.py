"""A large model cut to its first layers: what a probe finds of those, it would find of all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

# A cut that saves less is not worth its doubt.
LEAST_SAVED = 2
# Attributes that only number a layer.
NUMBERING = ("idx", "index", "_id", "number")


@contextmanager
def first_layers(model: Any) -> Iterator[bool]:
    """`model` with as few layers as have one of each kind; whether anything was cut."""
    cut: list[tuple[nn.Module, str, nn.ModuleList]] = []
    for parent, name, layers in _stacks(model):
        kept = _needed(layers, getattr(model.config.get_text_config(), "layer_types", None))
        if len(layers) >= LEAST_SAVED * kept:
            cut.append((parent, name, layers))
            setattr(parent, name, layers[:kept])
    try:
        yield bool(cut)
    finally:
        for parent, name, layers in cut:
            setattr(parent, name, layers)


def _stacks(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.ModuleList]]:
    """The outermost lists of layers, and where each hangs."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            yield module, name, child
        else:
            yield from _stacks(child)


def _needed(layers: nn.ModuleList, types: list[str] | None) -> int:
    """How many of the first layers hold one of each kind, two at least."""
    named = types if types is not None and len(types) == len(layers) else [""] * len(layers)
    seen: set[Any] = set()
    needed = 2
    for number, layer in enumerate(layers):
        kind = (named[number], _kind(layer))
        if kind not in seen:
            seen.add(kind)
            needed = max(needed, number + 1)
    return needed


def _kind(layer: nn.Module) -> Any:
    """What tells layers apart: the modules within, and the switches that these hold."""
    return tuple(
        (name, type(module), tuple(sorted(_switches(module))))
        for name, module in layer.named_modules()
    )


def _switches(module: nn.Module) -> Iterator[tuple[str, str]]:
    for name, value in vars(module).items():
        if isinstance(value, bool | int | float | str) and not name.endswith(NUMBERING):
            yield name, repr(value)
