"""Which winners are confirmed, with which seeds, for how long, and what need not be trained again."""

import io

import ledgers
import pytest
from rich.console import Console

from tune_jobs.cli.confirming import Confirming, describe
from tune_jobs.confirmation.forecast import Countdown, Outlook, expected_seconds, suggest_confirmation
from tune_jobs.confirmation.plan import done_already, num_compared, plan_confirmations, result_row, winners
from tune_jobs.errors import JobError
from tune_jobs.job.load import load_job
from tune_jobs.job.metric import Metric
from tune_jobs.ledger.rows import Decision
from tune_jobs.ledger.writer import Ledger
from tune_jobs.results.read import read_results
from tune_jobs.results.statistics import compare_methods
from tune_jobs.results.write import export


def search(folder, accuracies, *sets, epochs=4):
    """A ledger with trials of resnet8 and two methods that reached these validation accuracies, or were pruned."""
    small = ("architectures=[resnet8]", "methods=[sam, base]", f"train.epochs={epochs}")
    job = load_job("digits", [*small, "search.first_points=[]", *sets])
    ledger = Ledger.create(folder, job.model_dump(mode="json"), {})
    for study in job.studies():
        for number, (accuracy, lr) in enumerate(accuracies):
            params = dict.fromkeys(study.parameters, lr)
            name = ledgers.start_of(ledger, job, study, number, params)
            last = epochs if accuracy is not None else 1
            for epoch in range(1, last + 1):
                measured = {"val_accuracy": 0.99 if accuracy is None else accuracy, "val_loss": 1.0}
                measured |= {"wall_s": 2.0 * epoch, "images_per_s": 500.0}
                end = {1: "pruned", epochs: "completed"}[last] if epoch == last else None
                ledger.report(name, epoch, measured, Decision("stop" if end == "pruned" else "continue"), end)
    return job, ledger


def chosen(job, ledger, top=1):
    return [
        (winner.study.method, winner.rank, winner.trial_id)
        for winner in winners(job, ledger.trials(), ledger.reports(), top)
    ]


def test_winners_are_the_best_at_full_fidelity(tmp_path):
    job, ledger = search(tmp_path, [(0.5, 0.001), (None, 0.002), (0.7, 0.003), (0.6, 0.004)])
    assert chosen(job, ledger) == [("sam", 1, "resnet8-sam-0002"), ("base", 1, "resnet8-base-0002")]
    assert [rank for _, rank, _ in chosen(job, ledger, top=2)] == [1, 2, 1, 2]
    assert chosen(job, ledger, top=9)[2][2] == "resnet8-sam-0000"  # the pruned one is never a winner


def test_winners_by_loss_are_those_with_the_lowest(tmp_path):
    job, ledger = search(tmp_path, [(0.5, 0.001), (0.7, 0.003)], "metric=val_loss", "mode=min")
    # All losses are equal: the first trial, whatever the accuracies.
    assert chosen(job, ledger)[0] == ("sam", 1, "resnet8-sam-0000")
    reports = [{**report, "val_loss": 1 - report["val_accuracy"]} for report in ledger.reports()]
    best = winners(job, ledger.trials(), reports, 1)[0]
    assert (best.trial_id, best.val_accuracy) == ("resnet8-sam-0001", 0.7)
    assert best.value == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("metric", "row", "value", "label"),
    [
        (Metric(), {"test_accuracy": 0.9, "test_loss": 0.3}, 0.9, "test accuracy"),
        (Metric("val_loss", "min"), {"test_accuracy": 0.9, "test_loss": 0.3}, 0.3, "test_loss"),
        (Metric("train_loss", "min"), {"train_loss": 0.1, "test_loss": 0.3}, 0.3, "test_loss"),
        (Metric("val_mae", "min"), {"metric.test_mae": 2.0, "metric.val_mae": 3.0}, 2.0, "test_mae"),
        (Metric("val_mae", "min"), {"metric.val_mae": 3.0, "measured_on": "test"}, 3.0, "test_mae"),
        (
            Metric("val_mae", "min"),
            {"metric.val_mae": 3.0, "measured_on": "validation"},
            3.0,
            "val_mae (validation, no test data)",
        ),
        (Metric("score"), {"metric.val_mae": 3.0, "test_accuracy": None}, None, "test_score"),
    ],
)
def test_a_confirmation_is_compared_by_the_metrics_test_number(metric, row, value, label):
    assert metric.confirmed(row) == (value, label)


def test_a_configuration_tried_with_several_seeds_counts_by_its_mean(tmp_path):
    trials = [(0.9, 0.001), (0.7, 0.002), (0.1, 0.001), (0.6, 0.002)]
    sets = ("search.seeds=2", "search.num_trials=4", "search.sampler=random")
    job, ledger = search(tmp_path, trials, *sets)
    assert chosen(job, ledger)[0] == ("sam", 1, "resnet8-sam-0001")
    assert winners(job, ledger.trials(), ledger.reports(), 1)[0].val_accuracy == pytest.approx(0.65)


