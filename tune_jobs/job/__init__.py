"""The job file: reading, checking and explaining it."""
