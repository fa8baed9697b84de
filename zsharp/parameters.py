"""The numbers that a search can tune: what each means, and in which range it makes sense."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Lt

from zsharp.settings import settings_of

WeightDecay = Annotated[float, Ge(0), "weight decay of the base optimizer"]
LabelSmoothing = Annotated[float, Ge(0), Lt(1), "share of the target spread over all classes"]
Momentum = Annotated[float, Ge(0), Lt(1), "momentum of SGD"]


@dataclass(frozen=True)
class _Declared:
    """In the order in which studies name them."""

    q_p: Annotated[float, Ge(0), Lt(1), "quantile in [0, 1) below which gradient components are dropped"]
    rho: Annotated[float, Ge(0), "radius of the perturbation"]
    lr: Annotated[float, Gt(0), "learning rate"]
    weight_decay: WeightDecay
    label_smoothing: LabelSmoothing
    momentum: Momentum
    eta: Annotated[float, Ge(0), "ASAM's floor of abs(w)"]
    sigma: Annotated[float, Ge(0), "share of the running gradient that Friendly-SAM subtracts"]
    lmbda: Annotated[float, Ge(0), Lt(1), "decay of Friendly-SAM's running gradient"]


PARAMETERS = settings_of(_Declared)
"""Every parameter by name."""

SHARED_PARAMETERS = ("lr", "weight_decay", "label_smoothing", "momentum")
"""Those that every method has; the others belong to a method's own defaults."""

ASCENT_PARAMETERS = tuple(name for name in PARAMETERS if name not in SHARED_PARAMETERS)
"""Those of the ascent."""
