"""Runs a job's search on Ray Tune and records it."""
