"""What a plan says, against hand computations, the real splits, and a ledger as long as the plan's longest."""

import io
import tempfile
from pathlib import Path

import ledgers
import pytest
from rich.console import Console

from tune_jobs.errors import JobError
from tune_jobs.job.load import dump_job, load_job
from tune_jobs.ledger.rows import METRICS, Decision
from tune_jobs.ledger.writer import Ledger
from tune_jobs.provenance import provenance
from tune_jobs.results.write import export
from tune_jobs.search.plan import make_plan, render_plan
from zsharp.training import Training


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """These plans are for this machine: tests that ran before may have left a connection to a cluster of theirs."""
    monkeypatch.setattr("tune_jobs.cluster.ray.is_running_elsewhere", lambda: False)


def rendered(plan, width=100):
    console = Console(file=io.StringIO(), width=width)
    console.print(render_plan(plan))
    return console.file.getvalue().splitlines()


def test_digits_by_hand():
    plan = make_plan(load_job("digits"))
    assert [study.name for study in plan.studies] == [
        *("resnet8-zsharp", "resnet8-sam", "resnet8-base"),
        *("vit_tiny-zsharp", "vit_tiny-sam", "vit_tiny-base"),
    ]
    # 1,438 training images, of which a fifth (287.6) is held out: 1,150 make 17 batches of 64.
    assert {study.steps_per_epoch for study in plan.studies} == {17}
    assert [study.gradient_evaluations_per_epoch for study in plan.studies] == [34, 34, 17] * 2
    assert {(study.num_trials, study.max_epochs) for study in plan.studies} == {(8, 160)}
    # Every trial trains its five epochs of grace.
    for band in (plan.spend_random, plan.spend_improving):
        assert 6 * 8 * 5 <= band.low <= band.median <= band.high <= 960
    assert plan.folder == "results/digits"
    assert (
        make_plan(load_job("digits", ["storage=/data", "name=mine", "search.num_trials=1"])).folder
        == "/data/mine"
    )


@pytest.mark.parametrize(
    "sets",
    [
        ["data.max_images=333", "train.batch_size=40"],
        ["data.max_images=400", "data.val_fraction=0.35", "train.batch_size=37"],
        ["data.val_fraction=0.0123", "train.batch_size=1000"],
    ],
)
def test_steps_and_evaluations_are_those_of_training(sets):
    job = load_job("digits", ["methods=[zsharp, base]", "architectures=[resnet8]", "train.epochs=4", *sets])
    for planned, study in zip(make_plan(job).studies, job.studies(), strict=True):
        report = Training(job.trial_spec(study, dict.fromkeys(study.parameters, 0.01))).run_epoch()
        assert report["gradient_evaluations"] == planned.gradient_evaluations_per_epoch


def test_finalists_and_their_trunks_are_planned():
    trunk = "init.trunk={fraction: 0.8, params: {lr: 0.001}}"
    plan = make_plan(
        load_job(
            "digits", ["architectures=[resnet8]", "search.finalists=4", "search.finalist_seeds=2", trunk]
        )
    )
    planned = {study.name: (study.num_trials, study.max_epochs) for study in plan.studies}
    assert planned["resnet8-trunk"] == (3, 3 * 16)
    assert planned["resnet8-sam"] == planned["resnet8-sam-finalists"] == (8, 8 * 4)
    assert plan.spend_random.low >= 3 * 16 + 3 * 8 * 4, "none of these is stopped"
    assert "3 studies, 24 trials, at most 240 epochs." in rendered(plan)


