"""Which configurations a study tries with which seed: grids, repeats, and configurations that studies share."""

from itertools import product

import optuna
import pytest

from tune_jobs.errors import JobError
from tune_jobs.job.load import load_job
from tune_jobs.job.space import Choice, grid_point, grid_size, suggest, to_optuna
from tune_jobs.search.samplers import sampler_of

GRID = "space={q_p: {choice: [0.5, 0.9]}, rho: 0.05, lr: {choice: [0.01, 0.001, 0.1]}}"


def suggestions(job, study, numbers=None):
    """What Optuna is asked for, trial by trial; those before are told as completed."""
    asked = []
    search = optuna.create_study()
    for number in range(job.search.num_trials) if numbers is None else numbers:
        search.sampler = sampler_of(job, study, number)
        trial = search.ask({name: to_optuna(job.space[name]) for name in study.parameters})
        search.tell(trial, 0.5 + number / 1000)
        asked.append(dict(trial.params))
    return asked


def grid_job(*sets):
    return load_job("digits", ["search={num_trials: 6, sampler: grid}", GRID, "methods=[zsharp]", *sets])


def test_the_nth_suggestion_of_a_grid_is_its_nth_point():
    job = grid_job()
    points = [{"q_p": q_p, "lr": lr} for q_p, lr in product((0.5, 0.9), (0.01, 0.001, 0.1))]
    for study in job.studies():
        assert suggestions(job, study) == points
        assert suggestions(job, study, [4, 0]) == [points[4], points[0]], "whatever came before"
        spec = job.trial_spec(study, points[4], 4)
        assert spec.params == {"q_p": 0.9, "rho": 0.05, "lr": 0.001}
        assert spec.train.seed == 0


