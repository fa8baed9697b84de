"""Parquet files of searches: writing, reading, comparing. Needs neither Ray nor torch."""
