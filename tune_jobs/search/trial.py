"""A trial as the driver sees it while it runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tune_jobs.job.metric import VAL_ACCURACY, Metric
from tune_jobs.job.space import Value
from tune_jobs.job.spec import Study
from tune_jobs.ledger.rows import Fork


@dataclass
class LiveTrial:
    """A trial as the driver sees it."""

    trial_id: str  # its own stable id, `<study>-<number>`
    study: str
    params: Mapping[str, Value]  # by their names in the space
    number: int = 0  # its number within its study
    epoch: int = 0  # the last one reported, or that of its trunk
    value: float | None = None  # the last one reported of the job's metric
    val_loss: float | None = None  # the last one reported
    # Each epoch's value of the metric, None where it was not measured.
    values: list[float | None] = field(default_factory=list)
    status: str | None = None  # how it ended; None while it runs
    error: str | None = None  # of a failed trial, its text
    retries: int = 0  # how often it was tried again after a failure
    metric: Metric = VAL_ACCURACY  # the job's
    is_trunk: bool = False  # others start from where it ends
    finalist_of: str | None = None  # the trial of the search whose configuration it trains again
    fork: Fork | None = None  # where it starts itself, if that is not at its first epoch

    @property
    def is_unfinished(self) -> bool:
        """Whether it still has epochs to train, in this session or a later one."""
        return self.status in (None, "interrupted")

    @property
    def is_searched(self) -> bool:
        """Whether its configuration was suggested: it is neither a trunk nor of a finalist."""
        return not self.is_trunk and self.finalist_of is None

    @property
    def merit(self) -> tuple[float, float]:
        """What completed trials are ranked by; larger is better."""
        return self.metric.merit(self.value, self.val_loss)


def id_of(study: Study, number: int) -> str:
    """Returns the stable id of a study's trial."""
    return f"{study.name}-{number:04d}"
