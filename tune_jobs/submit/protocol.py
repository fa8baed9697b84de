"""Names and sizes on which this machine and the cluster agree."""

# How the job reaches `cli.driver`: as a file beside the code, or, where a container image has the code, in a variable
# in base64.
JOB_FILE = "job.yaml"
JOB_VARIABLE = "TUNE_JOBS_JOB"

# Keys of the Ray job's metadata, which `status` and `fetch` read.
FOLDER = "tune_jobs.folder"
PYTHON = "tune_jobs.python"
ENVIRONMENT = "tune_jobs.environment"

# Time for a stopped search to finish running epochs and write its results; Ray's default is 3 s.
STOP_WAIT_S = 60

# What `submit.pack` prints to the log of its Ray job, and `submit.fetch` reads there.
FILES = (
    "job.yaml",
    "parquet/trials.parquet",
    "parquet/epochs.parquet",
    "parquet/confirmations.parquet",
    "report.html",
)
LEDGER = "ledger.sqlite"  # only if it is asked for: it is the largest
MAX_BYTES = 64 * 2**20  # packed: the job server sends the whole log in one response
PART = "tune-jobs-part "
END = "tune-jobs-end "
FAILED = "tune-jobs-failed "
