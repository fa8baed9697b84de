"""Runs searches on a Ray cluster: submits, watches, stops and fetches them."""