def test_seeds_are_fresh_and_common_to_all_methods_and_nothing_is_held_out(tmp_path):
    job, ledger = search(tmp_path, [(0.5, 0.001)], "train.seed=7")
    runs = plan_confirmations(job, ledger, "DIR", 3, 1, "epochs")
    assert [(run.winner.study.method, run.seed) for run in runs] == [
        (method, seed) for seed in (8, 9, 10) for method in ("sam", "base")
    ]
    used = {trial["seed"] for trial in ledger.trials()}
    assert used == {7} and not used & {run.spec.train.seed for run in runs}
    assert {run.spec.data.val_fraction for run in runs} == {0.0}
    assert num_compared(run.winner for run in runs) == 2, "methods, however many seeds each has"
    assert {run.spec.train.epochs for run in runs} == {4}
    assert len({run.key for run in runs}) == 6


def test_equal_gradients_train_the_base_optimizer_twice_as_long(tmp_path):
    job, ledger = search(tmp_path, [(0.5, 0.001)])
    runs = plan_confirmations(job, ledger, "DIR", 1, 1, "gradients")
    assert {run.winner.study.method: run.spec.train.epochs for run in runs} == {"sam": 4, "base": 8}


def test_what_both_budgets_have_in_common_is_trained_once(tmp_path):
    job, ledger = search(tmp_path, [(0.5, 0.001)])
    for run in plan_confirmations(job, ledger, "DIR", 2, 1, "epochs"):
        ledger.confirm(run.key, result_row(run, job, {"status": "completed", "test_accuracy": 0.5}))
    runs = plan_confirmations(job, ledger, "DIR", 2, 1, "gradients")
    copied = list(done_already(runs, ledger.confirmations()))
    assert [(run.winner.study.method, row["budget"]) for run, row in copied] == [("sam", "gradients")] * 2


def test_more_seeds_add_to_those_that_are_done(tmp_path):
    job, ledger = search(tmp_path, [(0.5, 0.001)])
    few, more = ({run.key for run in plan_confirmations(job, ledger, "DIR", n, 1, "epochs")} for n in (2, 5))
    assert few < more


@pytest.mark.parametrize(
    ("methods", "num_seeds"), [("[base]", 6), ("[sam, base]", 6), ("[zsharp, sam, base]", 7)]
)
def test_without_a_number_of_seeds_there_are_as_many_as_can_decide(tmp_path, methods, num_seeds):
    job, ledger = search(tmp_path, [(0.5, 0.001)], f"methods={methods}")
    seeds = {run.seed for run in plan_confirmations(job, ledger, "DIR", None, 1, "epochs")}
    assert len(seeds) == num_seeds
    level = {method: dict.fromkeys(range(num_seeds), number) for number, method in enumerate(job.methods)}
    verdicts = {pair.verdict for pair in compare_methods(level)}
    assert verdicts <= {"b better"}, "so many can decide"


def test_a_part_of_a_search_takes_as_many_seeds_as_it_needs(tmp_path):
    job, ledger = search(
        tmp_path, [(0.5, 0.001)], "methods=[zsharp, sam, base]", "architectures=[resnet8, vit_tiny]"
    )
    runs = plan_confirmations(job, ledger, "DIR", methods=["zsharp", "sam"], architectures=["resnet8"])
    assert {run.winner.study.name for run in runs} == {"resnet8-zsharp", "resnet8-sam"}
    assert len(runs) == 2 * 6
    whole = plan_confirmations(job, ledger, "DIR")
    assert {run.key for run in runs} < {run.key for run in whole}, "what is done counts for all"
    assert suggest_confirmation(ledger, ["zsharp", "sam"]).num_runs == 4 * 6
    for part in ({"methods": ["asam"]}, {"architectures": ["resnet9"]}):
        (name,) = part
        with pytest.raises(JobError, match=f"--{name}: unknown .*valid: "):
            plan_confirmations(job, ledger, "DIR", **part)


def outlook(job, ledger, num_seeds, sharpness_images=0, num_slots=2, num_done=0):
    runs = plan_confirmations(job, ledger, "DIR", num_seeds, 1, "epochs")
    expected, sharpness_s = expected_seconds(job, runs[num_done:], ledger.reports(), sharpness_images)
    countdown = Countdown(expected, num_slots)
    return Outlook(runs, runs[num_done:], num_slots, 6, 2, 0, sharpness_s, countdown)


