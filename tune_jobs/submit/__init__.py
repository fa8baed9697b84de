"""Searches on a Ray cluster, from this end and at the other."""
