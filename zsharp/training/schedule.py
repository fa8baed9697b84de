"""Learning-rate schedules as pure functions of the step."""

import math

import torch
from torch import Tensor

from zsharp.training.spec import Schedule

_MULTISTEP = ((0.5, 0.1), (0.75, 0.01))


def learning_rate_factors(
    schedule: Schedule, num_steps: int, steps_per_epoch: int, warmup_epochs: float
) -> Tensor:
    """Returns the factor on the peak learning rate for every step of a run.

    Every schedule starts with a linear warm-up over `warmup_epochs`: of W warm-up steps, step i has the factor
    (i + 1) / W, so that the first one trains already. After it:

    - `constant`: 1.
    - `cosine`: half a cosine from 1 to 0 over the remaining steps, first step 1.
    - `multistep`: 1, then 0.1 from half and 0.01 from three quarters of all steps.
    - `paper`: multiplied by 0.75 after every ten epochs (Yun, arXiv 2505.02369, experimental settings). The
      authors' code decays every 30 epochs after the warm-up, and its epoch 0 has a rate of 0.

    Returns:
        float64 tensor of shape [num_steps] on the CPU, values in [0, 1].
    """
    warmup = round(warmup_epochs * steps_per_epoch)
    factors = []
    for step in range(num_steps):
        if step < warmup:
            factors.append((step + 1) / warmup)
        elif schedule == "cosine":
            factors.append(0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup))))
        elif schedule == "multistep":
            factors.append(
                min((factor for start, factor in _MULTISTEP if step >= start * num_steps), default=1.0)
            )
        elif schedule == "paper":
            factors.append(0.75 ** (step // steps_per_epoch // 10))
        else:
            factors.append(1.0)
    return torch.tensor(factors, dtype=torch.float64)
