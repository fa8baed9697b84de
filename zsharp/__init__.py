"""Sharpness-aware training of one model: optimizers, architectures, data and the training loop."""
