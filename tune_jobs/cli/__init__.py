"""The command line `tune-jobs`: the only package that prints."""
