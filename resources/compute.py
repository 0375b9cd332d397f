"""Where the work that needs torch happens: child processes on the cores or GPUs at hand."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
from pydantic import Field

from chatllama_pipeline.errors import ChildError, SettingsError
from chatllama_pipeline.launch import child_environment, cores_at_hand, run_child
from chatllama_pipeline.llm.local import Machine
from chatllama_pipeline.records import Outcome, StageSpec
from chatllama_pipeline.settings import RoleSettings
from chatllama_pipeline.stages import error_file, stage_error
from resources.gpus import Lease, lease_gpus, visible_gpus

DEVICES = ("auto", "cpu", "cuda")


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
        default=0, description="CPU threads for all of a stage's processes; 0 = the cores at hand."
    )
    processes: int = Field(
        default=1, description="Processes per stage, started by torchrun where more than one."
    )

    def device_at_hand(self) -> str:
        """`cpu` or `cuda`; raises SettingsError where `device` names what isn't there."""
        if self.device not in DEVICES:
            raise SettingsError(
                f"compute.device is {self.device!r}: use one of {', '.join(DEVICES)}"
            )
        if self.device == "cpu":
            return "cpu"
        if visible_gpus():
            return "cuda"
        if self.device == "cuda":
            raise SettingsError(
                "compute.device is 'cuda', but the installed torch sees no GPU: use 'auto' or "
                "'cpu', or look at the driver, CUDA_VISIBLE_DEVICES and torch's build"
            )
        return "cpu"

    def threads_per_process(self) -> int:
        """CPU threads for each process of a stage, at least 1."""
        for name in ("threads", "processes"):
            least = 0 if name == "threads" else 1
            if getattr(self, name) < least:
                raise SettingsError(f"compute.{name} is {getattr(self, name)}: use {least} or more")
        return max(1, (self.threads or cores_at_hand()) // self.processes)

    def run_stage(
        self, context: dg.AssetExecutionContext, spec: StageSpec, spec_path: Path
    ) -> tuple[Outcome, float]:
        """Run `spec` in a child process; returns its outcome and the child's seconds.

        Device and threads are filled in, the spec is written to `spec_path`, and what the child
        prints goes to the `.log` beside it, while its progress streams into `context.log`.

        Raises the stage's own error where it refused, ChildError where it ended badly.
        """
        spec = dataclasses.replace(
            spec, device=self.device_at_hand(), threads=self.threads_per_process()
        )
        spec.write(spec_path)
        result = Path(spec.result)
        for left_over in (result, error_file(result)):
            left_over.unlink(missing_ok=True)
        with (
            self._gpus(spec.device, context.log.info) as gpus,
            dg.open_pipes_session(
                context,
                context_injector=dg.PipesTempFileContextInjector(),
                message_reader=_MessageReader(),
            ) as session,
        ):
            env = {
                **child_environment(spec.threads),
                **session.get_bootstrap_env_vars(),
                # Empty on a CPU: what looks for a GPU by itself must not find one.
                "CUDA_VISIBLE_DEVICES": ",".join(gpus.ids),
            }
            try:
                run = run_child(
                    self.stage_command(spec_path),
                    env=env,
                    log=spec_path.with_suffix(".log"),
                    processes=self.processes,
                    pass_fds=gpus.fds,
                )
            except ChildError:
                refusal = stage_error(result)
                if refusal is None:
                    raise
                raise refusal from None
        if run.leftovers:
            context.log.warning(
                f"{spec.stage} left processes running, which were ended: {run.leftovers}"
            )
        return Outcome.read(result), run.seconds

    def stage_command(self, spec_path: Path) -> list[str]:
        """The command that runs the stage of `spec_path`; it works by hand as well."""
        return [sys.executable, "-m", "chatllama_pipeline.stages", str(spec_path)]

    @contextlib.contextmanager
    def machine(self, context: dg.AssetExecutionContext, *roles: RoleSettings) -> Iterator[Machine]:
        """Where the local models among `roles` run; a GPU is leased only where there is one."""
        if all(role.provider != "transformers" for role in roles):
            yield Machine()
            return
        device, threads = self.device_at_hand(), self.threads_per_process()
        if device == "cpu":
            yield Machine(device, threads, {"CUDA_VISIBLE_DEVICES": ""})
            return
        with lease_gpus(visible_gpus(), 1, context.log.info) as lease:
            yield Machine(device, threads, {"CUDA_VISIBLE_DEVICES": lease.ids[0]}, lease.fds)

    @contextlib.contextmanager
    def _gpus(self, device: str, say: Callable[[str], None]) -> Iterator[Lease]:
        if device == "cpu":
            yield Lease([], [])
            return
        with lease_gpus(visible_gpus(), self.processes, say) as lease:
            yield lease
