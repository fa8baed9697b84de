"""Steps taken before a graph is captured leave no trace."""

from itertools import cycle

import pytest
import torch
from small_runs import AUGMENT, is_same, measured, small_spec

from zsharp.optim import METHODS
from zsharp.training import Training

SETTINGS = [
    *(
        pytest.param(method, {"base_optimizer": base}, id=f"{method}-{base}")
        for method, base in zip(METHODS, cycle(["sgd", "adam", "adamw"]), strict=False)
    ),
    pytest.param(
        "random_sam", {"augment": AUGMENT, "ema_decay": 0.9, "clip_grad_norm": 0.5}, id="everything"
    ),
]


@pytest.mark.parametrize(("method", "settings"), SETTINGS)
def test_a_run_after_steps_that_left_no_trace_is_the_run_without_them(method, settings):
    spec = small_spec(method, max_images=200, **settings)
    plain, disturbed = Training(spec), Training(spec)
    expected = [plain.run_epoch() for _ in range(2)][1]
    disturbed.run_epoch()  # makes the optimizer's state
    model = disturbed.model.state_dict()
    weights = {name: tensor.clone() for name, tensor in model.items()}
    generators = [*disturbed.task.generators, *getattr(disturbed.optimizer, "generators", [])]
    with disturbed._unchanged(generators):
        for rows in list(disturbed.task.batches(1))[:3]:
            disturbed._step(torch.tensor(0.1), rows)
        assert not is_same(model, weights)
    assert is_same(model, weights)
    if hasattr(disturbed.optimizer, "num_steps"):
        assert disturbed.optimizer.num_steps == 3 + 3
    assert measured([disturbed.run_epoch()]) == measured([expected])
