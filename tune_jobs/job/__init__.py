"""Reads and checks job files, and explains what is wrong with them."""
