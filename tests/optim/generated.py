"""What hypothesis chooses from: types, rules, and gradients of the kinds that filters meet."""

import torch
from hypothesis import strategies as st

from zsharp.optim import Rules

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
RULES = st.builds(
    Rules,
    st.sampled_from(["sam", "asam", "friendly_sam"]),
    st.sampled_from(["none", "zscore", "magnitude", "random"]),
    st.sampled_from(["layer", "global"]),
    st.sampled_from(["layer", "global"]),
    st.sampled_from(["dense", "filter", "skip"]),
)
VALUES = ["normal", "ties", "constant", "zero", "spike"]


def gradient(shape, values, scale, generator):
    """Values of a kind that filters meet."""
    if values == "ties":
        return torch.randint(-2, 3, shape, generator=generator) * scale
    if values == "constant":
        return torch.full(shape, scale)
    grad = torch.randn(shape, generator=generator) * scale
    if values == "zero":
        grad.zero_()
    elif values in ("spike", "nan") and grad.numel():
        grad.zero_().view(-1)[0] = scale if values == "spike" else torch.nan
    return grad
