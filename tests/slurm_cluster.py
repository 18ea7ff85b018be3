"""A SLURM cluster of one node on this machine: munged, slurmctld and slurmd, in a folder of their own."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
PATIENCE = 60.0  # seconds
ATTEMPTS = 5
# Jobs end by signals alone: containers have no control groups to give away. SLURM kills what ignores SIGTERM after
# KillWait seconds. A job that is queued again waits until its first credential is void: cred_expire seconds.
CONFIGURATION = """
ClusterName=dmlbench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=20
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=5,bf_interval=1
MpiDefault=none
ReturnToService=2
KillWait=1
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=told Nodes={host} GraceTime=60 State=UP
PartitionName=urgent Nodes={host} PriorityTier=10 PreemptMode=OFF State=UP
"""


def lacking() -> str:
    """Why a cluster cannot be started here; empty where it can."""
    paths = os.environ["PATH"] + os.pathsep + "/usr/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=paths) is None]
    if missing:
        return f"SLURM is not installed: no {', '.join(missing)} (Debian's slurmctld, slurmd, munge, slurm-client)"
    return "" if os.geteuid() == 0 else "slurmd has to run as root"


@dataclass(frozen=True)
class Cluster:
    """A running cluster: `variables` name it to SLURM's commands."""

    variables: dict[str, str]

    def ask(self, *command: str) -> str:
        """What a command of SLURM prints. A controller that is busy is asked again."""
        for attempt in range(ATTEMPTS):
            done = subprocess.run(command, env=os.environ | self.variables, capture_output=True, text=True, check=False)
            if not done.returncode:
                return done.stdout
            if attempt + 1 < ATTEMPTS:
                time.sleep(2)
        raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")

    def state(self, job: str) -> str:
        """A job's state, such as `RUNNING`."""
        return self.ask("squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", "--format=%T").strip()


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Start a cluster, and end it with all its jobs."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a socket's path is short
    processes: list[subprocess.Popen[bytes]] = []
    variables = {"SLURM_CONF": str(folder / "slurm.conf")}
    path = os.environ["PATH"] + os.pathsep + "/usr/sbin"

    def start(*command: str) -> None:
        with (folder / f"{Path(command[0]).name}.out").open("wb") as log:
            environment = os.environ | variables | {"PATH": path}
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder))

    try:
        _configure(folder)
        start(
            "munged", "--foreground", "--force", f"--key-file={folder}/munge.key", f"--socket={folder}/munge.socket",
            f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed",
        )  # fmt: skip
        _wait((folder / "munge.socket").exists, folder)
        start("slurmctld", "-D", "-c")
        start("slurmd", "-D", "-N", socket.gethostname())
        found = Cluster(variables)
        _wait(lambda: "idle" in _quietly(found), folder)
        yield found
    finally:
        if processes:
            subprocess.run(["scancel", "--user=root"], env=os.environ | variables, capture_output=True, check=False)
            time.sleep(3)
        for process in reversed(processes):
            process.terminate()
        for process in reversed(processes):
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _configure(folder: Path) -> None:
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    with socket.socket() as one, socket.socket() as other:
        for bound in (one, other):
            bound.bind(("127.0.0.1", 0))
        ports = {"controller_port": one.getsockname()[1], "node_port": other.getsockname()[1]}
    content = CONFIGURATION.format(host=socket.gethostname(), folder=folder, **ports)
    (folder / "slurm.conf").write_text(content)


def _quietly(found: Cluster) -> str:
    try:
        return found.ask("sinfo", "--noheader", "--format=%T")
    except RuntimeError:
        return ""


def _wait(ready: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > deadline:
            logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in folder.glob("*.[lo][ou][gt]"))
            raise RuntimeError(f"the cluster did not start:\n{logs}")
        time.sleep(0.2)
