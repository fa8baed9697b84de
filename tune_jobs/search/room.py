"""Limits how many trials run at once, and raises the limit when the cluster grows."""

import time
from typing import Any

from ray.tune.search import ConcurrencyLimiter, Searcher

from tune_jobs.cluster.ray import cluster_totals
from tune_jobs.cluster.slots import Slots, plan_slots
from tune_jobs.errors import JobError
from tune_jobs.job.spec import ResourcesModel
from tune_jobs.ledger.writer import Ledger

_LOOK_EVERY_S = 2.0


class Room(ConcurrencyLimiter):
    """Limits a search to the slots that were planned, and raises them when nodes join.

    It never lowers them: trials that find no room wait in Ray, and that demand makes an autoscaler replace a lost node.
    """

    def __init__(self, searcher: Searcher, resources: ResourcesModel, slots: Slots, ledger: Ledger) -> None:
        super().__init__(searcher, max_concurrent=slots.num_slots)
        self._resources = resources.model_copy(update={"gpus_per_trial": slots.gpus_per_trial})
        self._ledger = ledger
        self._looked_s = time.monotonic()

    def grow(self) -> None:
        """Lets more trials run if there is room for more than before; checks only every few seconds."""
        now = time.monotonic()
        if now - self._looked_s < _LOOK_EVERY_S:
            return
        self._looked_s = now
        totals = cluster_totals()
        try:
            slots = plan_slots(self._resources, totals.cpus, totals.gpus, totals.nodes).num_slots
        except JobError:  # the cluster has shrunk to nothing
            return
        if slots > self.max_concurrent:
            self.set_max_concurrency(slots)
            self._ledger.record_event("slots", {"slots": slots})

    def get_state(self) -> dict[str, Any]:
        """Returns nothing: Ray copies it into a snapshot that we never read."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        """As `get_state`, for another snapshot."""
        return {}
