"""Another rule over a record: exact where the curves are whole, and honest where they are not."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import IN_MEMORY
from simulated_search import Driver, Trials, small_job

from tune_jobs.stopping.asha import Rule, Rungs
from tune_jobs.stopping.hindsight import outcomes

TRUNK = "init.trunk={fraction: 0.4, params: {lr: 0.001}}"  # 4 of 9 epochs


def search(asha, seed, num_slots=1, failing=0.0, num_trials=6, *sets):
    """The ledger's trials and reports of a whole search with this `asha`, and its rule."""
    job = small_job(
        "methods=[sam, base]", "search.sampler=random", f"search.num_trials={num_trials}", f"asha={asha}",
        "failures.max_retries=0", "train.schedule=constant", *sets,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        trials = Trials(seed, diverging=failing, failing=failing)
        driver = Driver(job, Path(folder), trials, num_slots=num_slots, seed=seed).run()
        record = driver.ledger.trials(), driver.ledger.reports()
        driver.close()
    return *record, Rule.of_job(job.model_dump(mode="json"))


def spent(trials, reports):
    epochs = {}
    for report in reports:
        study = next(trial["study"] for trial in trials if trial["trial_id"] == report["trial_id"])
        epochs[study] = epochs.get(study, 0) + 1
    return epochs


ASHA = st.fixed_dictionaries(
    {
        "rule": st.sampled_from(["asha", "i_epoch"]),
        "grace_epochs": st.integers(1, 8),
        "reduction_factor": st.integers(2, 4),
        "protect_top": st.integers(0, 3),
    }
)


@settings(max_examples=8)
@given(ASHA, st.integers(0, 2**31), st.sampled_from([0.0, 0.05]), st.sampled_from([(), (TRUNK,)]))
def test_whole_curves_tell_exactly_what_a_rule_would_have_done(asha, seed, failing, sets):
    """With one slot no rule changes the order of reports, so the search under it can be run for comparison."""
    trials, reports, _ = search({**asha, "immortal_fraction": 1.0}, seed, 1, failing, 6, *sets)
    real_trials, real_reports, rule = search(asha, seed, 1, failing, 6, *sets)
    found = {outcome.study: outcome for outcome in outcomes(rule, trials, reports)}
    real = spent(real_trials, real_reports)
    assert {study: outcome.least_epochs for study, outcome in found.items() if outcome.least_epochs} == real
    full = spent(trials, reports)
    for study, outcome in found.items():
        assert outcome.num_unknown == 0
        assert outcome.least_epochs == outcome.most_epochs <= outcome.full_epochs == full.get(study, 0)
        statuses = {t["trial_id"]: t["status"] for t in real_trials if t["study"] == study}
        if outcome.winner is not None:
            assert (outcome.stopped_at is not None) == (statuses[outcome.winner] == "pruned")
            assert outcome.loss is None or outcome.loss >= 0
            assert (outcome.loss is None) == ("completed" not in statuses.values())


@settings(max_examples=8)
@given(ASHA, st.integers(0, 2**31), st.integers(1, 4))
def test_its_own_rule_gives_the_record_back(asha, seed, num_slots):
    trials, reports, rule = search(asha, seed, num_slots, failing=0.03)
    for outcome in outcomes(rule, trials, reports):
        assert outcome.least_epochs == spent(trials, reports)[outcome.study]
        assert outcome.stopped_at is None
        assert outcome.loss in (0, None)


def test_where_the_record_ends_early_the_epochs_are_a_range():
    trials, reports, rule = search({"grace_epochs": 1, "reduction_factor": 4, "protect_top": 0}, 1)
    stopped = [trial["trial_id"] for trial in trials if trial["status"] == "pruned"]
    found = outcomes(replace(rule, enabled=False), trials, reports)
    assert sum(outcome.num_unknown for outcome in found) == len(stopped) > 0
    assert sum(outcome.least_epochs for outcome in found) == len(reports)
    assert sum(outcome.most_epochs for outcome in found) == sum(outcome.full_epochs for outcome in found)


@pytest.mark.parametrize(
    ("keep", "values", "actions"),
    [
        (0, [0.5, 0.4, 0.6, 0.6, 0.55], "csccs"),
        (2, [0.5, 0.4, 0.3, 0.45, 0.5, 0.6], "ccsccc"),
    ],
)
def test_i_epoch_lets_the_best_so_far_go_on(keep, values, actions):
    rungs = Rungs(Rule(10, 3, 2, protect_top=keep, name="i_epoch"))
    assert rungs.rule.milestones == (3,)
    taken = [rungs.judge(str(i), 3, value) for i, value in enumerate(values)]
    assert "".join(decision.action[0] for decision in taken) == actions
    for i, decision in enumerate(taken):
        assert (decision.rung, decision.num_values) == (3, i)
        if i >= max(1, keep):
            assert decision.cutoff == sorted(values[:i])[-max(1, keep)]
    assert rungs.judge("0", 9, 0.0).action == "continue"
