"""Names of other libraries' architectures: `timm/NAME` and `torchvision/NAME`."""

LIBRARIES = {
    "timm": "any of timm's models, such as timm/convnext_atto; pip install zsharp-tune[timm]",
    "torchvision": "any of torchvision's classification models, such as torchvision/resnet18",
}
"""The libraries by the prefix of their architectures' names, with a line on each."""


def is_library_name(name: str) -> bool:
    """Returns whether the text has the form of an architecture of a library, whether or not that has it."""
    return name.partition("/")[0] in LIBRARIES and "/" in name
