"""Architectures by name, sized by the data they will see."""

from zsharp.models.architectures import (
    ARCHITECTURES,
    Architecture,
    build_model,
    check_architecture,
    check_model,
    layout_of,
)
from zsharp.models.library_names import LIBRARIES, is_library_name

__all__ = [
    "ARCHITECTURES",
    "LIBRARIES",
    "Architecture",
    "build_model",
    "check_architecture",
    "check_model",
    "is_library_name",
    "layout_of",
]
