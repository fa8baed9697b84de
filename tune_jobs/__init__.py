"""Plans, runs and explains hyperparameter searches for sharpness-aware training."""
