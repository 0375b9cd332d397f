"""The entry point of child processes with stages of our own: `fake_stages.py SPEC.json`."""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
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


def joins(spec: StageSpec, progress: Progress) -> Outcome:
    """Ranks that form a group, as trainings do, and say at their exit whether they left it."""
    import torch.distributed as dist

    progress.say("only rank 0 speaks")
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


def describes(spec: StageSpec, progress: Progress) -> Outcome:
    """What a stage finds itself to be; what differs from process to process is left out."""
    steady = {name: value for name, value in os.environ.items() if "CHATLLAMA_" not in name}
    open_files = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")[:-1]]
    found = {
        "environment": steady,
        "tied to its parent": os.environ["CHATLLAMA_PARENT_PID"] == str(os.getpid()),
        "leads its session and group": os.getsid(0) == os.getpgid(0) == os.getpid(),
        "folder": os.getcwd(),
        "open files": sorted(name for name in open_files if not name.startswith("anon_inode")),
        "arguments": sys.argv,
        "main": sys.modules["__main__"].__file__,
        "signals": [str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM)],
        "blocked": str(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "priority": os.nice(0),
        "umask": os.umask(0o022),
        "order of sets": list({"alpha", "bravo", "charlie", "delta"}),
        "absent": sorted(name for name, module in sys.modules.items() if module is None),
    }
    forked = "--warm" in Path(f"/proc/{os.getppid()}/cmdline").read_text()
    return Outcome(metrics={"found": json.dumps(found), "forked": forked})


def kills_its_warm_parent(spec: StageSpec, progress: Progress) -> Outcome:
    if "--warm" in Path(f"/proc/{os.getppid()}/cmdline").read_text():
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
    return Outcome(rows=1)


def waits(spec: StageSpec, progress: Progress) -> Outcome:
    """At work until it is killed: deaf, as a stage amid native code is."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    (Path(spec.run_folder) / "at_work").touch()
    time.sleep(600)
    return Outcome()


def waits_with_a_copy(spec: StageSpec, progress: Progress) -> Outcome:
    """The same, with a copy in a session of its own whose parent has ended."""
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()
            waits(spec, progress)
        os._exit(0)
    os.wait()
    return waits(spec, progress)


def fits_two_rows(spec: StageSpec, progress: Progress) -> Outcome:
    if rows_at_once(spec) > 2:
        import torch

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
    joins,
)
TOLD_BY_NAME += (describes, kills_its_warm_parent, waits, waits_with_a_copy)
STAGES = {function.__name__: f"__main__:{function.__name__}" for function in TOLD_BY_NAME} | {
    "actor_sft": "__main__:fits_two_rows",
    "actor_ppo": "__main__:killed_at_more_than_four_rows",
    "reward_model": "__main__:never_fits",
}

# What a warm parent imports may be slow, or start a thread.
match os.environ.get("FAKE_IMPORTS"):
    case "slow":
        (Path(sys.argv[-1]).parent / "importing").touch()
        time.sleep(600)
    case "thread":
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], STAGES))
