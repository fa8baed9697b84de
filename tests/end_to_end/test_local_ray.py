"""The Ray that a search starts on a machine: no dashboard, and whoever has no token is sent away."""

import os
import subprocess
import sys

import psutil
import ray

ASK = """
import sys
from ray._raylet import GcsClient
print("in:", len(GcsClient(address=sys.argv[1]).get_all_node_info(timeout=10)))
"""


def gets_in(address, **environment):
    """Whether a process that is handed the address is answered; `ray.init` would try for longer."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASK, address],
        env=keep | environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "in: 1" in done.stdout or "InvalidAuthToken" in done.stderr, done.stderr
    return done.returncode == 0


def test_nobody_gets_in_without_the_token(ray_with_four_gpus):
    address = ray.get_runtime_context().gcs_address
    assert gets_in(address, RAY_AUTH_MODE="token")
    assert not gets_in(address, RAY_AUTH_MODE="disabled")
    assert not gets_in(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)


def test_there_is_no_dashboard_and_no_job_server(ray_with_four_gpus):
    assert not ray._private.worker._global_node.address_info["webui_url"]
    names = [process.name() for process in psutil.Process().children(recursive=True)]
    assert any("raylet" in name for name in names)
    assert not any("JobHead" in name or "job" in name.lower() for name in names)
    ports = {
        connection.laddr.port
        for process in psutil.Process().children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert ports
    assert 8265 not in ports