def test_what_is_printed_is_readable_at_100_columns():
    lines = rendered(make_plan(load_job("digits"), "there"))
    assert lines[0].split("  ")[0].strip() == "study"
    assert [line.split() for line in lines[1:7] if "base" in line] == [
        ["resnet8-base", "8", "160", "17", "2,720"],
        ["vit_tiny-base", "8", "160", "17", "2,720"],
    ]
    assert lines[7] == ""
    assert lines[8] == "6 studies, 48 trials, at most 960 epochs."
    assert lines[9].startswith("Early stopping, simulated, leaves ")
    assert lines[10].startswith("If the sampler gets better as it goes, it leaves ")
    data = "Data: digits, 1,150 images to train on, 288 to validate on and 359 for the test, in 10 classes."
    assert data in lines
    assert lines[-2].startswith("Resources: ")
    assert lines[-2].endswith(" at once.")
    assert len(set(lines)) == len(lines)
    assert lines[-1].startswith("Storage: at most ")
    assert lines[-1].endswith(" MB of checkpoints in there")
    sentences = lines[8:-1]
    assert all(line.endswith(".") and ". " not in line for line in sentences), "one sentence a line"


def test_one_study_without_early_stopping():
    job = load_job(
        "digits", ["architectures=[resnet8]", "methods=[base]", "search.num_trials=1", "asha.enabled=false"]
    )
    lines = rendered(make_plan(job))
    assert lines[3:5] == ["1 study, 1 trial, at most 20 epochs.", "No trial would be stopped early."]


def test_the_largest_plan_is_readable_too(monkeypatch):
    monkeypatch.setattr("tune_jobs.stopping.simulate._MOST_IN_ALL", 1_000)
    one = ["architectures=[resnet8]", "methods=[zsharp]"]
    largest = ["search.num_trials=640", "train.epochs=1000000", "asha.grace_epochs=900000"]
    lines = rendered(make_plan(load_job("digits", [*one, *largest])))
    assert max(map(len, lines)) <= 100
    assert len(lines) == len(rendered(make_plan(load_job("digits", one)))), "no line was broken"
    assert "1 study, 640 trials, at most 640,000,000 epochs." in lines


def test_folders_and_names_are_not_taken_for_markup():
    lines = rendered(make_plan(load_job("digits", ["methods=[base]"]), "[bold]here:smile:"))
    assert lines[-1].endswith(" in [bold]here:smile:")


@pytest.mark.parametrize(
    "change", ["train.batch_size=5000", "architectures=[vgg16_bn]", "data.max_images=9999"]
)
def test_a_job_that_could_not_run_has_no_plan(change):
    with pytest.raises(JobError):
        make_plan(load_job("digits", [change]))


@pytest.mark.parametrize(("trials", "epochs"), [(2, 1), (5, 40)])
def test_storage_is_an_upper_bound_and_not_far_off(trials, epochs):
    """All trials at full fidelity, every metric a float of full length, decisions with reasons and cutoffs."""
    job = load_job(
        "digits",
        [
            f"search.num_trials={trials}",
            f"train.epochs={epochs}",
            "train.warmup_epochs=0",
            "asha.grace_epochs=1",
        ],
    )
    with tempfile.TemporaryDirectory(dir=ledgers.IN_MEMORY) as name:
        folder = Path(name)
        with Ledger.create(folder, job.model_dump(mode="json"), provenance(())) as ledger:
            for study in job.studies():
                for number in range(trials):
                    write_trial(ledger, job, study, number)
        (folder / "job.yaml").write_text(dump_job(job))
        export(folder)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        planned = make_plan(job, folder).storage_bytes
    assert size <= planned <= 5 * size


def write_trial(ledger, job, study, number):
    epochs = job.train.epochs
    name = ledgers.start_of(ledger, job, study, number, dict.fromkeys(study.parameters, 0.123456789012345))
    for epoch in range(1, epochs + 1):
        shift = (number * epochs + epoch) / 7
        measured = {
            metric: {float: 0.1234567890123 * shift, int: 10**9 + epoch, str: "NVIDIA H100 80GB HBM3"}[kind]
            for metric, kind in METRICS.items()
        }
        reason = "0.1234 reaches the cutoff 0.1234"
        ledger.report(
            name, epoch, measured, Decision("continue", epoch, 0.123456789012345 * shift, 7, reason)
        )
    ledger.finish_trial(name, "completed", "reached full fidelity")
