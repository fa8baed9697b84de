"""A study too large for TPE to be told all of: what it is told, and that it still finds what is good."""

import random
from functools import partial

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from tune_jobs.job.load import load_job
from tune_jobs.ledger.writer import Ledger
from tune_jobs.search import large_studies
from tune_jobs.search.folder import SearchFolder
from tune_jobs.search.large_studies import PartialTPESampler, some_of
from tune_jobs.search.recorder import Recorder
from tune_jobs.search.searcher import JobSearch

SPACE = {"x": FloatDistribution(0, 1), "y": FloatDistribution(1e-4, 1, log=True)}


def value_at(x, y):
    return 1 - (x - 0.3) ** 2 - (y - 0.1) ** 2


def told(num, seed=0):
    """Trials of all states, as a search leaves them."""
    rng = random.Random(seed)
    study = optuna.create_study(direction="maximize", sampler=RandomSampler(seed=seed))
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED, TrialState.FAIL)
    for number in range(num):
        params = {"x": rng.random(), "y": 10 ** rng.uniform(-4, 0)}
        state = TrialState.RUNNING if number >= num - 5 else states[number % 4]
        known = {"value": value_at(**params)} if state in (TrialState.COMPLETE, TrialState.PRUNED) else {}
        steps = {1: known["value"]} if known else {}
        study.add_trial(
            create_trial(state=state, params=params, distributions=SPACE, intermediate_values=steps, **known)
        )
    return study.get_trials(deepcopy=False)


@pytest.mark.parametrize("num", [0, 3, 40, 400])
def test_a_small_study_is_told_whole(num):
    trials = told(num)
    known = [one.number for one in trials if one.state is not TrialState.FAIL]
    assert [one.number for one in some_of(trials, 400)] == known


@pytest.mark.parametrize("most", [10, 99, 250])
def test_the_best_and_the_running_stay_and_the_rest_is_spread(most):
    trials = told(1200)
    found = some_of(trials, most)
    numbers = [one.number for one in found]
    assert numbers == sorted(set(numbers))
    ended = [one for one in found if one.state is not TrialState.RUNNING]
    assert len(ended) == most
    assert {one.number for one in found if one.state is TrialState.RUNNING} == set(range(1195, 1200))
    completed = sorted(
        (one for one in trials if one.state is TrialState.COMPLETE), key=lambda one: -one.value
    )
    assert {one.number for one in completed[: min(25, most // 2)]} <= set(numbers)
    for quarter in range(4):
        inside = sum(300 * quarter <= one.number < 300 * (quarter + 1) for one in ended)
        assert abs(inside - most / 4) <= 2 + most / 6


def suggested(num, **settings):
    study = optuna.create_study(direction="maximize", sampler=PartialTPESampler(SPACE, **settings))
    study.add_trials(told(num))
    return study.ask(SPACE).params


def test_a_suggestion_depends_on_what_was_told_and_the_seed_alone():
    first, again, other = (suggested(500, seed=seed, most=100) for seed in (3, 3, 4))
    assert first == again != other
    assert first != suggested(500, seed=3, most=500), "a part is not the whole"


@pytest.mark.parametrize("num", [0, 8, 300])
def test_of_a_small_study_the_suggestion_is_that_of_optunas_own(num):
    study = optuna.create_study(direction="maximize", sampler=TPESampler(seed=5))
    study.add_trials(told(num))
    assert suggested(num, seed=5, most=300) == study.ask(SPACE).params


def test_suggestions_from_a_part_are_as_good():
    def mean(most):
        points = [suggested(300, seed=seed, most=most) for seed in range(12)]
        return sum(value_at(**point) for point in points) / len(points)

    known = [one.value for one in told(300) if one.value is not None]
    at_random = sum(known) / len(known)
    whole, part = mean(300), mean(60)
    assert part > whole - 0.02 > at_random


CONDITIONAL = (
    "space.train.base_optimizer={choice: [sgd, adamw]}",
    "space.momentum={uniform: [0.5, 0.99], when: {train.base_optimizer: sgd}}",
)


def test_a_search_goes_on_in_the_same_way_when_it_is_rebuilt(tmp_path, monkeypatch):
    """With the limit lowered: past it, and after a resume past it, suggestions are those of one session."""
    monkeypatch.setattr(large_studies, "PartialTPESampler", partial(PartialTPESampler, most=12))
    job = load_job(
        "digits", ["architectures=[resnet8]", "methods=[zsharp]", "search.num_trials=40", *CONDITIONAL]
    )

    def play(folder, sessions):
        points, number = [], 0
        for last in sessions:
            opened = Ledger.open(folder) if number else Ledger.create(folder, job.model_dump(mode="json"), {})
            with opened as ledger:
                recorder = Recorder(job, ledger, SearchFolder(folder))
                search = JobSearch(job, recorder)
                while number < last:
                    config = search.suggest(f"ray{number}")
                    points.append(config["params"])
                    accuracy = 0.5 + 0.4 * config["params"]["q_p"] - abs(config["params"]["rho"] - 0.1)
                    for epoch in range(1, job.train.epochs + 1):
                        row = {"epoch": epoch, "val_accuracy": accuracy, "val_loss": 1.0, "diverged": 0}
                        decision = recorder.report(f"ray{number}", row)
                        search.on_report(f"ray{number}", row)
                        if decision.action != "continue":
                            break
                    search.on_trial_complete(f"ray{number}", row)
                    number += 1
        return points

    whole = play(tmp_path / "whole", [30])
    assert len({str(point) for point in whole}) == 30
    assert play(tmp_path / "parts", [14, 25, 30]) == whole
