"""Two hosts on this machine: network namespaces with a cable between them.

Each has an address and a loopback of its own, and reaches nothing but the other.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from chatllama_pipeline.launch.jobs.node_script import Meeting, node_script, processes_line
from chatllama_pipeline.launch.jobs.scheduler import Request
from chatllama_pipeline.launch.jobs.stage import job_environment
from chatllama_pipeline.launch.shim import through_shim
from chatllama_pipeline.records import StageSpec
from tests.cluster.place import HELD

ADDRESSES = ("10.217.0.1", "10.217.0.2")
# Each namespace has all of its ports for itself.
PORT = 29_400
CABLE = "cable"


class Refused(Exception):
    """This machine lets nobody make hosts; the message says why."""


class Hosts:
    """The names of both."""

    def __init__(self) -> None:
        self.names = [f"chatllama-{os.getpid()}-{letter}" for letter in "ab"]

    def start(self) -> None:
        """Make both; raises Refused where that isn't allowed."""
        if shutil.which("ip") is None:
            raise Refused("no ip here: apt-get install iproute2")
        for name in self.names:
            _ip("netns", "add", name)
        one, other = self.names
        ends = ["netns", one, "type", "veth", "peer", "name", CABLE, "netns", other]
        _ip("link", "add", CABLE, *ends)
        for name, address in zip(self.names, ADDRESSES, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", CABLE)
            for link in ("lo", CABLE):
                _ip("-n", name, "link", "set", link, "up")

    def stop(self) -> None:
        for name in self.names:
            with contextlib.suppress(Refused):
                _ip("netns", "delete", name)

    @contextlib.contextmanager
    def training(self, spec: StageSpec, request: Request) -> Iterator[list[Part]]:
        """A held training on both, each by the script that a job has on its nodes."""
        folder = Path(spec.result).parent
        path = folder / "spec.json"
        with contextlib.ExitStack() as ended:
            parts = []
            for rank, name in enumerate(self.names):
                meeting = Meeting(str(rank), ADDRESSES[0], str(PORT))
                line = processes_line([sys.executable, str(HELD), str(path)], request, meeting)
                script = folder / f"task.{rank}.sh"
                tied = f"{shlex.join(through_shim([]))} {line}"
                script.write_text(node_script(tied, request.threads_each, path))
                command = ["ip", "netns", "exec", name, "bash", str(script)]
                log = folder / f"node.{rank}.log"
                parts.append(Part(ended.enter_context(_started(command, log)), log))
            yield parts

    def at_work(self) -> list[str]:
        """The processes that both have."""
        return [pid for name in self.names for pid in _ip("netns", "pids", name).split()]


@dataclass(frozen=True)
class Part:
    """What one of the hosts does of a training."""

    process: subprocess.Popen[bytes]
    log: Path

    def is_over(self) -> bool:
        return self.process.poll() is not None

    def stop(self) -> None:
        """Ask it to save and leave."""
        self.process.terminate()

    def lose(self) -> None:
        """End it hard, with all that it has started."""
        own = psutil.Process(self.process.pid)
        for process in [own, *own.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@contextlib.contextmanager
def _started(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    # A host's name may be anybody's: where it leads to is no place to meet.
    environment = {**job_environment(), "GLOO_SOCKET_IFNAME": CABLE}
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise Refused(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
