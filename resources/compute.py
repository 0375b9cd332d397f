"""Where the work that needs torch happens: child processes on the cores or GPUs at hand."""

import contextlib
import dataclasses
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field, PrivateAttr

from chatllama_pipeline.errors import ChildError, OutOfMemoryError, SettingsError, WarmParentError
from chatllama_pipeline.gpus import VARIABLE, Gpu, usable_gpus
from chatllama_pipeline.launch.child import ChildRun, child_environment, run_child
from chatllama_pipeline.launch.cores import fair_threads
from chatllama_pipeline.launch.forks import WarmParent, WarmStart
from chatllama_pipeline.launch.jobs.running import require_no_job
from chatllama_pipeline.launch.jobs.scheduler import Scheduler
from chatllama_pipeline.launch.leases import Lease, Rules, lease_gpus
from chatllama_pipeline.launch.out_of_memory import advice, choice_file, micro_batch, with_half
from chatllama_pipeline.launch.shared import lease_folder
from chatllama_pipeline.launch.stages import ONE_PROCESS, error_file, stage_error
from chatllama_pipeline.records import Outcome, StageSpec
from chatllama_pipeline.settings import RoleSettings
from resources.clusters.asked import Asked
from resources.clusters.kubernetes import Kubernetes
from resources.clusters.ray import Ray
from resources.clusters.slurm import Slurm

if TYPE_CHECKING:
    from chatllama_pipeline.llm.local.server import Machine

DEVICES = ("auto", "cpu", "cuda")
LAUNCHERS = ("local", "slurm", "ray", "kubernetes")


