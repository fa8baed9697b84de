"""Runs a submitted search on the cluster, as the entry point of a Ray job."""

import argparse
import base64
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from tune_jobs.cli import app
from tune_jobs.cluster.ray import cluster_totals, connect
from tune_jobs.cluster.slots import plan_slots
from tune_jobs.errors import JobError
from tune_jobs.job.load import load_job
from tune_jobs.job.spec import JobSpec
from tune_jobs.search.extend import extended
from tune_jobs.search.folder import SearchFolder
from tune_jobs.submit.protocol import JOB_FILE, JOB_VARIABLE
from tune_jobs.wording import counted


def main() -> None:
    """Runs or resumes the submitted search."""
    parser = argparse.ArgumentParser(prog="python -m tune_jobs.cli.driver", description=__doc__)
    parser.add_argument("job", nargs="?", default=JOB_FILE, help="the job file")
    parser.add_argument("--out", required=True, help="the search folder, on storage that all machines share")
    parser.add_argument(
        "--wait-for-workers", type=float, default=0.0, metavar="S", help="seconds to wait for machines"
    )
    parser.add_argument(
        "--verb", choices=("run", "resume", "confirm"), default="run", help="what to do there"
    )
    parser.add_argument(
        "--set", action="append", default=[], dest="sets", help="a change of the job to resume"
    )
    parser.add_argument("--seeds", help="fresh seeds of a confirmation")
    parser.add_argument("--methods", help="which methods to confirm")
    parser.add_argument("--architectures", help="which architectures to confirm")
    parser.add_argument(
        "--allow-changed-code", action="store_true", help="resume although code of the user's own has changed"
    )
    options = parser.parse_args()
    import ray

    print(f"Python {platform.python_version()} ({sys.executable}), Ray {ray.__version__}", flush=True)
    if JOB_VARIABLE in os.environ:
        options.job = str(Path(tempfile.mkdtemp(prefix="tune-jobs-")) / JOB_FILE)
        Path(options.job).write_bytes(base64.b64decode(os.environ[JOB_VARIABLE]))
    if options.wait_for_workers > 0:
        job = load_job(options.job) if options.verb == "run" else _job_of(options.out)
        wait_for_workers(job, options.wait_for_workers)
    more = ["--allow-changed-code"] if options.allow_changed_code else []
    if options.verb == "run":
        app.main(["run", options.job, f"--out={options.out}", *more])
    given = {name: getattr(options, name) for name in ("seeds", "methods", "architectures")}
    more += [f"--{name}={value}" for name, value in given.items() if value is not None]
    more += [f"--set={change}" for change in options.sets]
    app.main([options.verb, *more, "--", options.out])


def _job_of(folder: str) -> JobSpec:
    with SearchFolder(folder).open(read_only=True) as ledger:
        job, _ = extended(ledger, ())
    return job


def wait_for_workers(job: JobSpec, within_s: float) -> None:
    """Asks the cluster for room for `resources.max_concurrent` trials (one if `auto`), and waits until it is there.

    A search plans its slots when it starts, but a cluster that adds machines on demand needs a demand first. When the
    time is over, the search starts with the machines that have come.
    """
    import ray
    from ray.util import placement_group, remove_placement_group

    connect()
    wanted = 1 if job.resources.max_concurrent == "auto" else job.resources.max_concurrent
    if _num_slots(job) >= wanted:
        return
    per_trial = {"CPU": job.resources.cpus_per_trial}
    gpus = job.resources.gpus_per_trial
    if gpus == "auto":
        gpus = 1.0 if job.resources.device == "cuda" else 0.0
    if gpus > 0:
        per_trial["GPU"] = gpus
    print(
        f"Waiting up to {within_s:g} s for room for {counted(wanted, 'trial')}, each {per_trial}", flush=True
    )
    # Placement groups are what autoscalers see as demand. They only reserve room: removed, it is free for the trials.
    until_s = time.monotonic() + within_s
    groups = [placement_group([per_trial]) for _ in range(wanted)]
    ready, _ = ray.wait(
        [group.ready() for group in groups], num_returns=wanted, timeout=until_s - time.monotonic()
    )
    for group in groups:
        remove_placement_group(group)
    print(f"There is room for {len(ready)} of {counted(wanted, 'trial')}", flush=True)


def _num_slots(job: JobSpec) -> int:
    totals = cluster_totals()
    try:
        return plan_slots(job.resources, totals.cpus, totals.gpus, totals.nodes).num_slots
    except JobError:
        return 0


if __name__ == "__main__":
    main()