def test_a_forecast_by_hand(tmp_path):
    job, ledger = search(tmp_path, [(0.5, 0.001)], "data.val_fraction=0.2")
    # An epoch took 2 s, and has a quarter more images: 4 runs of 10 s, two at once, and the start.
    told = outlook(job, ledger, 2)
    assert told.countdown.left_s == pytest.approx(8 + 2 * 10)
    # Of 500 images in 70 gradient evaluations each, 500 a second, SAM trains with two of them an image and base one.
    assert outlook(job, ledger, 2, 500).sharpness_s == pytest.approx(2 * 35 + 2 * 70)
    suggestion = suggest_confirmation(ledger)
    assert (suggestion.num_seeds, suggestion.num_runs, suggestion.seconds) == (6, 12, None)
    ledger.record_event("start", {"slots": 3})
    assert suggest_confirmation(ledger).seconds == pytest.approx(8 + 4 * 10)


def test_the_countdown_goes_by_the_runs_that_have_ended(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("tune_jobs.confirmation.forecast.time.monotonic", lambda: now[0])
    countdown = Countdown(dict.fromkeys("abcd", 10.0), 2)
    countdown.start("a")
    countdown.start("b")
    now[0] = 4.0
    assert countdown.left_s == 16
    now[0] = 20.0
    assert countdown.left_s == 10, "later than expected: the other two wait"
    countdown.end("a")
    countdown.start("c")
    assert countdown.running == ["b", "c"]
    assert countdown.left_s == 20, "each takes twice as long as expected"
    assert Countdown({}, 2).left_s is None


@pytest.mark.parametrize(("num_seeds", "warns"), [(5, True), (6, False), (7, False)])
def test_a_number_of_seeds_that_cannot_decide_is_said_before_anything_trains(tmp_path, num_seeds, warns):
    job, ledger = search(tmp_path, [(0.5, 0.001)])
    lines = [line.plain for line in describe(outlook(job, ledger, num_seeds, num_done=3))]
    assert f"{2 * num_seeds} runs" in lines[0] and "3 of them" in lines[0]
    assert any("Warning" in line for line in lines) == warns
    assert "minute" in lines[-1] or "second" in lines[-1]


def test_a_pipe_gets_a_line_for_each_run_with_the_time_left(tmp_path):
    job, ledger = search(tmp_path, [(0.5, 0.001)])
    console = Console(file=io.StringIO(), force_terminal=False, width=200)
    told = outlook(job, ledger, 1)
    with Confirming(Metric(), console) as progress:
        progress.on_start(told)
        progress.on_row(
            result_row(told.runs[0], job, {"status": "completed", "test_accuracy": 0.5, "error": None})
        )
        progress.on_row(result_row(told.runs[1], job, {"status": "failed", "error": "[red]no"}))
    first, second = console.file.getvalue().splitlines()[-2:]
    assert first.startswith("1/2  resnet8-sam-0000  seed 1  completed  test accuracy 0.5000  about ")
    assert "failed  [red]no" in second


def test_a_terminal_shows_the_epochs_of_the_runs_that_train(tmp_path):
    job, ledger = search(tmp_path, [(0.5, 0.001)])
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    told = outlook(job, ledger, 2)
    with Confirming(Metric(), console) as progress:
        progress.on_start(told)
        for run in told.runs[:2]:
            told.countdown.start(run.key)
        told.countdown.report(told.runs[1].key, 3)
        progress._live.refresh()
        drawn = console.file.getvalue()
    assert "resnet8-sam-0000  seed 1" not in drawn, "it has trained no epoch yet"
    assert "resnet8-base-0000  seed 1  epoch 3/4" in drawn


def test_rows_reach_parquet(tmp_path):
    job, ledger = search(tmp_path, [(0.5, 0.001)])
    outcome = {"status": "completed", "test_accuracy": 0.25, "sharpness.trace": 3.5, "epochs": 4}
    for run in plan_confirmations(job, ledger, "DIR", 2, 1, "epochs"):
        ledger.confirm(run.key, result_row(run, job, outcome))
    export(tmp_path)
    table = read_results(tmp_path).confirmations
    assert len(table) == 4
    assert set(table["sharpness.trace"]) == {3.5}
    assert set(table["val_accuracy"]) == {0.5}
    assert sorted(table["seed"].unique()) == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, 1, "epochs"), "--seeds"), ((3, 0, "epochs"), "--top"), ((3, 1, "hours"), "--equal")],
)
def test_wrong_numbers_are_refused(tmp_path, arguments, message):
    job, ledger = search(tmp_path, [(0.5, 0.001)])
    with pytest.raises(JobError, match=message):
        plan_confirmations(job, ledger, "DIR", *arguments)


def test_without_a_winner_there_is_nothing_to_confirm(tmp_path):
    job, ledger = search(tmp_path, [(None, 0.001)])
    with pytest.raises(JobError, match="no winner"):
        plan_confirmations(job, ledger, "DIR", 3, 1, "epochs")