def test_points_of_a_grid_are_those_of_the_product():
    axes = {"a": (1.0, 2.0), "b": (3.0, 4.0, 5.0), "c": (6.0,)}
    choices = {name: Choice(choice=values) for name, values in axes.items()}
    assert grid_size(choices) == 6
    points = [grid_point(choices, number) for number in range(6)]
    assert points == [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    assert (grid_size({}), grid_point({}, 0)) == (1, {})


def test_a_grid_has_only_the_combinations_whose_conditions_hold():
    sets = [
        "space={lr: 0.1, train.augment.cutout: {int: [0, 1]}}",
        "space.momentum={choice: [0.5, 0.9], when: {train.base_optimizer: sgd}}",
        "space.train.base_optimizer={choice: [adamw, sgd]}",
    ]
    job = load_job("digits", ["search={num_trials: 6, sampler: grid}", "methods=[base]", *sets])
    study = job.studies()[0]
    points = []
    for number in range(6):
        search = optuna.create_study(sampler=sampler_of(job, study, number))
        trial = search.ask()
        points.append(job.draw(study, lambda name, drawn, trial=trial: suggest(trial, name, drawn)))
    assert points == [
        {"lr": 0.1, "train.augment.cutout": cutout, **rest}
        for cutout in (0, 1)
        for rest in (
            {"train.base_optimizer": "adamw"},
            {"train.base_optimizer": "sgd", "momentum": 0.5},
            {"train.base_optimizer": "sgd", "momentum": 0.9},
        )
    ]


def test_every_round_of_a_repeated_grid_has_the_next_seed():
    job = grid_job("search.num_trials=18", "search.seeds=3", "train.seed=40")
    (study, _) = job.studies()
    suggested = suggestions(job, study)
    assert suggested[:6] == suggested[6:12] == suggested[12:]
    assert len({str(point) for point in suggested}) == 6
    seeds = [job.trial_spec(study, point, number).train.seed for number, point in enumerate(suggested)]
    assert seeds == [40] * 6 + [41] * 6 + [42] * 6
    more = grid_job("search.num_trials=24", "search.seeds=4", "train.seed=40")
    assert suggestions(more, study)[:18] == suggested, (
        "another seed comes last, so that a search can be extended"
    )
    assert more.trial_spec(study, suggested[7], 7) == job.trial_spec(study, suggested[7], 7)


def test_random_configurations_are_repeated_too():
    job = load_job("digits", ["search={num_trials: 8, sampler: random, seeds: 2}"])
    for study in job.studies():
        suggested = suggestions(job, study)
        assert suggested[:4] == suggested[4:]
        assert len({str(point) for point in suggested}) == 4
        assert [job.trial_spec(study, suggested[n], n).train.seed for n in range(8)] == [0] * 4 + [1] * 4


def test_one_configuration_is_repeated_with_every_seed():
    job = load_job(
        "digits", ["space={lr: 0.01, rho: 0.1, q_p: 0.9}", "search={num_trials: 3, seeds: 3, sampler: grid}"]
    )
    for study in job.studies():
        assert study.parameters == ()
        assert [job.trial_spec(study, {}, n).train.seed for n in range(3)] == [0, 1, 2]


def test_studies_share_their_configurations_only_if_asked():
    first = "first_points: [{rho: 0.05}]"
    alone = load_job("digits", [f"search={{num_trials: 5, sampler: random, {first}}}"])
    shared = load_job(
        "digits", [f"search={{num_trials: 5, sampler: random, shared_configurations: true, {first}}}"]
    )
    for job in (alone, shared):
        by_study = {study.name: suggestions(job, study) for study in job.studies()}
        for method in job.methods:
            same = by_study[f"resnet8-{method}"] == by_study[f"vit_tiny-{method}"]
            assert same == (job is shared)
            assert len({str(point) for point in by_study[f"resnet8-{method}"]}) == 5
    (study, *_) = shared.studies()
    assert suggestions(shared, study, [3]) == [suggestions(shared, study)[3]]
    assert suggestions(load_job("digits", ["search.num_trials=5", "search.sampler=random"]), study) == (
        suggestions(alone, study)
    ), "and the default is what it was"


RANDOM, ONE = "search.sampler=random", "methods=[zsharp]"
NO_FIRST_POINTS = "search.first_points=[]"
PROBLEMS = {  # changes, the line's beginning, its words
    "tpe repeated": (["search.seeds=2", NO_FIRST_POINTS], "search.sampler: 'tpe'", "valid: random, grid"),
    "gp shared": (
        ["search.sampler=gp", "search.shared_configurations=true"], "search.sampler: 'gp'", "random, grid",
    ),
    "not a multiple": ([RANDOM, "search.seeds=3", NO_FIRST_POINTS], "search.num_trials: 8", "which is 3"),
    "more seeds than trials": (
        [RANDOM, "search.seeds=9", NO_FIRST_POINTS], "search.num_trials: 8", "which is 9",
    ),
    "first points repeated": ([RANDOM, "search.seeds=2"], "search.first_points", "search.repeats above 1"),
    "first points in a grid": (
        [GRID, "search={num_trials: 6, sampler: grid, first_points: [{lr: 0.1}]}", ONE],
        "search.first_points", "the grid sampler",
    ),
    "a grid of a range": (["search={num_trials: 8, sampler: grid}"], "space.lr", "a plain number"),
    "too few trials": (
        [GRID, "search={num_trials: 5, sampler: grid}", ONE], "search.num_trials: 5", "6 points, which",
    ),
    "too many trials": (
        [GRID, "search={num_trials: 20, sampler: grid, seeds: 2}", ONE], "search.num_trials: 20", "12 trials",
    ),
    "a method with a smaller grid": (
        [GRID, "search={num_trials: 6, sampler: grid}", "methods=[zsharp, base]"],
        "search.num_trials: 6", "the grid of method base has 3 points",
    ),
    "one point many times": (
        ["space={lr: 0.1}", "search={num_trials: 4, sampler: grid}", "methods=[base]"],
        "search.num_trials: 4", "has 1 point, which",
    ),
    "a grid of too many whole numbers": (
        ["space={lr: 0.1, train.batch_size: {int: [1, 2000]}}", "search={num_trials: 8, sampler: grid}"],
        "space.train.batch_size", "at most 1000",
    ),
    "no seeds": (["search.seeds=0"], "search.repeats: 0", "at least 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", PROBLEMS)
def test_what_cannot_be_is_said(case):
    sets, where, what = PROBLEMS[case]
    with pytest.raises(JobError) as refused:
        load_job("digits", sets)
    lines = [line for line in str(refused.value).splitlines() if where in line]
    assert len(lines) == 1, refused.value
    assert what in lines[0]


def test_a_grid_as_large_as_its_trials_is_valid_for_all_its_methods():
    sets = ["space={q_p: 0.9, lr: {choice: [0.1, 0.2]}}", "search={num_trials: 4, sampler: grid, seeds: 2}"]
    assert len(load_job("digits", sets).studies()) == 6
