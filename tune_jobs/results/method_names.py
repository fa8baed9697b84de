"""What methods are called in sentences, and which others each is compared with first."""

from collections.abc import Mapping

BASE = "base"

_NAMES: Mapping[str, tuple[str, str | None]] = {
    "base": ("the base optimizer alone", None),
    "sam": ("SAM", "sharpness-aware minimization"),
    "asam": ("ASAM", "adaptive SAM, whose radius scales with the weights"),
    "friendly_sam": ("Friendly-SAM", "SAM along the batch's own part of the gradient"),
    "msam": ("MSAM", "Momentum-SAM, which perturbs along the momentum and takes one gradient a step"),
    "stale_sam": ("stale SAM", "SAM along the gradient of the step before, one gradient a step"),
    "zsharp": ("ZSharp", "SAM along the gradient components with the largest Z-scores"),
    "zsharp_official": ("ZSharp (official)", "ZSharp as in the authors' code, each layer by itself"),
    "magnitude_sam": ("the magnitude control", "ZSharp that keeps the largest components instead"),
    "random_sam": ("the random control", "ZSharp that keeps a random set of the same size instead"),
    "centred_sam": ("the centring control", "SAM along each layer's gradient less its mean, without a mask"),
    "layer_sam": ("the layer control", "ZSharp (official) without its mask"),
    "sam_sqrt_l": ("the radius control", "SAM with the radius that ZSharp (official) has"),
    "zsharp_asam": ("ZSharp-ASAM", "ASAM with ZSharp's filter"),
    "zsharp_friendly_sam": ("ZSharp-Friendly-SAM", "Friendly-SAM with ZSharp's filter"),
    "zsharp_msam": ("ZSharp-MSAM", "MSAM with ZSharp's filter"),
    "zsharp_stale_sam": ("ZSharp-stale-SAM", "stale SAM with ZSharp's filter"),
}

# The method without the filter comes first, then the controls.
_RIVALS = {
    "zsharp": ("sam", "random_sam", "magnitude_sam", "centred_sam"),
    "zsharp_official": ("sam", "layer_sam", "sam_sqrt_l"),
    "zsharp_asam": ("asam",),
    "zsharp_friendly_sam": ("friendly_sam",),
    "zsharp_msam": ("msam",),
    "zsharp_stale_sam": ("stale_sam",),
}
_CONTROLS = {rival for rivals in _RIVALS.values() for rival in rivals} - {
    *("sam", "asam", "friendly_sam", "msam", "stale_sam")
}
_OPTIMIZERS = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}


def short_name(method: str, base_optimizer: str | None = None) -> str:
    """Returns a method's name as a sentence has it: `ZSharp`, or `AdamW alone`; an unknown one's is itself."""
    if method == BASE and base_optimizer is not None:
        return f"{optimizer_name(base_optimizer)} alone"
    return _NAMES[method][0] if method in _NAMES else method


def long_form(method: str) -> str | None:
    """Returns what a method's short name stands for; None where that says it all, and of an unknown method."""
    return _NAMES[method][1] if method in _NAMES else None


def optimizer_name(base_optimizer: str) -> str:
    """Returns `AdamW` for `adamw`."""
    return _OPTIMIZERS.get(base_optimizer, base_optimizer)


def is_control(method: str) -> bool:
    """Whether a method is there to show what a part of ZSharp adds."""
    return method in _CONTROLS


def named_pairs(methods: Mapping[str, str]) -> list[tuple[str, str]]:
    """Returns the pairs that a reader asks about, most interesting first.

    ZSharp against SAM, ZSharp against its controls, then each sharpness-aware method against the base optimizer.

    Args:
        methods: The method of each competitor, by its label.
    """
    asked = [
        (label, other)
        for label, method in methods.items()
        for rival in _RIVALS.get(method, ())
        for other, of_other in methods.items()
        if of_other == rival
    ]
    bases = [label for label, method in methods.items() if method == BASE]
    aware = [label for label, method in methods.items() if method != BASE and not is_control(method)]
    aware.sort(key=lambda label: methods[label] not in _RIVALS)  # ZSharp first, the rest in the job's order
    return [*asked, *((label, base) for base in bases for label in aware)]
