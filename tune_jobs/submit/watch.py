"""Watches submitted searches: their status, log and exit code; and stops them."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import aiohttp

from tune_jobs.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_INTERRUPTED, ClusterError
from tune_jobs.submit.client import Cluster, answers
from tune_jobs.submit.protocol import FOLDER, STOP_WAIT_S

ENDED = ("SUCCEEDED", "STOPPED", "FAILED")

_LOOK_EVERY_S = 1.0
_SILENT_AT_MOST_S = 60.0  # a tunnel to the cluster may be interrupted for this long


def details(cluster: Cluster, job_id: str) -> Any:
    """Returns Ray's `JobDetails` of a job.

    Raises:
        JobError: If there is no such job.
        ClusterError: If the cluster fails.
    """
    with answers(job_id):
        return cluster.client.get_job_info(job_id)


def submitted(cluster: Cluster) -> list[Any]:
    """Returns Ray's `JobDetails` of all submitted searches, the latest last."""
    with answers():
        jobs = cluster.client.list_jobs()
    ours = [job for job in jobs if job.submission_id and FOLDER in (job.metadata or {})]
    return sorted(ours, key=lambda job: job.start_time or 0)


def exit_code(job: Any) -> int:
    """Returns the exit code of an ended search: 0 done, 1 failed, 2 bad input, 130 interrupted and resumable."""
    if job.status == "SUCCEEDED":
        return 0
    if job.status == "STOPPED":
        return EXIT_INTERRUPTED
    return job.driver_exit_code if job.driver_exit_code in (EXIT_BAD_INPUT, EXIT_INTERRUPTED) else EXIT_FAILED


def stop(cluster: Cluster, job_id: str) -> Any:
    """Stops a job, waits until it has ended, and returns its details. Its search can be resumed."""
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
        text = cluster.client.get_job_logs(job_id)
        if not isinstance(text, str):
            raise TypeError(f"a log that is {type(text).__name__}")
    return text


def follow(cluster: Cluster, job_id: str, write: Callable[[str], None]) -> Any:
    """Passes a job's log to `write` until the job has ended; returns its details.

    Reconnects if the connection breaks, without writing anything twice.
    """
    details(cluster, job_id)
    num_seen = 0
    answered_s = time.monotonic()

    async def tail() -> None:
        nonlocal num_seen, answered_s
        position = 0
        # A connection that has died without a word is silent forever, like a job that prints nothing.
        async with asyncio.timeout(_SILENT_AT_MOST_S) as silence:
            async for text in cluster.client.tail_job_logs(job_id):
                answered_s = time.monotonic()
                silence.reschedule(asyncio.get_running_loop().time() + _SILENT_AT_MOST_S)
                # Each connection sends the log from its start: skip what earlier ones have shown.
                new = text[max(0, num_seen - position) :]
                position += len(text)
                num_seen += len(new)
                write(new)

    while True:
        # The status, asked for next, tells what is wrong.
        with suppress(RuntimeError, OSError, ValueError, aiohttp.ClientError):
            asyncio.run(tail())
        try:
            job = details(cluster, job_id)
            if job.status in ENDED:
                write(logs(cluster, job_id)[num_seen:])
                return job
            answered_s = time.monotonic()
        except ClusterError:
            if time.monotonic() - answered_s > _SILENT_AT_MOST_S:
                raise
        time.sleep(_LOOK_EVERY_S)
