"""A recorded search decides again as it did, whatever was changed in it is found, and rungs come back as they were."""

import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from ledgers import IN_MEMORY
from simulated_search import Driver, Trials, small_job

from tune_jobs.ledger.writer import Ledger
from tune_jobs.search.checkpoints import Checkpoints
from tune_jobs.search.extend import reopen_for_more_epochs
from tune_jobs.search.folder import SearchFolder
from tune_jobs.search.recorder import Recorder
from tune_jobs.stopping.asha import Rule
from tune_jobs.stopping.replay import replay, rungs_at_end

SEARCHES = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**31),
        "rule": st.sampled_from(["asha", "asha", "i_epoch"]),
        "num_slots": st.integers(1, 5),
        "num_trials": st.integers(1, 8),
        "factor": st.integers(2, 4),
        "grace": st.integers(1, 9),
        "protect_top": st.integers(0, 3),
        "immortal": st.sampled_from([0.0, 0.3, 1.0]),
        "retries": st.integers(0, 2),
        "diverging": st.sampled_from([0.0, 0.05]),
        "failing": st.sampled_from([0.0, 0.05, 0.15]),
    }
)


def job_of(search, *sets):
    asha = {
        "rule": search.get("rule", "asha"),
        "grace_epochs": search["grace"],
        "reduction_factor": search["factor"],
    }
    asha |= {"protect_top": search["protect_top"], "immortal_fraction": search["immortal"]}
    return small_job(
        "search.sampler=random", f"search.num_trials={search['num_trials']}", "train.schedule=constant",
        f"failures.max_retries={search['retries']}", f"asha={asha}", *sets,
    )  # fmt: skip


def driver_of(search, folder, job):
    trials = Trials(search["seed"], search["diverging"], search["failing"])
    return Driver(job, folder, trials, num_slots=search["num_slots"], seed=search["seed"])


def rules(ledger):
    return [(after, Rule.of_job(job)) for after, job in ledger.jobs()]


def assert_replays(driver):
    """The record has no differences, and rungs made from it equal those the search had at its end."""
    ledger = driver.ledger
    assert replay(rules(ledger), ledger.trials(), ledger.reports()) == []
    again = rungs_at_end(rules(ledger)[-1][1], ledger.trials(), ledger.reports())
    assert again.items() <= driver.recorder.rungs.items()
    assert Recorder(driver.recorder.job, ledger, driver.recorder.folder).rungs == driver.recorder.rungs


@given(SEARCHES, st.integers(0, 250) | st.none())
def test_any_search_replays_at_any_moment(search, num_steps):
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        driver = driver_of(search, Path(folder), job_of(search)).run(num_steps)
        assert_replays(driver)
        driver.close()


@given(SEARCHES, st.integers(0, 250) | st.none(), st.integers(1, 30))
def test_also_after_an_extension_to_more_epochs(search, num_steps, more):
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as name:
        folder = Path(name)
        driver_of(search, folder, job_of(search)).run(num_steps).close()
        longer = job_of(search, f"train.epochs={9 + more}")
        with Ledger.open(folder) as ledger:
            for trial in ledger.trials()[::2]:  # as if the checkpoints of the others were gone
                file = folder / "checkpoints" / f"{trial['trial_id']}.pt"
                file.parent.mkdir(exist_ok=True)
                file.touch()
            completed = [trial["trial_id"] for trial in ledger.trials() if trial["status"] == "completed"]
            kept = [one for one in completed if (folder / "checkpoints" / f"{one}.pt").exists()]
            ledger.extend(longer.model_dump(mode="json"))
            reopen_for_more_epochs(longer, ledger, Checkpoints(SearchFolder(folder)))
            reopened = [trial["trial_id"] for trial in ledger.trials() if trial["status"] is None]
            assert set(reopened) & set(completed) == set(kept)
        driver = driver_of(search, folder, longer).run()
        assert_replays(driver)
        lengths = {trial.trial_id: trial.epoch for trial in driver.recorder.trials.values()}
        for trial in driver.ledger.trials():
            if trial["status"] == "completed":
                assert lengths[trial["trial_id"]] == trial["max_epochs"]
                assert trial["max_epochs"] == (
                    9 if trial["trial_id"] in set(completed) - set(kept) else 9 + more
                )
        assert {trial.status for trial in driver.recorder.trials.values()} <= {
            "completed", "pruned", "diverged", "failed"
        }  # fmt: skip
        driver.close()


