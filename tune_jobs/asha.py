"""The stopping rule of asynchronous successive halving, as data: rungs in, decision out.

The rule is Ray's (`ASHAScheduler`, stopping variant), decision for decision, which a test shows: at a milestone
a trial stops if its value is below the (1 - 1/reduction_factor) percentile of the values other trials reached
there before it; the first to arrive always goes on. What Ray lacks is added: a trial that diverges or crashes
counts as worst in the rung it was heading for, and every decision carries its inputs.

References:
    Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from tune_jobs.ledger import Decision

# Accuracies are at least 0, so nothing is worse; an infinity would turn interpolated cutoffs into NaN.
WORST = 0.0


@dataclass(frozen=True)
class Rule:
    """When trials are judged, and how many go on.

    Attributes:
        max_epochs: Full fidelity.
        grace_epochs: First milestone; the others are it times powers of the factor, below `max_epochs`.
        reduction_factor: About one of this many trials goes on at each milestone.
        enabled: False never stops a trial early.
    """

    max_epochs: int
    grace_epochs: int
    reduction_factor: float
    enabled: bool = True

    @property
    def milestones(self) -> tuple[int, ...]:
        """The epochs at which trials are judged, ascending."""
        found, milestone = [], float(self.grace_epochs)
        while self.enabled and milestone < self.max_epochs:
            found.append(math.ceil(milestone))
            milestone *= self.reduction_factor
        return tuple(found)


@dataclass
class Rungs:
    """What the trials of one study reached at each milestone so far.

    Attributes:
        rule: The rule they are judged by.
        values: By milestone, the value each trial reached there, by trial id.
    """

    rule: Rule
    values: dict[int, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.values = {milestone: {} for milestone in self.rule.milestones}

    def judge(self, trial_id: str, epoch: int, value: float | None) -> Decision:
        """Decides on a report, and records it if it stands at a milestone.

        Args:
            trial_id: Whose report it is; a trial reports every epoch once, in order.
            epoch: Epochs trained, from 1.
            value: The metric, larger is better; None or not finite if the trial diverged.
        """
        if value is None or not math.isfinite(value):
            self.record_worst(trial_id)
            return Decision("diverge", reason="a loss is not finite")
        if epoch >= self.rule.max_epochs:
            return Decision("complete", reason="reached full fidelity")
        if epoch not in self.values:
            return Decision("continue")
        rung = self.values[epoch]
        others = list(rung.values())
        rung[trial_id] = value
        if not others:
            return Decision("continue", epoch, None, 0, "first at this rung")
        cutoff = float(np.percentile(others, (1 - 1 / self.rule.reduction_factor) * 100))
        if value < cutoff:
            return Decision(
                "stop", epoch, cutoff, len(others), f"{value:.4f} is below the cutoff {cutoff:.4f}"
            )
        return Decision(
            "continue", epoch, cutoff, len(others), f"{value:.4f} reaches the cutoff {cutoff:.4f}"
        )

    def record_worst(self, trial_id: str) -> None:
        """Counts a trial that diverged or crashed as worst at the first milestone it has not reached."""
        for rung in self.values.values():
            if trial_id not in rung:
                rung[trial_id] = WORST
                return
