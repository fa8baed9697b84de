"""The record of a search: every report, and the decision taken on it."""
