"""Runs confirmations on Ray, as many at a time as a search runs trials, and records each when it ends."""

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tune_jobs.cluster.mps import share_gpu
from tune_jobs.cluster.ray import check_can_start, end_at_sigterm, ray_session
from tune_jobs.cluster.slots import Slots
from tune_jobs.confirmation.forecast import Countdown, Outlook, expected_seconds
from tune_jobs.confirmation.plan import (
    Budget,
    Confirmation,
    deciding_seeds,
    done_already,
    num_compared,
    plan_confirmations,
    result_row,
    to_train,
)
from tune_jobs.job.code import OwnCode
from tune_jobs.job.metric import METRIC_PREFIX
from tune_jobs.job.spec import JobSpec
from tune_jobs.ledger.rows import Clock, plain
from tune_jobs.ledger.writer import Ledger
from tune_jobs.results.write import export
from tune_jobs.search.checkpoints import Checkpoints
from tune_jobs.search.extend import check_same_weights, extended
from tune_jobs.search.folder import SearchFolder
from tune_jobs.search.own_code import check_same_code, with_code
from tune_jobs.search.recorder import recorded_dataset
from tune_jobs.search.run import plan_resources, rehearsed_with
from tune_jobs.search.trunk import Trunk, from_trunk, train_trunk
from tune_jobs.search.wind_down import sigterm_interrupts
from tune_jobs.wording import last_line
from zsharp.optim.methods import find_method
from zsharp.training.spec import TrialSpec

if TYPE_CHECKING:
    from tune_jobs.search.own_loop import LoopRun
    from tune_jobs.search.team import TeamRun
    from zsharp.training import Training
    from zsharp.training.epoch_row import EpochRow

Row = dict[str, Any]
Build = Callable[[TrialSpec], "Training | LoopRun | TeamRun"]
_AGAIN = object()  # the outcome of a call that failed and is tried again


