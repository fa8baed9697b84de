"""Searches on a cluster of several nodes of this machine, started by `deploy/local_cluster.py`."""

import shutil
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from searches import HOOKS, ONE_SLOT, Search

from tune_jobs.errors import LedgerError
from tune_jobs.ledger.writer import Ledger

sys.path.insert(0, str(Path(__file__).parents[2] / "deploy"))
from local_cluster import LocalCluster

# Two trials share the GPU and the CPU of a node.
SHARING = "resources={gpus_per_trial: 0.5, cpus_per_trial: 0.5}"
# Ray would need most of a minute to give up a node that does not answer.
SOON = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
LONG = (*ONE_SLOT, SHARING, "asha={grace_epochs: 50}", "train.epochs=50")  # eight trials


@contextmanager
def cluster_of(num_workers, head_gpus=1, **more):
    """A head and workers with one logical CPU and GPU each, whose processes count epochs and what is read."""
    folder = Path(tempfile.mkdtemp(prefix="nodes", dir="/tmp"))  # sockets take at most 107 characters
    cluster = LocalCluster(folder, **more)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HOOKS))
        patch.setenv("FAULTS_EPOCHS", str(folder / "epochs"))
        patch.setenv("FAULTS_DATA", str(folder / "data"))
        (folder / "data").touch()
        try:
            cluster.start_head(cpus=head_gpus, gpus=head_gpus)
            for _ in range(num_workers):
                cluster.add_worker()
            yield cluster
        finally:
            cluster.stop()
            shutil.rmtree(folder, ignore_errors=True)  # agents may write a last line


class ClusterSearch(Search):
    """A search whose driver is here and whose workers are the cluster's."""

    def __init__(self, folder, row, cluster):
        super().__init__(folder, row, dict(cluster.environment))
        self._cluster = cluster
        self.epoch_log.write_text("")

    @property
    def epoch_log(self):
        return self._cluster.folder / "epochs"

    def nodes(self):
        """Returns the node of each report, in order."""
        return [one["node"] for one in self.reports()]

    def events(self):
        """Returns what the ledger says of the search as a whole; nothing if there is none yet."""
        with suppress(LedgerError), Ledger.open(self.folder, read_only=True) as ledger:
            return ledger.events()
        return []

    def wait_for_node(self, name, num_reports=1, timeout_s=60):
        """Waits until a node has reported so often."""
        end_s = time.monotonic() + timeout_s
        while self.nodes().count(name) < num_reports:
            assert self.driver.poll() is None, f"it ended before {name} reported\n{self.printed}"
            assert time.monotonic() < end_s, f"nothing from {name}\n{self.printed}"
            time.sleep(0.02)
