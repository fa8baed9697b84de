"""Sharpness-aware training of one model: optimizers, architectures, data and the training loop."""

__version__: str


def __getattr__(name: str) -> str:
    # Looked up when asked for: the import of importlib.metadata alone takes longer than that of this package.
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("zsharp-tune")
    except PackageNotFoundError:  # a copy of the code that nobody installed, as on a cluster's machines
        return "unknown"