class _MessageReader(dg.PipesTempFileMessageReader):
    # Dagster marks the inherited property as preview and warns at each of its own look-ups.
    @property
    def expected_writer_count(self) -> int:
        return 1


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
    _warm: WarmStart | None = PrivateAttr(default=None)
    _stopping: threading.Event = PrivateAttr(default_factory=threading.Event)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """From here on the run may have a warm parent."""
        self._warm = WarmStart() if self.warm_parent else None
        self._stopping.clear()

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """The run's steps are over."""
        if self._warm is not None:
            self._warm.close()
            self._warm = None

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

    def _look(self) -> None:
        if self._stopping.is_set():
            raise ChildError("the stage was stopped, since the run is being ended")

    def rules(self) -> Rules:
        """Raises SettingsError where a rule on leases is out of range."""
        if not 0 <= self.gpu_least_free <= 1:
            raise SettingsError(f"compute.gpu_least_free is {self.gpu_least_free}: use 0 to 1")
        if self.gpu_wait_seconds < 0:
            raise SettingsError(
                f"compute.gpu_wait_seconds is {self.gpu_wait_seconds}: use 0 or more"
            )
        return Rules(lease_folder(self.lease_folder), self.gpu_least_free, self.gpu_wait_seconds)

    def require_valid(self) -> None:
        """Raises SettingsError where a setting is out of range, before anything is waited for."""
        for name in ("threads", "processes"):
            least = 0 if name == "threads" else 1
            if getattr(self, name) < least:
                raise SettingsError(f"compute.{name} is {getattr(self, name)}: use {least} or more")
        self.rules()

    @contextlib.contextmanager
    def threads_per_process(self, processes: int) -> Iterator[int]:
        """CPU threads for each of a stage's `processes`, at least 1, while it runs."""
        with fair_threads(self.rules().folder, self.threads) as threads:
            yield max(1, threads // processes)

    def run_stage(
        self, context: dg.AssetExecutionContext, spec: StageSpec, spec_path: Path
    ) -> tuple[Outcome, float]:
        """Run `spec` in a child process here or as a job; returns its outcome and its seconds.

        Device and threads are filled in, the spec is written to `spec_path`, and what the child
        prints goes to the `.log` beside it, while its progress streams into `context.log`.

        Out of memory, a training goes on from its last state with half the micro-batch, until it
        fits. Raises the stage's own error where it refused, ChildError where it ended badly.
        """
        self.require_valid()
        scheduler = self._scheduler(spec.stage, spec_path.parent)
        processes, device = self._place(spec.stage, scheduler)
        spec = dataclasses.replace(spec, device=device)
        warnings: list[str] = []
        while True:
            try:
                if scheduler is None:
                    outcome, seconds = self._run_here(context, spec, spec_path, processes)
                else:
                    outcome, seconds = self._run_as_job(context, spec, spec_path, scheduler)
            except OutOfMemoryError as error:
                rows, smaller = micro_batch(spec, processes), with_half(spec, processes)
                if rows is None:
                    raise
                if smaller is None:
                    raise OutOfMemoryError(f"{error}\n{advice(spec)}") from None
                context.log.warning(
                    f"{spec.stage} ran out of memory at micro_batch_size {rows}: tries again with "
                    f"{micro_batch(smaller, processes)}, from its last state"
                )
                warnings = [
                    f"ran out of memory at micro_batch_size {rows}, "
                    f"{micro_batch(smaller, processes)} fitted: set it in config.yaml"
                ]
                spec = smaller
                continue
            return dataclasses.replace(outcome, warnings=outcome.warnings + warnings), seconds

    def _place(self, stage: str, scheduler: Scheduler | None) -> tuple[int, str]:
        """How many processes a stage has in all, and their device."""
        if scheduler is not None:
            asked = scheduler.request
            return asked.nodes * asked.processes, "cuda" if asked.gpus else "cpu"
        return 1 if stage in ONE_PROCESS else self.processes, self.device_at_hand()

    def _scheduler(self, stage: str, folder: Path) -> Scheduler | None:
        """Who runs `stage`, whose files stand in `folder`; None where this machine does."""
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
            require_no_job(folder, self.launcher)
            return None
        asked: Asked = getattr(self, self.launcher)
        asked.require_possible(self.launcher, self.nodes, self.processes)
        if self.device == "cuda" and not asked.gpus:
            raise SettingsError(
                f"compute.device is 'cuda', but compute.{self.launcher}.gpus is 0: say how many "
                "each node has"
            )
        nodes, processes = (1, 1) if stage in ONE_PROCESS else (self.nodes, self.processes)
        return asked.scheduler(folder, nodes, processes, self.threads)

    def _run_as_job(
        self,
        context: dg.AssetExecutionContext,
        spec: StageSpec,
        spec_path: Path,
        scheduler: Scheduler,
    ) -> tuple[Outcome, float]:
        from chatllama_pipeline.launch.jobs.stage import run_as_job

        seconds, metrics = run_as_job(
            dataclasses.replace(spec, threads=scheduler.request.threads_each),
            spec_path,
            self.stage_command(spec_path),
            scheduler,
            stop_seconds=self.stop_seconds,
            say=context.log.info,
        )
        outcome = Outcome.read(Path(spec.result))
        return dataclasses.replace(outcome, metrics=outcome.metrics | metrics), seconds

    def _run_here(
        self, context: dg.AssetExecutionContext, spec: StageSpec, spec_path: Path, processes: int
    ) -> tuple[Outcome, float]:
        with (
            self._gpus(spec.device, processes, context, spec.stage) as gpus,
            self.threads_per_process(processes) as threads,
            dg.open_pipes_session(
                context,
                context_injector=dg.PipesTempFileContextInjector(),
                message_reader=_MessageReader(),
            ) as session,
        ):
            spec = dataclasses.replace(spec, threads=threads)
            spec.write(spec_path)
            # Empty on a CPU: what looks for a GPU by itself must not find one.
            visible = {VARIABLE: ",".join(gpus.ids)}
            steady = {**child_environment(threads), **visible}
            command = self.stage_command(spec_path)
            start = partial(
                run_child,
                command,
                env={**steady, **session.get_bootstrap_env_vars()},
                log=spec_path.with_suffix(".log"),
                processes=processes,
                poll=self._look,
                pass_fds=gpus.fds,
                stop_seconds=self.stop_seconds,
            )
            warm = None
            if self._warm is not None and processes == 1:
                warm = self._warm.parent(command[:-1], spec, spec_path, steady)
            try:
                run = self._started(context, spec, start, warm)
            except ChildError:
                refusal = stage_error(Path(spec.result))
                if refusal is None:
                    raise
                raise refusal from None
        if run.leftovers:
            context.log.warning(
                f"{spec.stage} left processes running, which were ended: {run.leftovers}"
            )
        return Outcome.read(Path(spec.result)), run.seconds

    def _started(
        self,
        context: dg.AssetExecutionContext,
        spec: StageSpec,
        start: Callable[..., ChildRun],
        warm: WarmParent | None,
    ) -> ChildRun:
        """Run the child, as a fork of `warm` if there is one; else, or where that ends, alone."""
        _forget(Path(spec.result))
        try:
            return start(warm=warm)
        except WarmParentError as error:
            context.log.warning(f"{error}; {spec.stage} starts in a process of its own")
        if self._warm is not None:
            self._warm.give_up()
        _forget(Path(spec.result))
        return start()

    def stage_command(self, spec_path: Path) -> list[str]:
        """The command that runs the stage of `spec_path`; it works by hand as well."""
        return [sys.executable, "-m", "chatllama_pipeline.launch.stages", str(spec_path)]

    @contextlib.contextmanager
    def machine(
        self, context: dg.AssetExecutionContext, *roles: RoleSettings
    ) -> "Iterator[Machine]":
        """Where the local models among `roles` run; a GPU is leased only where there is one."""
        from chatllama_pipeline.llm.local.server import Machine

        if all(role.provider != "transformers" for role in roles):
            yield Machine()
            return
        self.require_valid()
        device, asset = self.device_at_hand(), context.asset_key.to_user_string()
        with (
            self._gpus(device, 1, context, asset) as gpus,
            self.threads_per_process(1) as threads,
        ):
            yield Machine(device, threads, {VARIABLE: ",".join(gpus.ids)}, gpus.fds)

    @contextlib.contextmanager
    def _gpus(
        self, device: str, processes: int, context: dg.AssetExecutionContext, stage: str
    ) -> Iterator[Lease]:
        if device == "cpu":
            yield Lease([], [])
            return
        whose = context.partition_key if context.has_partition_key else "a shared source"
        who = f"{stage} of {whose}, run {context.run_id}"

        def there() -> Sequence[Gpu]:
            self._look()
            return usable_gpus()

        with lease_gpus(there, processes, who, context.log.info, self.rules()) as lease:
            yield lease


def _forget(result: Path) -> None:
    """Remove what an earlier try left."""
    for left_over in (result, error_file(result), choice_file(result)):
        left_over.unlink(missing_ok=True)
