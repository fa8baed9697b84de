"""One thread and a cache of their own."""

from torch_runs import one_thread, own_cache  # noqa: F401
