"""`python -m tune_jobs` is the command line `tune-jobs`."""

from tune_jobs.cli.app import main

main()