def confirm(
    folder: str | Path,
    num_seeds: int | None = None,
    *,
    top: int = 1,
    budget: Budget = "epochs",
    with_incumbents: bool = False,
    methods: Sequence[str] = (),
    architectures: Sequence[str] = (),
    sharpness_images: int = 0,
    task: Callable[..., Any] | None = None,
    train: Callable[..., Any] | None = None,
    allow_changed_code: bool = False,
    on_start: Callable[[Outlook], None] | None = None,
    on_row: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Retrains the winners of each study with fresh seeds on all training data, and reads the test set.

    What is recorded already is not run again; a run that was interrupted continues from its last epoch.

    Args:
        folder: The search folder.
        num_seeds: Fresh seeds of each winner; by default as many as it takes for a difference between the methods to
            be significant.
        top: How many winners of each study.
        budget: What is equal among methods: `epochs`, or `gradients` (gradient evaluations).
        with_incumbents: Also trains, with the same seeds, the trials that were each study's best so far as the search
            went, to learn whether its last choices were better on test data too.
        methods: Only these methods, for which fewer seeds may do; by default all of the job.
        architectures: Only these architectures, likewise.
        sharpness_images: Measure the flatness of each trained model on this many training images; 0 does not. It costs
            about 130 gradient evaluations of each.
        task: As for `tune_jobs.resume`.
        train: As for `tune_jobs.resume`.
        allow_changed_code: As for `tune_jobs.resume`.
        on_start: Called with what is going to be done before anything trains.
        on_row: Called with each row when it is recorded.

    Returns:
        The rows of all these runs, as `confirmations.parquet` has them.

    Raises:
        LedgerError: If the folder has no ledger that can be used, or another process writes it.
        JobError: If there is no winner, or the job does not fit data or machine.
    """
    search = SearchFolder(folder, writes=True)
    with search.open() as ledger:
        job, _ = extended(ledger, ())
        runs = plan_confirmations(
            job,
            ledger,
            search.address,
            num_seeds,
            top,
            budget,
            methods=methods,
            architectures=architectures,
            with_incumbents=with_incumbents,
        )
        job, named = with_code(job, search, train if task is None else task)
        rehearsed = rehearsed_with(job, named)
        check_same_weights(ledger, job, rehearsed.weights_checksum)
        if not allow_changed_code:
            check_same_code(ledger, rehearsed.code, search)
        _copy_done(ledger, runs)
        different, waiting = to_train(runs, {}), to_train(runs, ledger.confirmations())
        slots = None
        if waiting:
            check_can_start()
            slots, totals = plan_resources(job)
        outlook = _outlook(job, ledger, different, waiting, slots.num_slots if slots else 1, sharpness_images)
        if on_start is not None:
            on_start(outlook)
        try:
            if slots is not None:
                with ray_session(slots, totals), sigterm_interrupts():
                    by_value = None if named is None else named.by_value
                    own = Own(rehearsed.code, by_value, job.failures.report_timeout_s)
                    _run_all(job, ledger, search, outlook, slots, sharpness_images, own, on_row)
        finally:  # what ended is exported, also when the rest was interrupted
            if ledger.loss is None:
                _copy_done(ledger, runs)
                export(search.local)
                search.publish()
        recorded = ledger.confirmations()
    return [recorded[run.key] for run in runs if run.key in recorded]


def _copy_done(ledger: Ledger, runs: Sequence[Confirmation]) -> None:
    """Records runs that were trained already for another budget or role."""
    for run, row in list(done_already(runs, ledger.confirmations())):
        ledger.confirm(run.key, row)


def _outlook(
    job: JobSpec,
    ledger: Ledger,
    runs: Sequence[Confirmation],
    waiting: Sequence[Confirmation],
    num_slots: int,
    sharpness_images: int,
) -> Outlook:
    expected, sharpness_s = expected_seconds(job, waiting, ledger.reports(), sharpness_images)
    recorded = ledger.confirmations()
    num_methods = num_compared(run.winner for run in runs)
    return Outlook(
        runs,
        waiting,
        num_slots,
        deciding_seeds(num_methods),
        num_methods,
        _num_unmeasured(runs, recorded) if sharpness_images and not job.own else 0,
        sharpness_s,
        Countdown(expected, num_slots),
    )


def _num_unmeasured(runs: Sequence[Confirmation], recorded: Mapping[str, Mapping[str, Any]]) -> int:
    rows = [recorded[run.key] for run in runs if run.key in recorded]
    return sum(
        row["status"] == "completed" and not any(name.startswith("sharpness.") for name in row)
        for row in rows
    )


def _run_all(
    job: JobSpec,
    ledger: Ledger,
    search: SearchFolder,
    outlook: Outlook,
    slots: Slots,
    sharpness_images: int,
    own: "Own",
    on_row: Callable[[Row], None] | None,
) -> None:
    """Trains what is waiting, as many runs at a time as there are slots, and records each when it ends."""
    countdown, checkpoints = outlook.countdown, Checkpoints(search)
    trunks = {run.trunk.name: run.trunk for run in outlook.waiting if run.trunk is not None}
    lost: dict[str, str] = {}  # trunks that did not get to their end, and why
    for name, outcome in _outcomes(job, slots, trunks, _train_trunk, search, slots, own):
        if outcome is not None:
            lost[name] = outcome["error"]
    runs = {run.key: run for run in outlook.waiting}
    ready = {key: run for key, run in runs.items() if run.trunk is None or run.trunk.name not in lost}

    def record(run: Confirmation, outcome: Mapping[str, Any]) -> None:
        row = result_row(run, job, outcome) | {"dataset": recorded_dataset(ledger)}
        ledger.confirm(run.key, row)
        checkpoints.drop(_file_name(run))
        if on_row is not None:
            on_row(row)

    for key, run in runs.items():
        if key not in ready:
            assert run.trunk is not None
            record(
                run,
                {"status": "failed", "error": f"its trunk did not get to its end: {lost[run.trunk.name]}"},
            )
    for key, outcome in _outcomes(
        job, slots, ready, _train, search, slots, sharpness_images, own, watch=countdown
    ):
        countdown.end(key)
        assert outcome is not None
        record(ready[key], outcome)
    for name in trunks:
        checkpoints.drop(name)


def _outcomes(
    job: JobSpec,
    slots: Slots,
    items: Mapping[str, Any],
    function: Callable[..., Iterator[Any]],
    *args: Any,
    watch: Countdown | None = None,
) -> Iterator[tuple[str, Any]]:
    """Calls a generator function with each item on a worker, as many at a time as there are slots.

    The function yields the number of each epoch and then its outcome, which this yields. Calls that fail are tried
    again as often as the job says; after that the outcome is the error.
    """
    left = list(reversed(list(items)))
    tries = dict.fromkeys(items, 0)
    running: dict[Any, tuple[str, PlacementGroup | None]] = {}
    while left or running:
        while left and len(running) < slots.num_slots:
            key = left.pop()
            if watch is not None:
                watch.start(key)
            group = placement_group(slots.bundles) if slots.workers_per_trial > 1 else None
            strategy = None if group is None else PlacementGroupSchedulingStrategy(group, 0, True)
            call = ray.remote(function).options(
                num_cpus=slots.cpus_per_worker,
                num_gpus=slots.gpus_per_worker,
                max_retries=0,
                scheduling_strategy=strategy,
            )
            running[call.remote(items[key], *args)] = key, group
        done: Any  # a generator of references, which is ready when its next one is
        (done, *_), _ = ray.wait(list(running), num_returns=1)
        key, group = running[done]
        outcome: Any
        try:
            outcome = ray.get(next(done))
        except ray.exceptions.RayError as error:
            if not isinstance(error, ray.exceptions.NodeDiedError):  # a lost node is no fault of the run's
                tries[key] += 1
            if tries[key] <= job.failures.max_retries:
                left.append(key)
                outcome = _AGAIN
            else:
                outcome = {"status": "failed", "error": last_line(str(error)) or "the worker died"}
        if isinstance(outcome, int):
            if watch is not None:
                watch.report(key, outcome)
            continue
        del running[done]
        if group is not None:
            remove_placement_group(group)
        if outcome is not _AGAIN:
            yield key, outcome


@dataclass(frozen=True)
class Own:
    """What a worker needs of the user's own."""

    code: OwnCode | None
    task: Callable[..., Any] | None
    timeout_s: float  # how long the processes of one trial wait for each other

    def here(self, spec: TrialSpec) -> TrialSpec:
        """Returns what a run trains, with folders that its code can be imported from on this machine."""
        return spec if self.code is None else replace(spec, code=self.code.folders_here())


@contextmanager
def _builder(slots: Slots, own: Own, search: SearchFolder) -> Iterator[Build]:
    """Yields what makes runs on this worker."""
    end_at_sigterm()
    if not ray.get_runtime_context().get_accelerator_ids()["GPU"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # as in `tune_jobs.search.worker`
    elif slots.gpus_per_worker < 1:
        share_gpu(slots.sharing, search.address)
    import torch

    from tune_jobs.search.own_loop import build_run
    from tune_jobs.search.team import Team

    torch.set_num_threads(max(1, int(slots.cpus_per_worker)))
    workers = slots.workers_per_trial
    team = Team(workers, slots.cpus_per_worker, slots.gpus_per_worker, own.timeout_s) if workers > 1 else None

    def build(spec: TrialSpec) -> "Training | LoopRun | TeamRun":
        if team is not None:
            return team.begin(spec, own.task, own.code)
        return build_run(spec, own.task, is_confirmation=True)

    yield build
    if team is not None:
        team.close()


def _train_trunk(trunk: Trunk, search: SearchFolder, slots: Slots, own: Own) -> Iterator[Row | None]:
    """What a worker does: trains a trunk to its end, and yields an error if it diverged."""
    with _builder(slots, own, search) as build:
        problem = train_trunk(build, replace(trunk, spec=own.here(trunk.spec)), Checkpoints(search))
    yield None if problem is None else {"error": problem}


def _train(
    run: Confirmation, search: SearchFolder, slots: Slots, sharpness_images: int, own: Own
) -> Iterator[int | Row]:
    """What a worker does: trains one run from its last epoch to its end, then reads the test set, once.

    Yields each epoch's number, then the row.
    """
    clock = Clock()
    started_at = clock.now()
    with _builder(slots, own, search) as build:
        row = yield from _epochs(run, search, sharpness_images, own, build)
    yield row | {"started_at": started_at, "finished_at": clock.now()}


def _epochs(
    run: Confirmation, search: SearchFolder, sharpness_images: int, own: Own, build: Build
) -> Generator[int, None, Row]:
    from tune_jobs.search.own_loop import LoopRun
    from tune_jobs.search.team import TeamRun
    from zsharp.sharpness import measure_training
    from zsharp.training import Training

    spec, checkpoints = own.here(run.spec), Checkpoints(search)

    def at_start() -> "Training | LoopRun | TeamRun":
        if run.trunk is None:
            return build(spec)
        return from_trunk(build, spec, replace(run.trunk, spec=own.here(run.trunk.spec)), checkpoints)

    file = checkpoints.fetch(_file_name(run))
    training = at_start() if file is None else build(spec)
    if file is not None:
        try:
            training.load(file)
        except ValueError:  # damaged: from the first epoch again
            training = at_start()
    while not training.is_finished and not _has_diverged(training):
        training.run_epoch()
        if not _has_diverged(training):
            checkpoints.store(_file_name(run), training.save)
        assert training.last_report is not None
        yield training.last_report["epoch"]
    if isinstance(training, LoopRun):
        training.close()  # one that diverged waits to go on
    report, status = training.last_report, "diverged" if _has_diverged(training) else "completed"
    assert report is not None
    row: Row = {
        "status": status,
        "train_loss": report["train_loss"] if status == "completed" else None,
        "gradient_evaluations": report["gradient_evaluations"] + _evaluations_of_trunk(run, report),
        "train_s": report["train_s"],
        "device": report["device"],
        "error": None,
    }
    if status == "completed":
        row |= _measured(training, is_own=bool(spec.task or spec.train.loop))
        whole = training.training if isinstance(training, TeamRun) else training
        # Of a sharded model, one process alone has not all weights.
        if (
            sharpness_images
            and isinstance(whole, Training)
            and spec.task is None
            and spec.train.sharding == "none"
        ):
            measures = measure_training(whole, num_images=sharpness_images)
            row |= {f"sharpness.{name}": value for name, value in measures.items()}
    return row


def _evaluations_of_trunk(run: Confirmation, report: "EpochRow") -> int:
    """Returns what the trunk of a run took, which is a part of the run's budget; its steps are as many an epoch."""
    if run.trunk is None:
        return 0
    per_step = find_method(run.spec.method).gradient_evaluations_per_step
    own_epochs = report["epoch"] - run.trunk.num_epochs
    return report["gradient_evaluations"] // own_epochs // per_step * run.trunk.num_epochs


def _measured(training: "Training | LoopRun | TeamRun", *, is_own: bool) -> Row:
    """Returns the test measures of a finished run; of a task without test data, what it validated at the end."""
    measured, report = training.test(), training.last_report
    assert report is not None
    measured_on = "validation" if measured is None else "test"
    if measured is None:
        known = {"val_loss": report["val_loss"], "val_accuracy": report["val_accuracy"], **report["metrics"]}
        measured = {name: value for name, value in known.items() if value is not None}
    row: Row = {name: measured.get(name) for name in ("test_loss", "test_accuracy")}
    if is_own:
        row |= {f"{METRIC_PREFIX}{name}": value for name, value in measured.items()}
    finite = {name: plain(value, float) for name, value in row.items() if value is not None}
    return {**row, **finite, "measured_on": measured_on}


def _has_diverged(training: "Training | LoopRun | TeamRun") -> bool:
    return training.last_report is not None and bool(training.last_report["diverged"])


def _file_name(run: Confirmation) -> str:
    return "confirm-" + run.key.replace("/", "-")
