"""What a job asks of a Kubernetes cluster."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chatllama_pipeline.launch.jobs.scheduler import Request

_UNITS = {
    **{"m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15},
    **{"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50},
}


@dataclass(frozen=True)
class Wanted(Request):
    """What a job asks of the cluster of kubeconfig's `context`; "": its own, or the current one.

    `claim` is mounted at `mount_path` in each pod. `memory` is in Kubernetes' notation, of each
    pod. `variables` are names of this process' environment that the stage gets, `secrets` those of
    Secrets whose keys become variables. `labels` are the job's and its pods'; `pod` and `container`
    are further fields of theirs. `time_limit_seconds`: 0 is none.
    """

    context: str = ""
    namespace: str = ""
    image: str = ""
    claim: str = ""
    mount_path: str = ""
    memory: str = ""
    gpu_resource: str = "nvidia.com/gpu"
    time_limit_seconds: float = 0.0
    service: str = "chatllama"
    service_account: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    variables: Sequence[str] = ()
    secrets: Sequence[str] = ()
    pod: Mapping[str, Any] = field(default_factory=dict)
    container: Mapping[str, Any] = field(default_factory=dict)

    @property
    def of_each_node(self) -> dict[str, str]:
        """What each pod is given, by Kubernetes' names; nothing of what isn't asked for."""
        amounts = {
            "cpu": str(self.threads) if self.threads else "",
            "memory": self.memory,
            self.gpu_resource: str(self.gpus) if self.gpus else "",
        }
        return {name: amount for name, amount in amounts.items() if amount}


def quantity(text: str) -> float | None:
    """`64Gi` or `500m` as a number; None for what is no quantity of Kubernetes'."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]*)", text)
    if found is None or found[2] not in _UNITS:
        return None
    return float(found[1]) * _UNITS[found[2]]
