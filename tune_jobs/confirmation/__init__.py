"""Retrains a study's winners on fresh seeds and reads the test set."""
