"""A Slurm of a test's own on this machine: two nodes on loopback, ended by the ids of its daemons."""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from getpass import getuser
from pathlib import Path

from ports import free_port
from ray_head import end

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
_NODES = ("node1", "node2")
_SBIN = f"{os.environ['PATH']}:/usr/sbin:/sbin"


def missing():
    """The programs of Slurm and munge that are not installed here."""
    return [name for name in DAEMONS if shutil.which(name, path=_SBIN) is None]


class Slurm:
    """munged, slurmctld and two slurmd, each with one CPU, with all of their state in one folder."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))
        self.folder.chmod(0o755)
        self._daemons = []
        munge, host = self.folder / "munge", socket.gethostname()
        munge.mkdir(mode=0o755)
        (munge / "key").touch(mode=0o600)
        (munge / "key").write_bytes(secrets.token_bytes(128))
        (self.folder / "state").mkdir()
        (self.folder / "slurm.conf").write_text(
            "\n".join(
                [
                    "ClusterName=trial",
                    f"SlurmctldHost={host}(127.0.0.1)",
                    f"SlurmUser={getuser()}",
                    f"SlurmdUser={getuser()}",
                    f"SlurmctldPort={free_port()}",
                    "AuthType=auth/munge",
                    "CredType=cred/munge",
                    f"AuthInfo=socket={munge}/socket,cred_expire=10",  # a requeued job waits as long
                    f"StateSaveLocation={self.folder}/state",
                    f"SlurmctldPidFile={self.folder}/slurmctld.pid",
                    f"SlurmctldLogFile={self.folder}/slurmctld.log",
                    f"SlurmdSpoolDir={self.folder}/spool-%n",
                    f"SlurmdPidFile={self.folder}/%n.pid",
                    f"SlurmdLogFile={self.folder}/%n.log",
                    "ProctrackType=proctrack/linuxproc",
                    "TaskPlugin=task/none",
                    "MpiDefault=none",
                    "SelectType=select/cons_tres",
                    "SelectTypeParameters=CR_CPU",
                    "SchedulerParameters=sched_interval=2,batch_sched_delay=1",
                    "ReturnToService=2",
                    *(
                        f"NodeName={n} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()}"
                        for n in _NODES
                    ),
                    "PreemptType=preempt/partition_prio",
                    "PreemptMode=REQUEUE",
                    "PartitionName=all Nodes=node1,node2 Default=YES PriorityTier=1",
                    "PartitionName=urgent Nodes=node1,node2 PriorityTier=2 PreemptMode=OFF",
                    "",
                ]
            )
        )
        self._start(
            *("munged", "--foreground", "--force", f"--key-file={munge}/key", f"--socket={munge}/socket"),
            *(f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed"),
        )
        self._start("slurmctld", "-D")
        for node in _NODES:
            self._start("slurmd", "-D", "-N", node)
        self._wait(lambda: self("sinfo", "--noheader", "--format=%T %D").split() == ["idle", "2"])

    def __call__(self, *command, **environment):
        """Runs a client of Slurm and returns what it printed."""
        return subprocess.run(
            [*map(str, command)],
            env=self._environment() | environment,
            capture_output=True, text=True, timeout=60, cwd=self.folder,
        ).stdout.strip()  # fmt: skip

    def stop(self):
        """Ends its jobs and its daemons, and no others."""
        self("scancel", f"--user={getuser()}")
        until = time.monotonic() + 60
        while self("squeue", "--noheader") and time.monotonic() < until:
            time.sleep(0.5)
        for daemon in reversed(self._daemons):
            end(daemon)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _environment(self):
        unwanted = ("RAY_", "SLURM_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
        return kept | {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": _SBIN}

    def _start(self, program, *arguments):
        with (self.folder / f"{program}{len(self._daemons)}.out").open("wb") as log:
            daemon = subprocess.Popen(
                [shutil.which(program, path=_SBIN), *arguments],
                env=self._environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self._daemons.append(daemon)
        if program == "munged":
            self._wait((self.folder / "munge" / "socket").exists)

    def _wait(self, is_ready):
        until = time.monotonic() + 30
        while not is_ready():
            if time.monotonic() > until or any(daemon.poll() is not None for daemon in self._daemons):
                logs = "\n".join(file.read_text() for file in self.folder.glob("*.out"))
                self.stop()
                raise AssertionError(logs)
            time.sleep(0.2)
