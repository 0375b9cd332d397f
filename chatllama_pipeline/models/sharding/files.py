"""Tensors in safetensors files, of which a part is read without the rest."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from chatllama_pipeline.models.memory.sizes import header

TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


class Stored(NamedTuple):
    """A tensor of floats in a file, whose first byte is number `start`."""

    path: Path
    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def read(self, first: int = 0, last: int | None = None) -> Tensor:
        """The elements `first` to `last` of the flat tensor, by default all: `[last - first]`."""
        last = math.prod(self.shape) if last is None else last
        with self.path.open("rb") as file:
            file.seek(self.start + first * self.dtype.itemsize)
            found = bytearray(file.read((last - first) * self.dtype.itemsize))
        return torch.frombuffer(found, dtype=self.dtype) if found else torch.empty(0)


def stored_in(folder: Path) -> dict[str, Stored]:
    """The tensors of floats in a folder's safetensors, by their names."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        entries, start = header(path)
        for name, entry in entries.items():
            if entry["dtype"] in TYPES:
                first = start + entry["data_offsets"][0]
                dtype = TYPES[entry["dtype"]]
                found[name] = Stored(path, first, dtype, tuple(entry["shape"]))
    return found
