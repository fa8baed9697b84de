"""Architectures by name, sized by the data they will see."""

from zsharp.models.architectures import (
    ARCHITECTURES,
    Architecture,
    build_model,
    check_architecture,
    check_model,
    layout_of,
)

__all__ = ["ARCHITECTURES", "Architecture", "build_model", "check_architecture", "check_model", "layout_of"]
