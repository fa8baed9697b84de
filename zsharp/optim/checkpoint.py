"""Saving and loading: the base optimizer's state with one more entry, `ascent`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zsharp.optim.sharpness_aware import SharpnessAware


def save(optimizer: "SharpnessAware") -> dict[str, Any]:
    """Returns the state; the wrapper's hooks run, as its own method takes the place of torch's."""
    for hook in optimizer._optimizer_state_dict_pre_hooks.values():
        hook(optimizer)
    state = optimizer.base_optimizer.state_dict()
    state["ascent"] = optimizer._progress.state_dict(optimizer._params())
    for post_hook in optimizer._optimizer_state_dict_post_hooks.values():
        state = post_hook(optimizer, state) or state
    return state


def load(optimizer: "SharpnessAware", state_dict: dict[str, Any]) -> None:
    """Loads a state; settings and progress that it lacks, as a plain base optimizer's does, stay or start anew."""
    state = dict(state_dict)
    for hook in optimizer._optimizer_load_state_dict_pre_hooks.values():
        state = hook(optimizer, state) or state
    found = state.pop("ascent", {})
    before = [{name: group[name] for name in optimizer._settings} for group in optimizer.param_groups]
    optimizer.base_optimizer.load_state_dict(state)
    optimizer._share()
    for group, settings in zip(optimizer.param_groups, before, strict=True):
        for name, value in settings.items():
            group.setdefault(name, value)
    optimizer._progress.load_state_dict(found, optimizer._params())
    for post_hook in optimizer._optimizer_load_state_dict_post_hooks.values():
        post_hook(optimizer)
