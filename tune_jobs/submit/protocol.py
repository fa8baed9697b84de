"""The names and sizes that both ends of a submitted search agree on: this machine, and the cluster."""

# The job that `cli.driver` runs.
JOB_FILE = "job.yaml"  # travels with the code
JOB_VARIABLE = "TUNE_JOBS_JOB"  # in base64, where a container image has the code and no file travels

# Metadata of the Ray job, which `status` and `fetch` read.
FOLDER = "tune_jobs.folder"
PYTHON = "tune_jobs.python"
ENVIRONMENT = "tune_jobs.environment"

# Time to finish running epochs and write the results; by default Ray kills a job 3 s after the signal.
STOP_WAIT_S = 60

# What `submit.pack` prints to the log of its Ray job, and `submit.fetch` reads there.
FILES = (
    "job.yaml",
    "parquet/trials.parquet",
    "parquet/epochs.parquet",
    "parquet/confirmations.parquet",
    "report.html",
)
MAX_BYTES = 64 * 2**20  # packed: the job server sends a log as one answer
PART = "tune-jobs-part "
END = "tune-jobs-end "
FAILED = "tune-jobs-failed "
