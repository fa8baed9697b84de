"""How many trials should share a GPU: the probe that `gpus_per_trial: auto` runs, for a job's architectures.

    python benchmarks/packing.py [JOB] [--set path=value]... [--seconds 10]

Prints what each architecture takes alone and what 2, 4 and 8 trials at once gain. Needs a CUDA device, and Ray.
"""

import argparse

from tune_jobs.cluster import ray as cluster
from tune_jobs.job.data_checks import check_data
from tune_jobs.job.load import load_job
from tune_jobs.search.packing_probe import probe_packing


def main() -> None:
    """Prints a line for each architecture and the number chosen."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job", nargs="?", default="cifar10")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", dest="sets")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    job = load_job(options.job, options.sets)
    check_data(job)
    totals = cluster.local_totals()
    if not totals.gpus:
        parser.exit(1, "no CUDA device here\n")
    cluster.start_local(totals, 1)
    together, lines = probe_packing(job, seconds=options.seconds)
    print(*totals.gpu_names, *lines, f"trials a GPU: {together}", sep="\n")


if __name__ == "__main__":
    main()