@given(
    seed=st.integers(0, 2**31),
    place=st.floats(0, 0.999),
    change=st.sampled_from(["decision", "rung", "cutoff", "num_values", "reason", "val_accuracy"]),
)
def test_one_changed_entry_is_found(seed, place, change):
    """In a value of the ledger's, at any report: the report itself is named, and for a value one that it decided."""
    search = {"seed": seed, "num_slots": 3, "num_trials": 6, "factor": 2, "grace": 1, "protect_top": 0}
    search |= {"immortal": 0.0, "retries": 0, "diverging": 0.02, "failing": 0.02}
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        driver = driver_of(search, Path(folder), job_of(search)).run()
        trials, reports, rule = driver.ledger.trials(), driver.ledger.reports(), rules(driver.ledger)
        driver.close()
    judged = [report for report in reports if report["cutoff"] is not None]
    chosen = judged[int(place * len(judged))]
    wrong = {
        "decision": "stop" if chosen["decision"] == "continue" else "continue",
        "rung": 7,
        "cutoff": chosen["cutoff"] + 1e-9,
        "num_values": chosen["num_values"] + 1,
        "reason": chosen["reason"] + ".",
        "val_accuracy": -1.0 if chosen["decision"] == "continue" else 2.0,
    }[change]
    tampered = [dict(report, **{change: wrong}) if report is chosen else report for report in reports]
    found = replay(rule, trials, tampered)
    first = found[0]
    assert (first.trial_id, first.epoch) == (chosen["trial_id"], chosen["epoch"])
    if change != "val_accuracy":
        assert len(found) == 1
        assert first.replayed == replace(first.recorded, **{_FIELD.get(change, change): chosen[change]})


_FIELD = {"decision": "action"}


def test_another_rule_than_the_recorded_one_decides_otherwise(tmp_path):
    job = small_job("search.sampler=random", "search.num_trials=12", "methods=[sam]", "asha.protect_top=0")
    driver = Driver(job, tmp_path, num_slots=3).run()
    ledger = driver.ledger
    ((_, rule),) = rules(ledger)
    for change in ({"reduction_factor": 2}, {"protect_top": 3}, {"enabled": False}):
        assert replay([(0, replace(rule, **change))], ledger.trials(), ledger.reports())
    driver.close()


def test_a_failed_trial_counts_from_the_moment_it_failed(tmp_path):
    """Its zero in the rung lowers the cutoff of those who come later, and of nobody before."""
    job = small_job("methods=[sam]", "search.num_trials=4", "failures.max_retries=0", "asha.protect_top=0")
    driver = Driver(job, tmp_path)
    recorder, search = driver.recorder, driver.search
    for ray_id in "abcd":
        search.suggest(ray_id)

    def report(ray_id, value):
        return recorder.report(ray_id, {"epoch": 1, "val_accuracy": value, "diverged": 0})

    assert report("a", 0.9).action == "continue"
    before = report("b", 0.5)
    recorder.fail("c", "ValueError")
    after = report("d", 0.7)
    assert (before.action, before.num_values) == ("stop", 1)
    assert (after.action, after.num_values) == ("continue", 3)
    assert_replays(driver)
    trials, reports = driver.ledger.trials(), driver.ledger.reports()
    trials[2]["ended_after"] = 1
    assert [one.trial_id for one in replay(rules(driver.ledger), trials, reports)] == ["resnet8-sam-0001"]
    driver.close()
