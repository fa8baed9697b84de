"""The control presets answer the questions that docs/controls.md says they do, and its examples run."""

import contextlib
import io
import re
from itertools import combinations
from pathlib import Path

import ledgers
import optuna
import pytest

from tune_jobs.job.load import load_job
from tune_jobs.job.space import to_optuna
from tune_jobs.ledger.rows import Decision
from tune_jobs.ledger.writer import Ledger
from tune_jobs.results.statistics import smallest_n
from tune_jobs.results.write import export
from tune_jobs.search.plan import make_plan
from tune_jobs.search.samplers import sampler_of
from zsharp.optim import METHODS

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "controls.md").read_text()
REPEATED = ("mask_controls", "radius_controls", "qp_ablation")
ON_DIGITS = [
    "data={name: digits, val_fraction: 0.2}",
    "architectures=[resnet8, vit_tiny]",
    "train.batch_size=64",
]


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", REPEATED)
def test_every_setting_is_repeated_often_enough_to_tell_all_pairs_apart(name):
    job = load_job(name)
    assert not job.asha.enabled
    assert job.search.sampler == "grid"
    num_settings = len(job.methods) * job.search.num_configurations
    assert job.search.seeds >= smallest_n(num_settings)
    assert job.search.num_trials == job.search.num_configurations * job.search.seeds
    (fewer,) = re.findall(r"fewer than (\w+)", job_text(name))
    numbers = "zero one two three four five six seven eight nine ten"
    assert numbers.split().index(fewer) == smallest_n(num_settings)


def job_text(name):
    lines = (ROOT / "tune_jobs" / "job" / "presets" / f"{name}.yaml").read_text().splitlines()
    return " ".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))


@pytest.mark.parametrize("name", [*REPEATED, "transfer"])
def test_it_could_run_on_the_digits_and_nothing_would_be_stopped(name, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    plan = make_plan(load_job(name, ON_DIGITS))
    most = sum(study.max_epochs for study in plan.studies)
    assert plan.spend_random.low == plan.spend_random.high == most


def test_masks_differ_in_nothing_but_the_filter():
    job = load_job("mask_controls")
    rows = [METHODS[method] for method in job.methods]
    assert [row.rules.filter for row in rows] == ["none", "zscore", "magnitude", "random"]
    rules = {(row.rules.ascent, row.rules.threshold, row.rules.norm, row.rules.one_dim) for row in rows}
    assert len(rules) == 1
    specs = [job.trial_spec(study, {}, 3) for study in job.studies()[:4]]
    assert {spec.params["rho"] for spec in specs} == {0.05}
    assert [spec.params.get("q_p") for spec in specs] == [None, 0.95, 0.95, 0.95]
    assert {spec.train.seed for spec in specs} == {3}


def test_radii_and_masks_differ_one_at_a_time():
    job = load_job("radius_controls")
    rows = {method: METHODS[method] for method in job.methods}
    keys = {
        name: ("q_p" in row.defaults, row.rules.norm, row.radius != "rho" or row.rules.norm == "layer")
        for name, row in rows.items()
    }
    table = re.findall(
        r"^\| `(\w+)` \| (none|top 5 %.*?) \| (all|each) .*? \| (about )?rho( \* sqrt\(L\))? \|$",
        DOCS,
        re.MULTILINE,
    )
    said = {
        name: (mask != "none", {"all": "global", "each": "layer"}[norm], bool(is_long))
        for name, mask, norm, _, is_long in table
    }
    assert said == keys

    def num_differences(a, b):
        return sum(x != y for x, y in zip(keys[a], keys[b], strict=True))

    assert num_differences("zsharp_official", "sam") == 3
    pairs = ["zsharp sam", "zsharp_official layer_sam", "layer_sam sam_sqrt_l", "sam_sqrt_l sam"]
    assert [num_differences(*pair.split()) for pair in pairs] == [1, 1, 1, 1]


def test_the_ablation_has_the_papers_values_and_sam():
    job = load_job("qp_ablation")
    (study, _) = job.studies()
    assert study.parameters == ("q_p",)
    assert job.space["q_p"].choice == (0, 0.5, 0.75, 0.9, 0.95, 0.99)


def test_transfer_shares_its_configurations():
    job = load_job("transfer")
    assert job.search.shared_configurations
    assert not job.asha.enabled
    by_method = {}
    for study in job.studies():
        distributions = {name: to_optuna(job.space[name]) for name in study.parameters}
        asked = optuna.create_study(sampler=sampler_of(job, study, 5)).ask(distributions)
        by_method.setdefault(study.method, []).append(asked.params)
    assert [list(points[0]) for points in by_method.values()] == [["q_p", "rho", "lr"], ["rho", "lr"]]
    assert all(points == [points[0]] * 3 for points in by_method.values())


def test_the_examples_of_the_documentation_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mask_controls", "qp_ablation", "transfer"):
        write_results(tmp_path / "results" / name, name)
    printed = []
    for code in blocks("python"):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(code, {})
        printed.append(out.getvalue())
    masks, ablation, transferred = printed
    assert masks.count("Summary(n=10") == 8
    verdicts = re.findall(r"^(\w+) (\w+) (\w+) (\S+) 0.0117\d* (a|b) better$", masks, re.MULTILINE)
    assert len(verdicts) == 2 * 6
    pairs = {(architecture, *(a, b)[:: 1 if side == "a" else -1]) for architecture, a, b, _, side in verdicts}
    order = ("zsharp", "magnitude_sam", "random_sam", "sam")
    assert pairs == {(name, *pair) for name in ("resnet20", "vit_tiny") for pair in combinations(order, 2)}
    assert len(ablation.splitlines()) == 12
    assert all(line.split()[2] == "10" for line in ablation.splitlines())
    assert "resnet8" in transferred
    assert "rank_correlation" in transferred


def write_results(folder, preset):
    """A finished search of the preset, each value made of its method, its parameters and its seed."""
    job = load_job(preset, ["search.num_trials=6"] if preset == "transfer" else [])
    folder.parent.mkdir(exist_ok=True)
    merit = dict(zip(("zsharp", "magnitude_sam", "random_sam", "sam"), (0.9, 0.8, 0.7, 0.6), strict=True))
    with Ledger.create(folder, job.model_dump(mode="json"), {}) as ledger:
        for study in job.studies():
            for number in range(job.search.num_trials):
                configuration = number % job.search.num_configurations
                params = dict.fromkeys(study.parameters, 0.1 + 0.05 * configuration)
                trial_id = ledgers.start_of(ledger, job, study, number, params)
                seed = job.trial_spec(study, params, number).train.seed
                value = merit[study.method] + 0.001 * seed + 0.01 * configuration
                ledger.report(trial_id, 1, {"val_accuracy": value}, Decision("continue"))
                ledger.finish_trial(trial_id, "completed", "because")
    export(folder)
