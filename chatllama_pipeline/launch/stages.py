"""`python -m chatllama_pipeline.launch.stages SPEC.json`: the one entry point of child processes.

The same command works by hand: progress then goes to the terminal alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib
import json
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from chatllama_pipeline import errors
from chatllama_pipeline.errors import (
    ChatllamaError,
    CheckError,
    OutOfMemoryError,
    SettingsError,
    StoppedError,
    StoreError,
)
from chatllama_pipeline.launch import STAGES, TRAININGS
from chatllama_pipeline.launch.child import child_environment, cores_at_hand
from chatllama_pipeline.launch.hidden import hide_unused
from chatllama_pipeline.launch.out_of_memory import was_refused
from chatllama_pipeline.launch.source import require_same_source
from chatllama_pipeline.launch.warm import WARM
from chatllama_pipeline.machine import peak_bytes, processes_here
from chatllama_pipeline.progress import Emit, Progress, listening
from chatllama_pipeline.records import Check, Outcome, StageSpec
from chatllama_pipeline.settings import AssistantSettings

# Exit codes of what stands in `error_file` too: an error raised on purpose, memory that was refused
# (whatever asked for it), a training that saved its state after a signal.
REFUSED, OUT_OF_MEMORY, STOPPED = 2, 71, 75


def error_file(result: Path) -> Path:
    """Where a stage that refuses says why, for the result file `result`."""
    return result.with_name(result.name + ".error")


def stage_error(result: Path) -> ChatllamaError | None:
    """The error that a stage left beside `result`, of the class it was raised as."""
    path = error_file(result)
    if not path.exists():
        return None
    told = json.loads(path.read_text())["error"]
    if told["type"] == CheckError.__name__:
        return CheckError(told["message"], [Check(**check) for check in told["checks"]])
    kind: type[ChatllamaError] = getattr(errors, told["type"])
    return kind(told["message"])


def main(argv: list[str], stages: Mapping[str, str] = STAGES) -> int:
    """Run the stage that the spec file `argv[0]` names; returns the exit code.

    After `--warm` this process is a warm parent, and what goes on here are its forks.
    """
    if argv[:1] == [WARM]:
        argv = _forked(argv[1:], stages)
    if len(argv) != 1:
        print("usage: python -m chatllama_pipeline.launch.stages SPEC.json", file=sys.stderr)
        return REFUSED
    spec = StageSpec.read(Path(argv[0]))
    if not spec.threads:
        # Started elsewhere: the cores there are shared by the stage's processes on that machine.
        threads = max(1, cores_at_hand() // processes_here())
        spec = dataclasses.replace(spec, threads=threads)
    _set_environment(spec)
    result = Path(spec.result)
    with _emit() as emit:
        try:
            outcome = _run(spec, stages, emit)
        except ChatllamaError as error:
            return _refuse(result, error)
        except Exception as error:
            if _found_no_room(error):
                traceback.print_exc()
                return _refuse(result, _no_room(spec.stage, error))
            if not was_refused(error):
                raise
            traceback.print_exc()
            text = f"{spec.stage} ran out of memory: {str(error).splitlines()[0]}"
            return _refuse(result, OutOfMemoryError(text))
    if _rank() == 0:
        unfinished = _beside(result)
        peak = round(peak_bytes(spec.device) / 2**30, 3)
        told = dataclasses.replace(outcome, metrics={**outcome.metrics, "peak_gib": peak})
        told.write(unfinished)
        unfinished.replace(result)
    _leave_process_group()
    return 0


def _forked(argv: list[str], stages: Mapping[str, str]) -> list[str]:
    """Import what stages import, and fork; returns in each fork, with what it is to do.

    The libraries that the spec has no use for are hidden before: that differs from spec to spec.
    """
    from chatllama_pipeline.launch.warm import stage_to_run

    descriptor, spec_path = argv
    spec = StageSpec.read(Path(spec_path))
    _set_environment(spec)
    hide_unused(spec)
    for target in stages.values():
        importlib.import_module(target.split(":")[0])
    return stage_to_run(int(descriptor))


def _set_environment(spec: StageSpec) -> None:
    # The launcher has set these already; by hand they must stand before a stage imports torch,
    # which takes its number of threads from them.
    os.environ.update(child_environment(spec.threads))
    if spec.device == "cpu":
        # DeepSpeed looks for an accelerator at its import, and says so where it finds none.
        os.environ["DS_ACCELERATOR"] = "cpu"


def _leave_process_group() -> None:
    # torch's own threads may abort a process that exits while they still serve a group.
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _refuse(result: Path, error: ChatllamaError) -> int:
    print(f"error: {error}", file=sys.stderr)
    _write_atomically(error_file(result), _told(error))
    if isinstance(error, StoppedError):
        return STOPPED
    return OUT_OF_MEMORY if isinstance(error, OutOfMemoryError) else REFUSED


def _found_no_room(error: Exception) -> bool:
    # Libraries that write by themselves put the system's words into errors of their own.
    words = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
    return any(said in str(error) for said in words)


def _no_room(stage: str, error: Exception) -> StoreError:
    return StoreError(
        f"{stage} found no room on a disk of {socket.gethostname()}: {str(error).splitlines()[0]}. "
        "Free some and run it again: it goes on from its last state"
    )


def _run(spec: StageSpec, stages: Mapping[str, str], emit: Emit) -> Outcome:
    if spec.stage not in stages:
        raise SettingsError(f"unknown stage '{spec.stage}': use one of {', '.join(stages)}")
    require_same_source()
    hide_unused(spec)
    training = AssistantSettings.of_stage(spec).trained_as(spec.stage)
    module, function = {**TRAININGS, **stages}[training].split(":")
    run: Callable[[StageSpec, Progress], Outcome] = getattr(
        importlib.import_module(module), function
    )
    progress = Progress(spec.stage, emit)
    with listening(progress):
        return run(spec, progress)


@contextlib.contextmanager
def _emit() -> Iterator[Emit]:
    """Where progress lines go: to stdout, and to Dagster where it started us; only from rank 0."""
    if _rank() != 0:
        yield lambda line: None
        return
    import dagster_pipes

    if dagster_pipes.DAGSTER_PIPES_CONTEXT_ENV_VAR not in os.environ:
        yield _print
        return
    with dagster_pipes.open_dagster_pipes() as pipes:

        def tell(line: str) -> None:
            _print(line)
            pipes.log.info(line)

        yield tell


def _print(line: str) -> None:
    print(line, flush=True)


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _told(error: ChatllamaError) -> dict[str, Any]:
    # A stage's own subclass is told as the nearest class that the parent knows.
    known = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    checks = error.checks if isinstance(error, CheckError) else []
    listed = [dataclasses.asdict(check) for check in checks]
    return {"error": {"type": known.__name__, "message": str(error), "checks": listed}}


def _beside(path: Path) -> Path:
    # Ranks write the same file: each its own unfinished one, and the last rename wins.
    return path.with_name(f"{path.name}.unfinished-{os.getpid()}")


def _write_atomically(path: Path, content: dict[str, Any]) -> None:
    unfinished = _beside(path)
    unfinished.write_text(json.dumps(content, indent=1))
    unfinished.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
