"""Starts Ray or connects to it, and plans how trials fill it."""
