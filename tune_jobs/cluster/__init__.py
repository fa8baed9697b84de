"""Starts Ray or connects to it, and plans how many trials run on it at once."""
