"""Steps equal those of another library, pytorch_optimizer, where both mean the same."""

import pytest
import torch
from small_nets import batches, classifier, closure_for, weights

from zsharp.optim import ASAM, SAM, FriendlySAM

pytorch_optimizer = pytest.importorskip("pytorch_optimizer")  # a machine with nothing but torch has it not

BASES = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
}
FRIENDLY = {"rho": 0.1, "sigma": 0.7, "lmbda": 0.9}
TWINS = {
    "sam": ((SAM, {"rho": 0.1}), (pytorch_optimizer.SAM, {"rho": 0.1})),
    # Their T is abs(w), ours abs(w) + eta as in the paper.
    "asam": ((ASAM, {"rho": 0.5, "eta": 0.0}), (pytorch_optimizer.SAM, {"rho": 0.5, "adaptive": True})),
    "friendly_sam": ((FriendlySAM, FRIENDLY), (pytorch_optimizer.FriendlySAM, FRIENDLY)),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", TWINS)
def test_ten_steps_are_the_same(name, base, dtype):
    """To the precision of their norm, which is summed in float32 whatever the gradients are."""
    trained = []
    for cls, settings in TWINS[name]:
        model = classifier().to(dtype)
        base_class, base_settings = BASES[base]
        optimizer = cls(model.parameters(), base_class, **settings, **base_settings)
        for x, y in batches(10):
            closure = closure_for(model, optimizer, (x.to(dtype), y))
            if cls.__module__.startswith("pytorch_optimizer"):
                closure()  # its step expects the first gradients to be there
            optimizer.step(closure)
        trained.append(torch.cat([p.flatten() for p in weights(model)]))
    start = torch.cat([p.flatten() for p in weights(classifier())])
    assert (trained[0] - trained[1]).abs().max() < (1e-7 if dtype == torch.float64 else 1e-6)
    assert (trained[0] - start).abs().max() > 1e-2
