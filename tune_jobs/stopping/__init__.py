"""The rule that stops weak trials, as pure functions."""
