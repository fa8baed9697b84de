"""Starts a Ray cluster of several nodes on this machine, to try what needs more than one.

    python deploy/local_cluster.py start --folder /tmp/three --workers 2 --cpus 1 --gpus 1
    python deploy/local_cluster.py kill --folder /tmp/three node1
    python deploy/local_cluster.py add --folder /tmp/three

`start` runs until SIGINT or SIGTERM and then ends only its own processes. The job server listens on loopback. Ray's
other ports do not (it replaces 127.0.0.1 by the machine's address), but all require the token in the folder. GPUs are
logical: use any number, whatever the machine has. Every node has its own home, and so its own copy of decoded data, as
separate machines do.
"""

import argparse
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import psutil

HEAD = "head"
LOOPBACK = "127.0.0.1"
_READY_WITHIN_S = 90.0
_OBJECT_STORE_BYTES = 100_000_000
_NO_METRICS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_enable_metrics_collection": "0"}


class LocalCluster:
    """A cluster whose state is kept in a folder, so that several processes can control it.

    `cluster.json` holds its addresses, `token` its token, `nodes/NAME.json` the process id of each node's `ray start`,
    and `NAME.log` the output of that process.

    Args:
        folder: The folder; its path must be short, as paths of sockets are limited to 107 characters.
        host: The address of the head, and by default of the workers.
    """

    def __init__(self, folder: str | Path, host: str = LOOPBACK) -> None:
        self.folder = Path(folder).absolute()
        self._host = host
        self.token_file = self.folder / "token"
        self._started: dict[str, subprocess.Popen[bytes]] = {}  # by this process

    @property
    def address(self) -> str:
        """The value of `RAY_ADDRESS` for a driver on this machine."""
        return str(self._addresses()["address"])

    @property
    def dashboard(self) -> str:
        """The address of the job server, for `tune-jobs submit --address`."""
        return str(self._addresses()["dashboard"])

    @property
    def environment(self) -> dict[str, str]:
        """The variables to add to a driver's or client's environment."""
        return {
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
        }

    def start_head(self, cpus: float = 1, gpus: float = 1) -> None:
        """Starts the first node and waits until its job server answers."""
        (self.folder / "nodes").mkdir(parents=True)
        self.token_file.touch(mode=0o600, exist_ok=False)  # else somebody else's might be filled
        self.token_file.write_text(secrets.token_hex(32))
        port, dashboard_port = _free_port(), _free_port()
        addresses = {
            "address": f"{self._host}:{port}",
            "dashboard": f"http://{LOOPBACK}:{dashboard_port}",
            "host": self._host,
        }
        (self.folder / "cluster.json").write_text(json.dumps(addresses))
        self._start(
            HEAD,
            [
                *("--head", f"--port={port}"),
                *(f"--dashboard-host={LOOPBACK}", f"--dashboard-port={dashboard_port}"),
                f"--ray-client-server-port={_free_port()}",
            ],
            cpus, gpus, self._host, (),
        )  # fmt: skip

    def add_worker(
        self,
        name: str | None = None,
        cpus: float = 1,
        gpus: float = 1,
        *,
        host: str | None = None,
        prefix: Sequence[str] = (),
    ) -> str:
        """Starts another node and waits until it has joined the cluster.

        Args:
            name: The node's name, as in the column `node` of results; by default the first free `node1`, `node2`, ...
            cpus: CPUs it offers.
            gpus: GPUs it offers.
            host: Its own address.
            prefix: A command to run the node with, such as `ip netns exec NAME`.

        Returns:
            The node's name.
        """
        taken = self.pids()
        name = name or next(f"node{i}" for i in range(1, len(taken) + 2) if f"node{i}" not in taken)
        host = host or str(self._addresses()["host"])
        self._start(name, [f"--address={self.address}"], cpus, gpus, host, prefix)
        return name

    def pids(self) -> dict[str, int]:
        """Returns the process id of each running node's `ray start`, by the node's name."""
        files = sorted((self.folder / "nodes").glob("*.json"))
        return {file.stem: json.loads(file.read_text())["pid"] for file in files}

    def processes(self, name: str) -> list[psutil.Process]:
        """Returns a node's processes, `ray start` first; empty if it has ended."""
        record = json.loads((self.folder / "nodes" / f"{name}.json").read_text())
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(record["pid"])
            if top.create_time() == record["created_s"]:  # otherwise another process has got the same id
                return [top, *top.children(recursive=True)]
        return []

    def kill(self, name: str) -> None:
        """Ends a node as a power cut would, with SIGKILL to all of its processes."""
        doomed = self.processes(name)
        for process in doomed:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(doomed, timeout=20)
        if name in self._started:
            self._started.pop(name).wait(20)
        (self.folder / "nodes" / f"{name}.json").unlink()

    def stop(self) -> None:
        """Ends all nodes, the head last."""
        for name in sorted(self.pids(), key=lambda name: name == HEAD):
            self.kill(name)

    def _addresses(self) -> dict[str, str]:
        addresses: dict[str, str] = json.loads((self.folder / "cluster.json").read_text())
        return addresses

    def _start(
        self, name: str, arguments: list[str], cpus: float, gpus: float, host: str, prefix: Sequence[str]
    ) -> None:
        home = self.folder / "homes" / name
        home.mkdir(parents=True, exist_ok=True)
        unwanted = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "XDG_CACHE_HOME", "ZSHARP_CACHE")
        variables = {key: value for key, value in os.environ.items() if key not in unwanted}
        variables |= {**_NO_METRICS, **self.environment, "HOME": str(home)}
        del variables["RAY_ADDRESS"]
        variables.setdefault("OMP_NUM_THREADS", "1")
        command = [
            *(*prefix, str(Path(sys.executable).with_name("ray")), "start", "--block"),
            *("--disable-usage-stats", f"--node-name={name}", f"--node-ip-address={host}"),
            *(f"--num-cpus={cpus:g}", f"--num-gpus={gpus:g}", f"--object-store-memory={_OBJECT_STORE_BYTES}"),
            *("--min-worker-port=0", "--max-worker-port=0"),  # any free one: nodes share the machine's ports
            f"--dashboard-agent-listen-port={_free_port()}",
            f"--temp-dir={self.folder / 't' / name}",  # shared, each node would replace the others' code of a job
            *arguments,
        ]
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            node = subprocess.Popen(
                command, env=variables, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,  # Ctrl-C reaches only this script, which ends its nodes itself
            )  # fmt: skip
        self._started[name] = node
        record = {"pid": node.pid, "created_s": psutil.Process(node.pid).create_time()}
        (self.folder / "nodes" / f"{name}.json").write_text(json.dumps(record))
        until_s = time.monotonic() + _READY_WITHIN_S
        while name not in self.alive():
            if node.poll() is not None or time.monotonic() > until_s:
                self.kill(name)
                raise RuntimeError(f"{name} did not start:\n{log.read_text()}")
            time.sleep(0.2)

    def alive(self) -> list[str]:
        """Returns the names of the nodes that the cluster considers alive."""
        request = urllib.request.Request(
            f"{self.dashboard}/api/v0/nodes",
            headers={"Authorization": f"Bearer {self.token_file.read_text()}"},
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the token is for this machine
        try:
            with direct.open(request, timeout=10) as answer:
                nodes = json.load(answer)["data"]["result"]["result"]
        except OSError:  # not up yet
            return []
        return [node["node_name"] for node in nodes if node["state"] == "ALIVE"]


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        port: int = taken.getsockname()[1]
        return port


def _serve(cluster: LocalCluster, num_workers: int, cpus: float, gpus: float) -> None:
    """Runs a cluster and prints its addresses, until SIGINT or SIGTERM."""
    stop_signals = {signal.SIGINT, signal.SIGTERM}
    for stop_signal in stop_signals:  # SIGINT too, which shells ignore for background processes
        signal.signal(stop_signal, signal.default_int_handler)
    try:
        cluster.start_head(cpus, gpus)
        for _ in range(num_workers):
            cluster.add_worker(cpus=cpus, gpus=gpus)
        print(f"job server   {cluster.dashboard}")
        for name, value in cluster.environment.items():
            print(f"export {name}={value}")
        for name, pid in cluster.pids().items():
            print(f"{name}  pid {pid}")
        print("Ctrl-C ends it", flush=True)
        signal.sigwait(stop_signals)
    except KeyboardInterrupt:
        pass
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals)  # a second signal must not leave nodes behind
        cluster.stop()


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    start = verbs.add_parser("start", help="start a cluster and run until SIGINT or SIGTERM")
    start.add_argument("--workers", type=int, default=2, help="number of nodes besides the head")
    add = verbs.add_parser("add", help="start another node")
    for verb in (start, add):
        verb.add_argument("--cpus", type=int, default=1, help="logical CPUs of each node")
        verb.add_argument("--gpus", type=int, default=0, help="logical GPUs of each node")
    kill = verbs.add_parser("kill", help="kill -9 all processes of a node")
    kill.add_argument("name", help="head, node1, node2, ...")
    for verb in (start, add, kill):
        verb.add_argument(
            "--folder",
            required=True,
            help="folder for the cluster's state; for start a new one with a short path",
        )
    options = parser.parse_args()
    cluster = LocalCluster(options.folder)
    if options.verb == "start":
        _serve(cluster, options.workers, options.cpus, options.gpus)
    elif options.verb == "add":
        name = cluster.add_worker(cpus=options.cpus, gpus=options.gpus)
        print(f"{name}  pid {cluster.pids()[name]}")
    else:
        cluster.kill(options.name)


if __name__ == "__main__":
    main()
