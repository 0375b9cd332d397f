"""Child processes that never outlive the run that started them.

A child starts in a session of its own through `shim.py`, which ties it to this process: whatever
kills this process, the kernel kills the child, and torchrun's ranks after torchrun. Where this
process lives on (an interrupt, a cancelled run, any exception) it stops the child's whole tree
itself, asking first. Two limits: what a stage starts by itself without the shim outlives a SIGKILL
of this process, and off Linux so does the child.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil

from chatllama_pipeline.errors import ChildError, OutOfMemoryError, WarmParentError
from chatllama_pipeline.launch import shim
from chatllama_pipeline.launch.allocator import allocator_environment
from chatllama_pipeline.launch.forks import Fork, WarmParent

TICK_SECONDS = 0.1
INT_GRACE_SECONDS = 3.0
TERM_GRACE_SECONDS = 2.0
KILL_GRACE_SECONDS = 5.0
LOG_TAIL_LINES = 30
LOG_TAIL_BYTES = 64 * 1024
# More threads than this gain nothing at the sizes that run on a CPU, and cost at every barrier.
MAX_THREADS = 16

CGROUP_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
# Where Linux counts the processes that it killed for want of memory, in any cgroup.
KERNEL_COUNTS = Path("/proc/vmstat")

# The pause before each harder signal; what ignores INT and TERM meets KILL.
_HARDER = (
    (signal.SIGTERM, TERM_GRACE_SECONDS),
    (signal.SIGKILL, KILL_GRACE_SECONDS),
)
_HELD_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_QUIET_AND_STEADY = {
    # Waiting OpenMP threads sleep: on busy cores the default spinning cost 10x.
    "OMP_WAIT_POLICY": "PASSIVE",
    # After a moment's spin: with none, small models lose a third of their speed on quiet cores to
    # waking up; with this one busy cores lose nothing.
    "GOMP_SPINCOUNT": "1000",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
    # The order of sets of strings must not differ from run to run.
    "PYTHONHASHSEED": "0",
    # Bytecode is kept whatever the environment asks: uv installs without, and compiling
    # transformers anew takes each child longer than importing it.
    "PYTHONDONTWRITEBYTECODE": "",
    # A crash in native code leaves its Python stack in the log.
    "PYTHONFAULTHANDLER": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TQDM_DISABLE": "1",
}
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "RAYON_NUM_THREADS",
)


@dataclass(frozen=True)
class ChildRun:
    """A child that ended well: seconds from exec to exit, and how many processes it left behind.

    Those left behind have been killed.
    """

    seconds: float
    leftovers: int


def cores_at_hand() -> int:
    """Cores this process may use: its affinity and the container's limit, at most `MAX_THREADS`."""
    if sys.platform == "linux":
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    # A container's limit in CPU time doesn't show in the affinity. cgroup v2: "QUOTA|max PERIOD".
    if CGROUP_CPU_LIMIT.exists():
        quota, period = CGROUP_CPU_LIMIT.read_text().split()
        if quota != "max":
            cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(1, min(cores, MAX_THREADS))


