"""Turns gradients into a perturbation of the weights."""
