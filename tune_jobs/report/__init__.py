"""The HTML page about finished searches."""
