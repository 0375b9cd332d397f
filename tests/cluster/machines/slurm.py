"""A Slurm cluster of two nodes on this machine, from Debian's packages, under one folder.

apt-get install slurmctld slurmd slurm-client munge
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
NODES = ("n1", "n2")
PATIENCE_SECONDS = 300
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
AuthType=auth/munge
# A job that lost its node waits as long as what it was started by is good for.
AuthInfo=socket={folder}/munge.socket,cred_expire=8
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool_%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd_%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd_%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/linear
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1
# Times as short as they may be: a node is lost, a job ended, a limit noticed within seconds.
SlurmdTimeout=10
MessageTimeout=5
KillWait=5
CompleteWait=1
ReturnToService=2
OverTimeLimit=0
MinJobAge=300
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=2 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=2 RealMemory=4000
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
PartitionName=closed Nodes=n2 MaxTime=INFINITE State=INACTIVE
PartitionName=short Nodes=n2 MaxTime=1 State=UP
PartitionName=theirs Nodes=n2 AllowAccounts=theirs State=UP
"""


def absent() -> list[str]:
    """Which of Slurm's programs this machine lacks."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    return [name for name in COMMANDS if shutil.which(name, path=path) is None]


@dataclass
class Cluster:
    """Two slurmds and their controller, as processes of ours."""

    folder: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.folder / "slurm.conf"

    def start(self) -> None:
        """Bring it up, and wait until both nodes are idle."""
        for name in ("state", *(f"spool_{node}" for node in NODES)):
            (self.folder / name).mkdir()
        self._key.write_bytes(os.urandom(128))
        self._key.chmod(0o400)
        controller, first, second = _free_ports(3)
        self.config.write_text(
            CONFIG.format(
                host=socket.gethostname().partition(".")[0],
                user="root" if os.getuid() == 0 else os.environ["USER"],
                folder=self.folder,
                controller=controller,
                first=first,
                second=second,
            )
        )
        self._run("munged", *self._munge("munge"))
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self.wait(lambda: self.said("sinfo", "-h", "-p", "all", "-o", "%T").split() == ["idle"])

    @property
    def _key(self) -> Path:
        return self.folder / "munge.key"

    def _munge(self, name: str) -> list[str]:
        names = ("socket", "pid-file", "log-file", "seed-file")
        files = [f"--{each}={self.folder}/{name}.{each.partition('-')[0]}" for each in names]
        # A folder of the tests' own is no place for secrets, which these aren't.
        return ["--foreground", "--force", f"--key-file={self._key}", *files]

    @contextlib.contextmanager
    def clock_apart(self) -> Iterator[Path]:
        """The configuration of a machine whose clock is twenty minutes ahead."""
        munged = shutil.which("munged", path=f"{os.environ['PATH']}:/usr/sbin")
        assert munged is not None
        self._run("faketime", "-f", "+20m", munged, *self._munge("ahead"), name="ahead")
        try:
            self.wait((self.folder / "ahead.socket").exists)
            config = self.folder / "ahead.conf"
            config.write_text(self.config.read_text().replace("/munge.socket", "/ahead.socket"))
            yield config
        finally:
            # faketime waits for munged, and doesn't take it along.
            os.killpg(self.running["ahead"].pid, signal.SIGKILL)
            self.kill("ahead")

    def start_controller(self) -> None:
        self._run("slurmctld", "-D", "-f", str(self.config))

    def write_down(self, job: str) -> Path:
        """Have the controller save what it knows of a job, which it does within some seconds;
        returns a copy of what it saved."""
        asked = time.time_ns()
        self.said("scontrol", "update", f"jobid={job}", "comment=saved")
        kept = self.folder / f"jobs_with_{job}"

        def is_saved() -> bool:
            # For a moment there is none, while a new one takes its place.
            with contextlib.suppress(FileNotFoundError):
                if self._jobs.stat().st_mtime_ns > asked:
                    shutil.copy(self._jobs, kept)
                    return True
            return False

        self.wait(is_saved)
        return kept

    @property
    def _jobs(self) -> Path:
        return self.folder / "state" / "job_state"

    def forget_until(self, kept: Path) -> None:
        """Kill the controller and start it with what `kept` holds of jobs, as if it had saved no
        more."""
        self.kill("slurmctld")
        shutil.copy(kept, self._jobs)
        self.start_controller()

    def begin(self, job: str) -> None:
        """Have a job start that was to wait, once the controller is there to be told."""
        told = ["scontrol", "update", f"jobid={job}", "starttime=now"]
        environment = {**os.environ, "SLURM_CONF": str(self.config)}
        self.wait(lambda: not subprocess.run(told, env=environment, capture_output=True).returncode)

    def heal(self) -> None:
        """Take back nodes that the controller gives no work any more."""
        for node in self.said("sinfo", "-h", "-N", "-t", "drain", "-o", "%N").split():
            self.said("scontrol", "update", f"nodename={node}", "state=resume")

    def start_node(self, node: str) -> None:
        self._run("slurmd", "-D", "-N", node, "-f", str(self.config), name=node)

    def end_controller(self) -> None:
        """Stop it as an administrator does: it writes down what it knows."""
        process = self.running.pop("slurmctld")
        process.terminate()
        process.wait()

    def kill(self, name: str) -> None:
        """SIGKILL a daemon, as a machine that loses its power does."""
        process = self.running.pop(name)
        process.kill()
        process.wait()

    def lose(self, node: str, job: str, told: bool = False) -> None:
        """End a node and all that runs there of a job, as if its machine were gone.

        Nothing of it says another word: the controller finds out by itself, within some fifteen
        seconds, or is `told` by an administrator.
        """
        gone = self._steps(node, job)
        for process in gone:
            process.suspend()
        below = [child for process in gone for child in process.children(recursive=True)]
        for process in below:
            process.suspend()
        self.kill(node)
        if told:
            self.said("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")
        self.wait(lambda: self.said("sinfo", "-h", "-n", node, "-o", "%T").startswith("down"))
        for process in [*below, *gone]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def _steps(self, node: str, job: str) -> list[psutil.Process]:
        """The processes by which a node sees to a job: each has sockets in the node's folder."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if not " ".join(process.cmdline()).startswith(f"slurmstepd: [{job}."):
                    continue
                sockets = [one.laddr for one in process.net_connections(kind="unix")]
                if any(
                    str(address).startswith(f"{self.folder}/spool_{node}/") for address in sockets
                ):
                    found.append(process)
        return found

    def said(self, *command: str) -> str:
        """What one of Slurm's commands prints."""
        environment = {**os.environ, "SLURM_CONF": str(self.config)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    def wait(self, for_what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not for_what():
            assert time.monotonic() < deadline, (self.folder / "slurmctld.log").read_text()[-3000:]
            time.sleep(0.2)

    def queue(self) -> list[str]:
        """The ids of all jobs that wait or run."""
        return self.said("squeue", "-h", "-o", "%i").split()

    def stop(self) -> None:
        for process in reversed(self.running.values()):
            process.terminate()
        for process in self.running.values():
            process.wait(timeout=60)

    def _run(self, program: str, *arguments: str, name: str = "") -> None:
        found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
        assert found is not None
        name = name or program
        with (self.folder / f"{name}.out").open("ab") as output:
            self.running[name] = subprocess.Popen(
                [found, *arguments], stdout=output, stderr=output, start_new_session=True,
                env={**os.environ, "SLURM_CONF": str(self.config)},
            )  # fmt: skip


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
