"""What a run's config asks of a Kubernetes cluster."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from chatllama_pipeline.errors import SettingsError
from resources.clusters.asked import Asked

if TYPE_CHECKING:
    from chatllama_pipeline.launch.jobs.scheduler import Scheduler
    from chatllama_pipeline.launch.kubernetes.wanted import Wanted

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_IMAGE = re.compile(
    r"([A-Za-z0-9.-]+(:\d+)?/)?"  # a registry
    r"[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
    r"(:\w[\w.-]{0,127})?(@sha256:[0-9a-f]{64})?"
)


class Kubernetes(Asked):
    """What a job asks of Kubernetes; empty: the cluster's default."""

    context: str = Field(
        default="",
        description="Of kubeconfig; empty: the service account of the pod that Dagster runs in, "
        "else the current context.",
    )
    namespace: str = Field(default="", description="Empty: the context's, or Dagster's own.")
    image: str = Field(default="", description="With the project at the path it has here.")
    claim: str = Field(
        default="", description="The PersistentVolumeClaim on which the store stands."
    )
    mount_path: str = Field(
        default="", description="Where it is mounted, here as in the pods: /srv/chatllama/data."
    )
    memory: str = Field(default="", description="Of each node, requested and its limit, as 64Gi.")
    gpu_resource: str = Field(
        default="nvidia.com/gpu", description="By what name the nodes offer GPUs."
    )
    time_limit_minutes: float = Field(
        default=0.0,
        description="Once it has its nodes; 0: none. A training that reaches it saves its state "
        "and asks for another job.",
    )
    retries: int = Field(
        default=10, description="How often a job that lost a node goes on on others."
    )
    service: str = Field(
        default="chatllama", description="The headless service by which several nodes meet."
    )
    service_account: str = Field(default="", description="Of the pods.")
    node_selector: dict[str, str] = Field(default={}, description="{accelerator: a100}.")
    tolerations: list[dict[str, Any]] = Field(
        default=[], description='[{"key": "gpu", "operator": "Exists"}].'
    )
    labels: dict[str, str] = Field(
        default={}, description="Of the job and its pods: {kueue.x-k8s.io/queue-name: ours}."
    )
    variables: list[str] = Field(
        default=[],
        description='Of Dagster\'s environment, handed on for all to read: ["HF_HOME"].',
    )
    secrets: list[str] = Field(
        default=[], description="Secrets whose keys become variables of the stage."
    )
    pod: dict[str, Any] = Field(
        default={}, description="More fields of the pods: {priorityClassName: low}."
    )
    container: dict[str, Any] = Field(
        default={}, description="More fields of their container: {imagePullPolicy: Always}."
    )

    def request(self, nodes: int, processes: int, threads: int) -> "Wanted":
        from chatllama_pipeline.launch.kubernetes.manifest import job_manifest
        from chatllama_pipeline.launch.kubernetes.wanted import Wanted

        self._require_sizes(nodes, processes)
        self._require_names(nodes)
        self._require_volume()
        wanted = Wanted(
            nodes=nodes,
            processes=processes,
            threads=threads,
            gpus=self.gpus,
            queue_seconds=self.queue_minutes * 60,
            retries=self.retries,
            context=self.context,
            namespace=self.namespace,
            image=self.image,
            claim=self.claim,
            mount_path=self.mount_path,
            memory=self.memory,
            gpu_resource=self.gpu_resource,
            time_limit_seconds=self.time_limit_minutes * 60,
            service=self.service,
            service_account=self.service_account,
            node_selector=self.node_selector,
            tolerations=self.tolerations,
            labels=self.labels,
            variables=self.variables,
            secrets=self.secrets,
            pod=self.pod,
            container=self.container,
        )
        job_manifest(wanted, "tried", Path("task.sh"), {}, 0.0)  # refuses what can't be set there
        return wanted

    def _require_sizes(self, nodes: int, processes: int) -> None:
        from chatllama_pipeline.launch.kubernetes.wanted import quantity

        self.require_possible("kubernetes", nodes, processes)
        for name in ("time_limit_minutes", "retries"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingsError(
                    f"compute.kubernetes.{name} is {getattr(self, name):g}: use 0 or more"
                )
        if self.memory and not quantity(self.memory):
            raise SettingsError(
                f"compute.kubernetes.memory is {self.memory!r}: use a size such as 64Gi, or nothing"
            )

    def _require_names(self, nodes: int) -> None:
        single = ["namespace", "claim", "service_account", "service"]
        named = [(key, getattr(self, key)) for key in single]
        named += [("secrets", secret) for secret in self.secrets]
        for key, name in named:
            needed = key == "secrets" or (key == "service" and nodes > 1)
            if (name or needed) and not _NAME.fullmatch(name):
                raise SettingsError(
                    f"compute.kubernetes.{key} is {name!r}, which is nothing's name in "
                    "Kubernetes: use small letters, digits and - between them"
                )

    def _require_volume(self) -> None:
        if not _IMAGE.fullmatch(self.image):
            told = f"is {self.image!r}, which is no image's name" if self.image else "is empty"
            raise SettingsError(
                f"compute.kubernetes.image {told}: name the image that was built by "
                "deploy/Dockerfile, as registry.example.org/chatllama:1"
            )
        if self.claim and not Path(self.mount_path).is_absolute():
            raise SettingsError(
                f"compute.kubernetes.mount_path is {self.mount_path!r}: say at which path "
                f"claim {self.claim!r} is mounted, here as in the pods"
            )
        if not self.claim and not self.pod.get("volumes"):
            raise SettingsError(
                "compute.kubernetes.claim is empty: name the PersistentVolumeClaim on which the "
                "store stands, or a volume of its own (pod.volumes, container.volumeMounts)"
            )

    def scheduler(self, folder: Path, nodes: int, processes: int, threads: int) -> "Scheduler":
        from chatllama_pipeline.launch.jobs.stage import job_environment
        from chatllama_pipeline.launch.kubernetes.scheduler import Kubernetes as Scheduling

        return Scheduling(self.request(nodes, processes, threads), folder, job_environment())
