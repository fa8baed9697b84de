"""A worker that does not report is killed, but not for the time in which the driver itself was stopped."""

from types import SimpleNamespace

import pytest
from ray.tune.experiment import Trial
from simulated_search import Driver, small_job

from tune_jobs.search import scheduler as scheduler_module
from tune_jobs.search.scheduler import JobASHA


@pytest.mark.parametrize(
    ("looks_at_s", "is_killed"),
    [
        (range(100, 125), True),
        ([100, 101, 1000, 1001, 1005], False),  # Ctrl-Z, and `fg` a quarter of an hour later
        ([100, 101, 1000, *range(1001, 1025)], True),
    ],
)
def test_only_silence_while_the_driver_listens_counts(tmp_path, monkeypatch, looks_at_s, is_killed):
    driver = Driver(small_job("methods=[sam]", "failures.report_timeout_s=20"), tmp_path)
    scheduler = JobASHA(driver.recorder, driver.search)
    trial = SimpleNamespace(
        trial_id="a",
        status=Trial.RUNNING,
        RUNNING=Trial.RUNNING,
        temporary_state=SimpleNamespace(ray_actor="its worker"),
    )
    controller = SimpleNamespace(get_live_trials=lambda: [trial], get_trials=list)
    killed = []
    monkeypatch.setattr("ray.kill", killed.append)
    for now in looks_at_s:
        monkeypatch.setattr(scheduler_module, "time", SimpleNamespace(monotonic=lambda now=now: float(now)))
        scheduler.choose_trial_to_run(controller)
    assert killed == ["its worker"] * is_killed
    driver.close()