def child_environment(threads: int, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`base` with what must stand in a child's environment before torch is imported."""
    counts = dict.fromkeys(THREAD_VARIABLES, str(threads))
    return {**base, **_QUIET_AND_STEADY, **counts, **allocator_environment(base)}


def run_child(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    log: Path,
    append: bool = False,
    processes: int = 1,
    poll: Callable[[], None] | None = None,
    pass_fds: Sequence[int] = (),
    stop_seconds: float = INT_GRACE_SECONDS,
    warm: WarmParent | None = None,
) -> ChildRun:
    """Run `argv` to its end, or stop it and everything that came of it.

    Its stdout and stderr go to the file `log`, replaced unless `append`. With `processes` > 1
    torchrun starts that many ranks of `argv`. `poll` is called about every `TICK_SECONDS`; what it
    raises stops the child, which has `stop_seconds` to save what it must. `pass_fds` stay open in
    the child (a lease lives as long as it does). A `warm` parent forks the child, which then has no
    `pass_fds`.

    Call it in the main thread where interrupts must stop the child: Python gives signals to no
    other thread. Whichever thread calls it waits in here until the child is gone, which is what
    PR_SET_PDEATHSIG asks for: the kernel kills the child when the *thread* that created it ends.

    Raises ChildError, with the exit code or signal and the last `LOG_TAIL_LINES` lines of `log`,
    where the child ended badly; OutOfMemoryError where the kernel killed it, or may have;
    WarmParentError where `warm` ended before the child, which then ended with it.
    """
    mark = f"CHATLLAMA_CHILD_{uuid.uuid4().hex}"
    child_env = {**env, mark: "1", shim.PARENT_VARIABLE: str(os.getpid())}
    log.parent.mkdir(parents=True, exist_ok=True)
    kernel_kills = _kernel_kills()
    with held_signals() as held, log.open("ab" if append else "wb") as output:
        started = time.monotonic()
        process: Fork | _Child
        if warm is not None:
            process = warm.fork(argv, child_env, log, lambda: _look(held, poll))
        else:
            process = _Child(
                shim.through_shim(argv if processes == 1 else _torchrun(argv, processes)),
                env=child_env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=pass_fds,
            )
        try:
            returncode = _wait(process, held, poll)
        except BaseException as error:
            for survivor in _stop(process, mark, stop_seconds):
                error.add_note(f"still running after SIGKILL: {survivor}")
            raise
        seconds = time.monotonic() - started
        leftovers = _family(process, mark)
        _signal_and_wait(process, leftovers, signal.SIGKILL, KILL_GRACE_SECONDS)
    if returncode != 0:
        innocent = kernel_kills is not None and _kernel_kills() == kernel_kills
        raise _what_went_wrong(argv, returncode, log, kernel_is_innocent=innocent)
    return ChildRun(seconds, len(leftovers))


class _Child(subprocess.Popen[bytes]):
    """A process of its own."""

    def tree(self) -> set[psutil.Process]:
        """It and its descendants."""
        with contextlib.suppress(psutil.NoSuchProcess):
            child = psutil.Process(self.pid)
            return {child, *child.children(recursive=True)}
        return set()


def _torchrun(argv: Sequence[str], processes: int) -> list[str]:
    options = ["--standalone", f"--nproc-per-node={processes}", "--no-python"]
    command = [sys.executable, "-m", "torch.distributed.run", *options]
    return [*command, *shim.through_shim(argv)]


@contextlib.contextmanager
def held_signals() -> Iterator[list[int]]:
    """Collect INT and TERM, lest their handlers raise just anywhere; hand them on at the end.

    A handler that raises between the start of a child and the first line that knows it, or amid the
    stopping, would leave it running. What is ignored stays ignored.
    """
    received: list[int] = []

    def collect(number: int, frame: FrameType | None) -> None:
        received.append(number)

    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in _HELD_SIGNALS:
            # None: a handler not set from Python, which Python could not put back.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                previous[number] = signal.signal(number, collect)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])


def _wait(process: Fork | _Child, held: list[int], poll: Callable[[], None] | None) -> int:
    while True:
        try:
            return process.wait(timeout=TICK_SECONDS)
        except subprocess.TimeoutExpired:
            _look(held, poll)


def _look(held: list[int], poll: Callable[[], None] | None) -> None:
    if held:
        name = signal.Signals(held[0]).name
        raise ChildError(f"the child process was stopped: {name}") from None
    if poll is not None:
        poll()


def _family(process: Fork | _Child, mark: str) -> set[psutil.Process]:
    """The living processes that came of a child, itself included.

    Its descendants, and all that carry `mark` in their environment or are of its session: those
    whose own parent has ended are nobody's descendants any more.
    """
    family = process.tree()
    for other in psutil.process_iter():
        # Other people's processes and those just ending can't be read, and aren't the child's.
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(other.pid) == process.pid or mark in other.environ():
                family.add(other)
    return {member for member in family if _lives(member)}


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _stop(process: Fork | _Child, mark: str, stop_seconds: float) -> set[psutil.Process]:
    """End the child's tree, harder with each step; returns what even SIGKILL didn't end."""
    family: set[psutil.Process] = set()
    for number, grace in ((signal.SIGINT, stop_seconds), *_HARDER):
        # Listed before each signal: a parent that dies of it leaves its children without a link
        # to us, and torchrun's ranks, in sessions of their own, are in no group of ours.
        family |= _family(process, mark)
        family = _signal_and_wait(process, family, number, grace)
    if process.pid not in {member.pid for member in family}:
        # Its main thread is gone; it can be reaped once its other threads are, too.
        with contextlib.suppress(subprocess.TimeoutExpired, WarmParentError):
            process.wait(KILL_GRACE_SECONDS)
    return family


def _signal_and_wait(
    process: Fork | _Child,
    family: set[psutil.Process],
    number: signal.Signals,
    grace: float,
) -> set[psutil.Process]:
    """Send a signal to each of `family`, wait up to `grace` seconds; returns those still alive."""
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.send_signal(number)
    deadline = time.monotonic() + grace
    while True:
        process.poll()
        family = {member for member in family if _lives(member)}
        if not family or time.monotonic() > deadline:
            return family
        time.sleep(0.02)


def _kernel_kills() -> int | None:
    """Processes killed for want of memory since the start of the machine; None where not told."""
    with contextlib.suppress(OSError):
        for line in KERNEL_COUNTS.read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return None


def _what_went_wrong(
    argv: Sequence[str], returncode: int, log: Path, kernel_is_innocent: bool
) -> ChildError:
    printed = tail(log)
    command = " ".join(argv)
    # torchrun ends with 1 and reports a rank's signal in its closing words.
    killed = returncode == -signal.SIGKILL or "Signal 9 (SIGKILL)" in printed
    out_of_memory = killed and not kernel_is_innocent
    if out_of_memory:
        how = "was killed, most likely out of memory: lower micro_batch_size"
    elif killed:
        how = "was killed by SIGKILL, though not by the kernel for want of memory: run it again"
    elif returncode < 0:
        how = f"was ended by {signal.Signals(-returncode).name}"
    else:
        how = f"ended with exit code {returncode}"
    kind = OutOfMemoryError if out_of_memory else ChildError
    return kind(f"{command} {how}; the end of {log}:\n{printed}")


def tail(log: Path) -> str:
    """The last `LOG_TAIL_LINES` lines of a log, of its last `LOG_TAIL_BYTES`."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        text = file.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-LOG_TAIL_LINES:])
