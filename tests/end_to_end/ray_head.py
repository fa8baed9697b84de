"""A Ray head of a test's own, with token authentication: started on loopback, ended by the ids of its processes."""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
from ports import free_port


def end(started):
    """Kills a program and all that it has started."""
    doomed = below(started.pid)
    for process in reversed(doomed):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(doomed, timeout=20)
    started.wait(20)


def below(pid):
    """All processes below one, itself last."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [*process.children(recursive=True), process]
    return []


class RayHead:
    """A head with its token in a file; `address` and `token` are all that a client needs.

    Args:
        num_cpus: What it offers.
        is_open: Whether it takes jobs from anybody.
    """

    def __init__(self, num_cpus=2, *, is_open=False):
        self.folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # sockets take at most 107 characters
        self.token = secrets.token_hex(16)
        (self.folder / "token").write_text(self.token)
        self.gcs_port, port = free_port(), free_port()
        self.address = f"http://127.0.0.1:{port}"
        self.started = []
        self._mode = "disabled" if is_open else "token"
        self._start(
            *("--head", f"--port={self.gcs_port}", f"--dashboard-port={port}", "--include-dashboard=true"),
            *(f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}"),
            *("--dashboard-host=127.0.0.1", f"--temp-dir={self.folder / 't'}", f"--num-cpus={num_cpus}"),
        )
        self._wait()

    def add_worker(self, num_cpus):
        """Starts another node on this machine."""
        self._start(
            *(f"--address=127.0.0.1:{self.gcs_port}", f"--num-cpus={num_cpus}"),
            # its own folder, as on another machine: in one, each node unpacks code over that of the others
            *(f"--temp-dir={self.folder / 'w'}", f"--dashboard-agent-listen-port={free_port()}"),
        )

    def pids(self):
        """The ids of all its processes."""
        return [process.pid for started in self.started for process in below(started.pid)]

    def stop(self):
        """Ends its processes, and no others."""
        for started in self.started:
            end(started)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, *arguments):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {
            "HOME": str(self.folder),
            "RAY_AUTH_MODE": self._mode,
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_enable_metrics_collection": "0",
            "OMP_NUM_THREADS": "1",
        }
        log = (self.folder / f"start{len(self.started)}.log").open("wb")
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
        with log:
            started = subprocess.Popen(
                [*command, "--node-ip-address=127.0.0.1", *arguments],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.started.append(started)

    def _wait(self):
        until = time.monotonic() + 60
        request = urllib.request.Request(
            f"{self.address}/api/jobs/", headers={"Authorization": f"Bearer {self.token}"}
        )
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=10):
                return
            if time.monotonic() > until or self.started[0].poll() is not None:
                log = (self.folder / "start0.log").read_text()
                self.stop()
                raise AssertionError(log)
            time.sleep(0.2)
