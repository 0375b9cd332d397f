"""What a job asks of a Ray cluster."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.launch.jobs.scheduler import Request

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Wanted(Request):
    """What a job asks of the Ray cluster whose head is at `address`; "auto" finds it.

    `memory` is in bytes, of each node, and like `resources` what Ray counts, not what it enforces.
    A cluster that `grows` may get nodes that it lacks.
    """

    address: str = "auto"
    memory: int = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    grows: bool = False

    @property
    def of_each_node(self) -> dict[str, float]:
        """What is set aside on each node, by Ray's names."""
        amounts = {"CPU": self.threads or self.processes, "GPU": self.gpus, "memory": self.memory}
        return {name: amount for name, amount in amounts.items() if amount} | dict(self.resources)


def memory_bytes(text: str) -> int:
    """`64G` in bytes, 0 where empty; raises SettingsError for anything else."""
    if not text:
        return 0
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", text.strip().upper())
    if found is None or float(found[1]) == 0:
        raise SettingsError(f"compute.ray.memory is {text!r}: use a size such as 64G, or nothing")
    return int(float(found[1]) * _UNITS[found[2]])
