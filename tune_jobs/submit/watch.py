"""Watches what was submitted: how a job stands, what it prints, how it ends; and ends it."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tune_jobs.errors import ClusterError
from tune_jobs.submit.client import Cluster, answers
from tune_jobs.submit.protocol import FOLDER, STOP_WAIT_S

ENDED = ("SUCCEEDED", "STOPPED", "FAILED")

_LOOK_EVERY_S = 1.0
_SILENT_AT_MOST_S = 60.0  # of a cluster behind a tunnel that comes back


def details(cluster: Cluster, job_id: str) -> Any:
    """Returns Ray's `JobDetails` of a job.

    Raises:
        JobError: There is none of that id.
        ClusterError: The cluster fails.
    """
    with answers(job_id):
        return cluster.client.get_job_info(job_id)


def submitted(cluster: Cluster) -> list[Any]:
    """Returns Ray's `JobDetails` of all searches that were submitted, the latest last."""
    with answers():
        found = cluster.client.list_jobs()
    ours = [job for job in found if job.submission_id and FOLDER in (job.metadata or {})]
    return sorted(ours, key=lambda job: job.start_time or 0)


def exit_code(job: Any) -> int:
    """Returns the exit code of the search: 0 done, 1 failed, 2 bad input, 130 interrupted and resumable."""
    if job.status == "SUCCEEDED":
        return 0
    if job.status == "STOPPED":
        return 130
    return job.driver_exit_code if job.driver_exit_code in (2, 130) else 1


def stop(cluster: Cluster, job_id: str) -> Any:
    """Stops a job and waits until it has ended; its search can be resumed. Returns its details."""
    job = details(cluster, job_id)
    if job.status not in ENDED:
        with answers(job_id):
            cluster.client.stop_job(job_id)
    until = time.monotonic() + STOP_WAIT_S + 10
    while job.status not in ENDED:
        if time.monotonic() > until:
            raise ClusterError(f"{job_id} is still {job.status} after {STOP_WAIT_S + 10} s")
        time.sleep(_LOOK_EVERY_S)
        job = details(cluster, job_id)
    return job


def logs(cluster: Cluster, job_id: str) -> str:
    """Returns what a job has printed so far."""
    with answers(job_id):
        text: str = cluster.client.get_job_logs(job_id)
    return text


def follow(cluster: Cluster, job_id: str, write: Callable[[str], None]) -> Any:
    """Passes on what a job prints until it has ended; returns its details then.

    A connection that breaks is made again, and nothing is passed on twice.
    """
    details(cluster, job_id)
    num_seen, answered = 0, time.monotonic()

    async def tail() -> None:
        nonlocal num_seen, answered
        position = 0
        async for text in cluster.client.tail_job_logs(job_id):
            answered = time.monotonic()
            new = text[max(0, num_seen - position) :]
            position += len(text)
            num_seen += len(new)
            write(new)

    while True:
        with suppress(RuntimeError, OSError):
            asyncio.run(tail())
        try:
            job = details(cluster, job_id)
            if job.status in ENDED:
                write(logs(cluster, job_id)[num_seen:])
                return job
            answered = time.monotonic()
        except ClusterError:
            if time.monotonic() - answered > _SILENT_AT_MOST_S:
                raise
        time.sleep(_LOOK_EVERY_S)
