"""Each kind of budget ends a search, over all its sessions; time counts while a search runs, not in between."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.search import Searcher
from simulated_search import Driver, small_job

from tune_jobs.job.metric import Metric
from tune_jobs.job.spec import BudgetModel
from tune_jobs.ledger.writer import Ledger
from tune_jobs.search import budget as budget_module
from tune_jobs.search import wind_down as wind_down_module
from tune_jobs.search.budget import Spent, hours_before
from tune_jobs.search.folder import SearchFolder
from tune_jobs.search.recorder import Recorder

# A budget, and what has been spent when it is just used up.
KINDS = {
    "hours": (2.5, {"hours": 2.5}),
    "epochs": (30, {"epochs": 30}),
    "gradient_evaluations": (1000, {"gradient_evaluations": 1000}),
    "gpu_hours": (0.5, {"gpu_hours": 0.5}),
    "target_accuracy": (0.9, {"best": 0.9}),
    "target": (0.9, {"best": 0.9}),
}


def test_each_kind_is_exhausted_at_its_limit_and_not_before():
    assert set(KINDS) == set(BudgetModel.model_fields)
    everything = dict.fromkeys(("hours", "epochs", "gradient_evaluations", "gpu_hours", "best"), 10**6)
    assert Spent(**everything).exhausts(BudgetModel()) is None
    for kind, (limit, used) in KINDS.items():
        ((name, value),) = used.items()
        budget = BudgetModel(**{kind: limit})
        less = value - 1e-6 if isinstance(value, float) else value - 1
        assert Spent(**{name: less}).exhausts(budget) is None
        assert Spent(**used).exhausts(budget) == f"budget.{kind} is reached: {limit:g} of {limit:g}"
        assert Spent(**(everything | {name: 0})).exhausts(budget) is None
    assert Spent().exhausts(BudgetModel(target=-1.0)) is None, "no trial is at full fidelity"
    lower = Metric("val_loss", "min")
    assert [bool(Spent(best=best).exhausts(BudgetModel(target=0.4), lower)) for best in (0.41, 0.4, 0.3)] == [
        False, True, True,
    ]  # fmt: skip


def test_epochs_stop_a_search_and_a_larger_budget_lets_it_go_on(tmp_path):
    sets = ("methods=[sam]", "search.num_trials=6", "search.sampler=random")
    driver = Driver(small_job(*sets, "budget.epochs=11"), tmp_path, num_slots=2)
    while driver.recorder.wind_down.reason is None:
        driver.step()
    assert driver.recorder.wind_down.kind == "budget"
    assert driver.recorder.wind_down.reason == "budget.epochs is reached: 11 of 11"
    assert driver.search.suggest("another") == Searcher.FINISHED
    driver.recorder.interrupt()
    statuses = [trial["status"] for trial in driver.ledger.trials()]
    assert statuses.count("interrupted") == 2
    stopped = [trial for trial in driver.ledger.trials() if trial["status"] == "interrupted"]
    assert {trial["stop_reason"] for trial in stopped} == {driver.recorder.wind_down.reason}
    assert len(driver.ledger.reports()) == 11
    driver.close()

    same = Driver(small_job(*sets, "budget.epochs=11"), tmp_path)
    same.recorder.check_budget()
    assert same.search.suggest("x") == Searcher.FINISHED, "what was spent before counts"
    same.close()
    driver = Driver(small_job(*sets), tmp_path, num_slots=2).run()
    assert driver.recorder.wind_down.reason is None
    assert driver.recorder.is_over
    driver.close()


@pytest.mark.parametrize(
    ("change", "is_stopped"),
    [
        ("gradient_evaluations=90", True),  # 10 an epoch
        ("gradient_evaluations=91", False),
        ("gpu_hours=0.0024", True),  # 2 s an epoch, half a GPU: 9 s in all
        ("gpu_hours=0.0026", False),
        ("epochs=9", True),
        ("epochs=10", False),
        ("target_accuracy=0.8", True),
        ("target_accuracy=0.81", False),
    ],
)
def test_a_trial_uses_up_what_it_reports(tmp_path, change, is_stopped):
    job = small_job("methods=[sam]", "search.num_trials=2", f"budget.{change}")
    with Ledger.create(tmp_path, job.model_dump(mode="json"), {}) as ledger:
        recorder = Recorder(job, ledger, SearchFolder(tmp_path), gpus_per_trial=0.5)
        (study,) = job.studies()
        recorder.start_trial("ray", study, 0, {"rho": 0.1, "lr": 0.01})
        for epoch in range(1, 10):
            assert recorder.wind_down.reason is None
            row = {"epoch": epoch, "val_accuracy": 0.8, "diverged": 0, "gradient_evaluations": 10 * epoch}
            recorder.report("ray", row | {"train_s": 2.0 * epoch})
        assert bool(recorder.wind_down.reason) is is_stopped
        spent = recorder.meter.spent
        assert (spent.epochs, spent.gradient_evaluations, spent.best) == (9, 90, 0.8)
        assert spent.gpu_hours == pytest.approx(9 / 3600)
        again = Recorder(job, ledger, SearchFolder(tmp_path), gpus_per_trial=0.5).meter.spent
        assert (again.epochs, again.gradient_evaluations, again.best) == (9, 90, 0.8)
        assert again.gpu_hours == pytest.approx(9 / 3600)


def test_an_accuracy_counts_when_its_trial_is_at_full_fidelity(tmp_path):
    job = small_job("methods=[sam]", "search.num_trials=2", "budget.target_accuracy=0.5")
    driver = Driver(job, tmp_path)
    driver.search.suggest("a")
    for epoch in range(1, 9):
        driver.recorder.report("a", {"epoch": epoch, "val_accuracy": 0.9, "diverged": 0})
        assert driver.recorder.wind_down.reason is None
    driver.recorder.report("a", {"epoch": 9, "val_accuracy": 0.4, "diverged": 0})
    assert driver.recorder.wind_down.reason is None
    driver.close()


def test_time_is_looked_at_without_a_report_too(tmp_path, monkeypatch):
    now = [1000.0]
    for module in (budget_module, wind_down_module):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    driver = Driver(small_job("methods=[sam]", "budget.hours=1"), tmp_path)
    now[0] += 3599
    driver.recorder.check_budget()
    assert driver.recorder.wind_down.reason is None
    now[0] += 1
    driver.recorder.check_budget()
    assert driver.recorder.wind_down.reason == "budget.hours is reached: 1 of 1"
    now[0] += 60
    driver.recorder.check_budget()
    assert driver.recorder.wind_down.elapsed_s == 60, "it is stopping since then"
    driver.recorder.wind_down.begin("interrupted by SIGINT", "signal")
    assert (driver.recorder.wind_down.kind, driver.recorder.wind_down.elapsed_s) == ("signal", 0)
    driver.close()


T0 = datetime(2026, 1, 1, tzinfo=UTC)


def at(minutes):
    return T0 + timedelta(minutes=minutes)


@given(
    st.lists(
        st.tuples(
            st.integers(1, 50),
            st.lists(st.integers(1, 20) | st.sampled_from([-60, 30_000_000]), max_size=4),
            st.integers(1, 20) | st.none(),
        ),
        max_size=6,
    )
)
def test_hours_of_any_sessions(sessions):
    """A pause, the gaps between reports, and the time to the stop (None: killed); a clock that is set counts for 0."""
    minute, events, reports, expected = 0, [], [], 0

    def happens(kind):
        events.append({"kind": kind, "after": len(reports), "happened_at": at(minute)})

    for pause, gaps, stop in sessions:
        minute += pause
        happens("checkpoint")  # no other event counts
        happens("start")
        for gap in gaps:
            minute += gap
            reports.append({"seq": len(reports) + 1, "reported_at": at(minute)})
        if stop is not None:
            minute += stop
            happens("stop")
        expected += sum(gap for gap in gaps if 0 < gap < 100) + (stop or 0)
    assert hours_before(events, reports) == pytest.approx(expected / 60)
