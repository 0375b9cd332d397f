"""Where the work that needs torch happens: child processes on the cores or GPUs at hand."""

import contextlib
import math
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field, PrivateAttr

from chatllama_pipeline.errors import ChildError, SettingsError
from chatllama_pipeline.gpus import VARIABLE, Gpu, usable_gpus
from chatllama_pipeline.settings import RoleSettings
from resources.clusters.asked import Asked
from resources.clusters.kubernetes import Kubernetes
from resources.clusters.ray import Ray
from resources.clusters.slurm import Slurm

if TYPE_CHECKING:
    from chatllama_pipeline.launch.forks import WarmStart
    from chatllama_pipeline.launch.leases import Lease, Rules
    from chatllama_pipeline.llm.local.server import Machine
    from chatllama_pipeline.records import Outcome, StageSpec

DEVICES = ("auto", "cpu", "cuda")
LAUNCHERS = ("local", "slurm", "ray", "kubernetes")


class Compute(dg.ConfigurableResource[None]):
    """Runs stages as child processes that end with the run."""

    device: str = Field(
        default="auto", description="auto (a GPU where there is one), cpu, or cuda."
    )
    threads: int = Field(
        default=0,
        description="CPU threads for all of a stage's processes; 0 = the cores at hand, shared out "
        "among the stages that run here when it starts.",
    )
    processes: int = Field(
        default=1, description="Processes per training, started by torchrun where more than one."
    )
    stop_seconds: float = Field(
        default=30.0, description="How long a training that is stopped may take to save its state."
    )
    gpu_wait_seconds: float = Field(
        default=86400.0, description="How long a stage waits for its GPUs before it gives up."
    )
    gpu_least_free: float = Field(
        default=0.5,
        description="The share of a GPU's memory, 0 to 1, that must be free for it to be taken.",
    )
    lease_folder: str = Field(
        default="",
        description="The folder of leases, shared by all users and containers that use the same "
        "GPUs; empty: CHATLLAMA_LEASES, else one in /run/lock or the temporary folder.",
    )
    launcher: str = Field(
        default="local",
        description="local, or slurm, ray or kubernetes: each stage is a job of a cluster.",
    )
    nodes: int = Field(
        default=1, description="Nodes of a training's job, with `processes` on each of them."
    )
    slurm: Slurm = Field(default=Slurm(), description="What a job asks of Slurm.")
    ray: Ray = Field(default=Ray(), description="What a job asks of a Ray cluster.")
    kubernetes: Kubernetes = Field(
        default=Kubernetes(), description="What a job asks of a Kubernetes cluster."
    )
    warm_parent: bool = Field(
        default=True,
        description="On a CPU, fork a run's stages from one process that has torch imported.",
    )
    side_by_side: bool = Field(
        default=True,
        description="Train the reward model and the actor at once where GPUs are there for both.",
    )
    _was_found: bool = PrivateAttr(default=False)
    _warm: "WarmStart | None" = PrivateAttr(default=None)
    _stopping: threading.Event = PrivateAttr(default_factory=threading.Event)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """From here on the run may have a warm parent."""
        from chatllama_pipeline.launch.forks import WarmStart

        self._warm = WarmStart() if self.warm_parent else None
        self._stopping.clear()
        self._was_found = False

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """The run's steps are over."""
        if self._warm is not None:
            self._warm.close()
            self._warm = None

    @property
    def warm(self) -> "WarmStart | None":
        """What a run's stages are forked of; None where each has a process of its own."""
        return self._warm

    def device_at_hand(self) -> str:
        """`cpu` or `cuda`; raises SettingsError where `device` names what isn't there."""
        if self.device not in DEVICES:
            raise SettingsError(
                f"compute.device is {self.device!r}: use one of {', '.join(DEVICES)}"
            )
        if self.device == "cpu":
            return "cpu"
        if usable_gpus():
            return "cuda"
        if self.device == "cuda":
            raise SettingsError(
                "compute.device is 'cuda', but the installed torch sees no GPU: use 'auto' or "
                "'cpu', or look at the driver, CUDA_VISIBLE_DEVICES and torch's build"
            )
        return "cpu"

    def has_room_for(self, trainings: int) -> bool:
        """Whether so many trainings may run at once here, each on GPUs of its own."""
        if not self.side_by_side or self.launcher != "local" or self.device == "cpu":
            return False
        try:
            return len(usable_gpus()) >= trainings * self.processes
        except SettingsError:
            return False  # the stage says it better

    def stop_stages(self) -> None:
        """Have the run's stages end, those of other threads, too; each saves its state."""
        self._stopping.set()

    def look(self) -> None:
        """Raises ChildError once the run is being ended."""
        if self._stopping.is_set():
            raise ChildError("the stage was stopped, since the run is being ended")

    def rules(self) -> "Rules":
        """Raises SettingsError where a rule on leases is out of range."""
        from chatllama_pipeline.launch.leases import Rules
        from chatllama_pipeline.launch.shared import lease_folder

        if not 0 <= self.gpu_least_free <= 1:
            raise SettingsError(f"compute.gpu_least_free is {self.gpu_least_free}: use 0 to 1")
        if not self.gpu_wait_seconds >= 0:
            raise SettingsError(
                f"compute.gpu_wait_seconds is {self.gpu_wait_seconds}: use 0 or more"
            )
        return Rules(lease_folder(self.lease_folder), self.gpu_least_free, self.gpu_wait_seconds)

    def require_valid(self) -> None:
        """Raises SettingsError where a setting is out of range, before anything is waited for."""
        for name, least in (("threads", 0), ("processes", 1), ("stop_seconds", 0)):
            if not least <= getattr(self, name) < math.inf:
                raise SettingsError(
                    f"compute.{name} is {getattr(self, name):g}: use {least} or more"
                )
        self.rules()
        self.asked()

    def asked(self) -> "Asked | None":
        """What is asked of the cluster that runs stages; None where this machine runs them.

        Raises SettingsError for what no cluster could give.
        """
        if self.launcher not in LAUNCHERS:
            raise SettingsError(
                f"compute.launcher is {self.launcher!r}: use one of {', '.join(LAUNCHERS)}"
            )
        if self.launcher == "local":
            if self.nodes != 1:
                raise SettingsError(
                    f"compute.nodes is {self.nodes}, and compute.launcher 'local', which has one "
                    "node: use launcher 'slurm', 'ray' or 'kubernetes', or nodes 1"
                )
            return None
        asked: Asked = getattr(self, self.launcher)
        if self.device == "cuda" and not asked.gpus:
            raise SettingsError(
                f"compute.device is 'cuda', but compute.{self.launcher}.gpus is 0: say how many "
                "each node has"
            )
        asked.request(self.nodes, self.processes, self.threads)
        return asked

    def require_cluster(self, folder: Path, *, alone: bool = False) -> None:
        """Raises SettingsError where the cluster would take no job of run folder `folder`.

        Once a run, before anything is built: what comes before a stage may take hours. `alone`: no
        job has more than one process.
        """
        asked = None if self._was_found else self.asked()
        self._was_found = True
        if asked is not None:
            nodes, processes = (1, 1) if alone else (self.nodes, self.processes)
            scheduler = asked.scheduler(folder, nodes, processes, self.threads)
            with contextlib.closing(scheduler):
                scheduler.require_taken()

    @contextlib.contextmanager
    def threads_per_process(self, processes: int) -> Iterator[int]:
        """CPU threads for each of a stage's `processes`, at least 1, while it runs."""
        from chatllama_pipeline.launch.cores import fair_threads

        with fair_threads(self.rules().folder, self.threads) as threads:
            yield max(1, threads // processes)

    def run_stage(
        self, context: dg.AssetExecutionContext, spec: "StageSpec", spec_path: Path
    ) -> "tuple[Outcome, float]":
        """Run `spec` in a child process here or as a job; returns its outcome and its seconds.

        Device and threads are filled in, the spec is written to `spec_path`, and what the child
        prints goes to the `.log` beside it, while its progress streams into `context.log`.

        Out of memory, a training goes on from its last state with half the micro-batch, until it
        fits. Raises the stage's own error where it refused, ChildError where it ended badly.
        """
        from resources.running import run_stage

        return run_stage(self, context, spec, spec_path)

    @contextlib.contextmanager
    def nodes_for_rows(self, log: Path) -> Iterator[None]:
        """Rows of data that are many are worked on by the nodes of the Ray cluster, where stages
        are its jobs, in this block; what Ray says of it goes to `log`."""
        if self.launcher != "ray":
            yield
            return
        from chatllama_pipeline.data.workers.batches import working_elsewhere
        from chatllama_pipeline.data.workers.cluster import RayWorkers

        with working_elsewhere(partial(RayWorkers, self.ray.address, log)):
            yield

    def stage_command(self, spec_path: Path) -> list[str]:
        """The command that runs the stage of `spec_path`; it works by hand as well."""
        return [sys.executable, "-m", "chatllama_pipeline.launch.stages", str(spec_path)]

    @contextlib.contextmanager
    def machine(
        self, context: dg.AssetExecutionContext, *roles: RoleSettings
    ) -> "Iterator[Machine]":
        """Where the local models among `roles` run: as jobs of the cluster, or here.

        Here a GPU is leased only where there is one.
        """
        from chatllama_pipeline.llm.local.server import Machine

        if all(role.provider != "transformers" for role in roles):
            yield Machine()
            return
        self.require_valid()
        if asked := self.asked():
            from resources.running import elsewhere

            yield Machine("cuda" if asked.gpus else "cpu", elsewhere=elsewhere(self, context))
            return
        device, asset = self.device_at_hand(), context.asset_key.to_user_string()
        with (
            self.gpus(device, 1, context, asset) as gpus,
            self.threads_per_process(1) as threads,
        ):
            yield Machine(device, threads, {VARIABLE: ",".join(gpus.ids)}, gpus.fds)

    @contextlib.contextmanager
    def gpus(
        self, device: str, processes: int, context: dg.AssetExecutionContext, stage: str
    ) -> "Iterator[Lease]":
        """The GPUs of a `stage` of so many `processes`, leased while it runs; none on a CPU."""
        from chatllama_pipeline.launch.leases import Lease, lease_gpus

        if device == "cpu":
            yield Lease([], [])
            return
        whose = context.partition_key if context.has_partition_key else "a shared source"
        who = f"{stage} of {whose}, run {context.run_id}"

        def there() -> Sequence[Gpu]:
            self.look()
            return usable_gpus()

        with lease_gpus(there, processes, who, context.log.info, self.rules()) as lease:
            yield lease
