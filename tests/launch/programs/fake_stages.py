"""The entry point of child processes with stages of our own: `fake_stages.py SPEC.json`."""

import atexit
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from chatllama_pipeline.errors import CheckError, DataError
from chatllama_pipeline.launch.out_of_memory import tell_choice
from chatllama_pipeline.launch.stages import main
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Check, Curve, Outcome, StageSpec


class EmptyFileError(DataError):
    pass


def ok(spec: StageSpec, progress: Progress) -> Outcome:
    return Outcome(
        rows=3,
        metrics={"loss": 0.5, "seed": spec.settings["seed"]},
        checks=[Check("finite", True, True, 1.0, 1.0, "the loss is finite")],
        curves=[Curve("loss", [(1.0, 2.0), (2.0, 0.5)])],
        warnings=["few rows"],
    )


def heard(spec: StageSpec, progress: Progress) -> Outcome:
    """Goes on once somebody heard that it began, and left a file to say so."""
    progress.say("begun")
    while not Path(spec.output, "heard").exists():
        time.sleep(0.02)
    progress.say("done")
    return Outcome()


def refuses(spec: StageSpec, progress: Progress) -> Outcome:
    raise EmptyFileError("rows.json, row 3: prompt is empty: write one")


def fails_a_check(spec: StageSpec, progress: Progress) -> Outcome:
    failed = Check("memory_plan", False, True, 9.0, 4.0, "needs 9 GiB, 4 are free")
    raise CheckError(failed.description, [failed])


def breaks(spec: StageSpec, progress: Progress) -> Outcome:
    raise ZeroDivisionError("a defect")


def leaves_one_behind(spec: StageSpec, progress: Progress) -> Outcome:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    return Outcome()


def threads(spec: StageSpec, progress: Progress) -> Outcome:
    import torch

    return Outcome(metrics={"torch_threads": torch.get_num_threads()})


def writes(spec: StageSpec, progress: Progress) -> Outcome:
    progress.say("only rank 0 speaks")
    return Outcome()


def joins(spec: StageSpec, progress: Progress) -> Outcome:
    """Ranks that form a group, as trainings do, and say at their exit whether they left it."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    # As with a training's first step: none leaves while another still joins.
    dist.barrier()
    rank = dist.get_rank()
    exits = Path(spec.run_folder) / f"in_a_group_at_exit_{rank}"
    atexit.register(lambda: exits.write_text(str(dist.is_initialized())))
    return Outcome()


def rows_at_once(spec: StageSpec) -> int:
    """Eight unless config says fewer; both sections of a training have the same key."""
    sections = [spec.settings.get(name, {}) for name in ("actor_config", "trainer_config")]
    return min(section.get("micro_batch_size") or 8 for section in sections)


def fits_two_rows(spec: StageSpec, progress: Progress) -> Outcome:
    import torch

    if rows_at_once(spec) > 2:
        torch.empty(2**62, dtype=torch.uint8)
    return Outcome(metrics={"rows": rows_at_once(spec)}, warnings=["its own"])


def killed_at_more_than_four_rows(spec: StageSpec, progress: Progress) -> Outcome:
    if spec.settings["trainer_config"].get("micro_batch_size") is None:
        tell_choice(spec, rows_at_once(spec))
    if rows_at_once(spec) > 4:
        os.kill(os.getpid(), signal.SIGKILL)
    rollouts = spec.settings["trainer_config"]["rollout_batch_size"]
    return Outcome(metrics={"rows": rows_at_once(spec), "rollouts": rollouts})


def never_fits(spec: StageSpec, progress: Progress) -> Outcome:
    raise MemoryError("no more")


TOLD_BY_NAME = (
    ok,
    heard,
    refuses,
    fails_a_check,
    breaks,
    leaves_one_behind,
    threads,
    writes,
    joins,
)
STAGES = {function.__name__: f"__main__:{function.__name__}" for function in TOLD_BY_NAME} | {
    "actor_sft": "__main__:fits_two_rows",
    "actor_ppo": "__main__:killed_at_more_than_four_rows",
    "reward_model": "__main__:never_fits",
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], STAGES))
