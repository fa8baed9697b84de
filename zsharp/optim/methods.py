"""The table of methods: each is a named (ascent, filter) pair with its default settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Literal

from zsharp.names import did_you_mean

Ascent = Literal["none", "sam", "asam", "friendly_sam", "centred_sam", "msam", "stale_sam"]
# Ascents whose direction is known before the gradient is: a step needs one gradient, at w + e.
ONE_PASS = ("msam", "stale_sam")
Filter = Literal["none", "zscore", "magnitude", "random"]
Scope = Literal["layer", "global"]
OneDim = Literal["dense", "filter", "skip"]
Radius = Literal["rho", "sqrt_layers"]


@dataclass(frozen=True)
class Rules:
    """How gradients become a perturbation: every setting that is not a number.

    Attributes:
        ascent: Which perturbation: `sam`, `asam` (scaled by abs(w)), `friendly_sam` (less the running
            gradient), `centred_sam` (each tensor's gradient less its mean), `msam` (against the base optimizer's
            momentum), `stale_sam` (along the gradient of the step before), or `none`: the weights stay at w.
        filter: Which components take part.
        threshold: Whether the percentile is taken per parameter tensor or over all of them at once.
        norm: Whether all kept components together have norm rho, or each tensor's.
        one_dim: What happens to tensors of at most one dimension (biases, norm weights) under a filter.
    """

    ascent: Ascent = "sam"
    filter: Filter = "none"
    threshold: Scope = "layer"
    norm: Scope = "global"
    one_dim: OneDim = "filter"

    @property
    def remembers_gradients(self) -> bool:
        """Whether a copy of the gradients is kept from step to step."""
        return self.ascent in ("friendly_sam", "stale_sam")


SWITCHES = tuple(switch.name for switch in fields(Rules))
PAPER = Rules(filter="zscore")
OFFICIAL = Rules(filter="zscore", norm="layer", one_dim="dense")
VARIANTS: Mapping[str, Rules] = MappingProxyType({"paper": PAPER, "official": OFFICIAL})


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        defaults: The method's own numbers and their default values.
        variant: Which version of ZSharp it is, if any.
        radius: `sqrt_layers` multiplies rho by sqrt(L), with L the number of tensors of more than one dimension.
            `zsharp.training` does so; `make_optimizer` takes rho as it is given.
    """

    name: str
    summary: str
    rules: Rules
    defaults: Mapping[str, float] = field(default_factory=dict)
    variant: str | None = None
    radius: Radius = "rho"

    @property
    def gradient_evaluations_per_step(self) -> int:
        """Gradient evaluations (forward and backward passes) per step of the method."""
        return 1 if self.rules.ascent in ("none", *ONE_PASS) else 2


_SAM = {"rho": 0.05}
_ASAM = {"rho": 0.5, "eta": 0.01}
_MSAM = {"rho": 0.3}  # as in the authors' code
_FRIENDLY = {"rho": 0.05, "sigma": 1.0, "lmbda": 0.9}
_FILTER = {"q_p": 0.95}

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for method in (
            Method("base", "the base optimizer alone: one gradient a step", Rules(ascent="none")),
            Method("sam", "SAM (Foret et al. 2021): ascend along the whole gradient", Rules(), _SAM),
            Method(
                "asam", "ASAM (Kwon et al. 2021): the radius scales with abs(w)", Rules(ascent="asam"), _ASAM
            ),
            Method(
                "friendly_sam",
                "Friendly-SAM (Li et al. 2024): ascend along the batch's own part of the gradient",
                Rules(ascent="friendly_sam"),
                _FRIENDLY,
            ),
            Method(
                "msam",
                "Momentum-SAM (Becker et al. 2024): one gradient a step, at w - rho * v / ||v||, v the momentum",
                Rules(ascent="msam"),
                _MSAM,
            ),
            Method(
                "stale_sam",
                "SAM along the gradient of the step before (after AsyncSAM, Jo et al. 2025): one gradient a step",
                Rules(ascent="stale_sam"),
                _SAM,
            ),
            Method(
                "zsharp",
                "ZSharp as in the paper: SAM along the top (1 - q_p) of abs(z), one norm over all layers",
                PAPER,
                _SAM | _FILTER,
                "paper",
            ),
            Method(
                "zsharp_official",
                "ZSharp as in the authors' code: each layer by itself scaled to norm rho, 1-D tensors dense",
                OFFICIAL,
                _SAM | _FILTER,
                "official",
            ),
            Method(
                "magnitude_sam",
                "control: as zsharp, but keeps the largest abs(g)",
                Rules(filter="magnitude"),
                _SAM | _FILTER,
            ),
            Method(
                "random_sam",
                "control: as zsharp, but keeps a random set of the same size",
                Rules(filter="random"),
                _SAM | _FILTER,
            ),
            Method(
                "centred_sam",
                "control: the Z-score's centring without its mask: SAM along g - mean(g) of each layer",
                Rules(ascent="centred_sam"),
                _SAM,
            ),
            Method(
                "layer_sam",
                "control: zsharp_official without its mask: each layer by itself scaled to norm rho",
                OFFICIAL,  # no q_p, so it is 0 and everything is kept
                _SAM,
            ),
            Method(
                "sam_sqrt_l",
                "control: SAM with the radius that zsharp_official has: rho * sqrt(number of layers)",
                Rules(),
                _SAM,
                radius="sqrt_layers",
            ),
            Method(
                "zsharp_asam",
                "ASAM with ZSharp's filter",
                Rules(ascent="asam", filter="zscore"),
                _ASAM | _FILTER,
                "paper",
            ),
            Method(
                "zsharp_friendly_sam",
                "Friendly-SAM with ZSharp's filter",
                Rules(ascent="friendly_sam", filter="zscore"),
                _FRIENDLY | _FILTER,
                "paper",
            ),
            Method(
                "zsharp_msam",
                "Momentum-SAM with ZSharp's filter",
                Rules(ascent="msam", filter="zscore"),
                _MSAM | _FILTER,
                "paper",
            ),
            Method(
                "zsharp_stale_sam",
                "stale_sam with ZSharp's filter",
                Rules(ascent="stale_sam", filter="zscore"),
                _SAM | _FILTER,
                "paper",
            ),
        )
    }
)


def find_method(name: str) -> Method:
    """Returns the method called `name`.

    Raises:
        ValueError: If there is none; the message suggests the nearest name and lists all.
    """
    if name in METHODS:
        return METHODS[name]
    hint = did_you_mean(name, METHODS)
    raise ValueError(f"unknown method {name!r}; {hint}valid: {', '.join(METHODS)}")
