"""The stopping rules ASHA and i-epoch as pure functions: rungs in, decision out.

ASHA, asynchronous successive halving, is Ray's (`ASHAScheduler`, stopping variant), decision for decision, which a test
shows: at a milestone a trial stops if its value is below the (1 - 1/reduction_factor) percentile of the values other
trials reached there before it; the first to arrive always continues. Ray lacks three things that are here: a trial that
diverges or crashes counts as the worst of the rung it was heading for; the best few of a rung and a share of all trials
are never stopped; every decision carries its inputs. Nothing is random: a trial is immortal or not by its id.

i-epoch has one milestone, and a trial continues there if it is among the best `protect_top` of those that have come so
far. The paper trains the best few of all; a rule that only stops cannot know who is still to come, so early trials pass
that would not have in the end: of n in random order about K (1 + ln(n / K)), not K.

PASHA (Bohdal et al., arXiv 2207.06940) is not here. It starts with a small maximum of epochs, and raises it while the
ranking of the two highest rungs still changes: trials that had paused at the old maximum go on then. A rule that only
stops cannot wake them, and where the ranking is stable nobody reaches full fidelity, among which alone winners are
chosen.

References:
    Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020.
    Egele et al., "The Unreasonable Effectiveness Of Early Discarding After One Epoch In Neural Network Hyperparameter
    Optimization", Neurocomputing 2024, arXiv 2404.04111.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np

from tune_jobs.job.metric import VAL_ACCURACY, Metric
from tune_jobs.job.trunk import fork_epoch
from tune_jobs.ledger.rows import Decision

RuleName = Literal["asha", "i_epoch"]


@dataclass(frozen=True)
class Rule:
    """When trials are judged, and how many continue."""

    max_epochs: int  # epochs at full fidelity
    # The first milestone. The next ones are `reduction_factor` times the one before, below `max_epochs`.
    grace_epochs: int
    reduction_factor: float  # about one in this many trials continues at each milestone
    enabled: bool = True  # False stops no trial early
    protect_top: int = 0  # the best this many trials of a rung are not stopped there
    # Share of trials that are never stopped, so that you can measure what stopping costs.
    immortal_fraction: float = 0.0
    seed: int = 0  # chooses the immortal trials, together with their ids
    metric: Metric = VAL_ACCURACY  # what trials are judged by
    # Epochs that all trials share: none is judged before it has trained on from there.
    fork_epoch: int = 0
    name: RuleName = "asha"

    @classmethod
    def of_job(cls, job: Mapping[str, Any]) -> Self:
        """Returns the rule of a resolved job, given as the mapping in its file."""
        asha, epochs = job["asha"], job["train"]["epochs"]
        trunk = (job.get("init") or {}).get("trunk")
        return cls(
            epochs,
            asha["grace_epochs"],
            asha["reduction_factor"],
            asha["enabled"],
            asha.get("protect_top", 0),
            asha.get("immortal_fraction", 0.0),
            job["search"]["seed"],
            Metric.of_job(job),
            0 if trunk is None else fork_epoch(trunk["fraction"], epochs),
            asha.get("rule", "asha"),
        )

    @property
    def of_trunks(self) -> Self:
        """The rule for the trunks of a job, which train to the fork whatever they reach."""
        return replace(self, max_epochs=self.fork_epoch, fork_epoch=0, enabled=False)

    @property
    def of_finalists(self) -> Self:
        """The rule for trials of finalists, none of which is stopped."""
        return replace(self, enabled=False)

    @property
    def milestones(self) -> tuple[int, ...]:
        """The epochs at which trials are judged, ascending."""
        if self.name == "i_epoch":
            is_judged = self.enabled and self.fork_epoch < self.grace_epochs < self.max_epochs
            return (self.grace_epochs,) if is_judged else ()
        epochs, milestone = [], float(self.grace_epochs)
        while self.enabled and milestone < self.max_epochs:
            epochs.append(math.ceil(milestone))
            milestone *= self.reduction_factor
        return tuple(epoch for epoch in epochs if epoch > self.fork_epoch)

    @property
    def num_free(self) -> int:
        """How many trials pass a rung before there is a cutoff."""
        return max(1, self.protect_top) if self.name == "i_epoch" else 1

    def cutoff(self, values: Sequence[float]) -> float:
        """Returns what a trial must reach at a rung at which others had these values; the worst, if that is infinite.

        Ray interpolates between neighbours, as np.percentile does by default. Between an infinity and a number there
        is nothing to interpolate, so there the worse neighbour counts.
        """
        sign, percent = self.metric.sign, (1 - 1 / self.reduction_factor) * 100
        signed = [sign * value for value in values]
        if self.name == "i_epoch":
            best = sorted(signed, reverse=True)[: self.num_free]
            return sign * (best[-1] if len(best) == self.num_free else -math.inf)
        worse = float(np.percentile(signed, percent, method="lower"))
        return sign * (float(np.percentile(signed, percent)) if math.isfinite(worse) else worse)

    def is_immortal(self, trial_id: str) -> bool:
        """Whether a trial is never stopped."""
        digest = hashlib.sha256(f"{self.seed}/{trial_id}".encode()).digest()
        return int.from_bytes(digest[:4], "big") < self.immortal_fraction * 2**32


@dataclass
class Rungs:
    """The values that the trials of one study have reached at each milestone."""

    rule: Rule  # the rule that judges them
    # For each milestone, the value of each trial there, by trial id.
    values: dict[int, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.values = {milestone: {} for milestone in self.rule.milestones}

    def judge(self, trial_id: str, epoch: int, value: float | None) -> Decision:
        """Decides on a report, and records it if it stands at a milestone.

        Args:
            trial_id: The trial that reports. A trial reports every epoch once, in order.
            value: The metric; None or not finite if the trial diverged.

        Raises:
            ValueError: If the trial skipped a milestone: its value would be compared with those of other epochs.
        """
        if value is None or not math.isfinite(value):
            self.record_worst(trial_id)
            return Decision("diverge", reason=f"{_what_diverges(self.rule.metric)} is not finite")
        skipped = [milestone for milestone in self.values if milestone < epoch]
        if missing := [milestone for milestone in skipped if trial_id not in self.values[milestone]]:
            raise ValueError(f"trial {trial_id} reports epoch {epoch} and did not report epoch {missing[0]}")
        if epoch >= self.rule.max_epochs:
            return Decision("complete", reason="reached full fidelity")
        if epoch not in self.values:
            return Decision("continue")
        rung = self.values[epoch]
        others = list(rung.values())
        rung[trial_id] = value
        if len(others) < self.rule.num_free:
            reason = (
                "first at this rung"
                if self.rule.num_free == 1
                else f"among the first {self.rule.num_free} here"
            )
            return Decision("continue", epoch, None, len(others), reason)
        return self._judge_in_rung(trial_id, epoch, value, others)

    def _judge_in_rung(self, trial_id: str, epoch: int, value: float, others: list[float]) -> Decision:
        metric, cutoff = self.rule.metric, self.rule.cutoff(others)
        told = metric.text(value)
        if not math.isfinite(cutoff):
            reason = f"{told} is better than a trial that diverged or failed"
            return Decision("continue", epoch, None, len(others), reason)
        inputs = (epoch, cutoff, len(others))
        if metric.reaches(value, cutoff):
            return Decision("continue", *inputs, f"{told} reaches the cutoff {metric.text(cutoff)}")
        rank = sum(not metric.reaches(value, other) for other in others) + 1
        side = "below" if metric.mode == "max" else "above"
        below = f"{told} is {side} the cutoff {metric.text(cutoff)}"
        if rank <= self.rule.protect_top:
            return Decision("continue", *inputs, f"{below}, but number {rank} of this rung is protected")
        if self.rule.is_immortal(trial_id):
            return Decision("continue", *inputs, f"{below}, but the trial is immortal")
        return Decision("stop", *inputs, below)

    def record(self, trial_id: str, epoch: int, value: float | None) -> None:
        """Records a report as `judge` does, without judging it again."""
        if value is None or not math.isfinite(value):
            self.record_worst(trial_id)
        elif epoch in self.values:
            self.values[epoch][trial_id] = value

    def record_worst(self, trial_id: str) -> None:
        """Counts a trial that diverged or crashed as the worst at the first milestone it has not reached."""
        for rung in self.values.values():
            if trial_id not in rung:
                rung[trial_id] = self.rule.metric.worst
                return


def _what_diverges(metric: Metric) -> str:
    return "a loss" if metric.name.endswith(("accuracy", "loss")) else f"a loss or {metric.name}"
