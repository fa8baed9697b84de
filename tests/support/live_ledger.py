"""A small ledger as a driver writes it, for tests of the live page."""

from ledgers import ON, start

from tune_jobs.ledger.rows import Decision

JOB = {
    "name": "tiny",
    "architectures": ["resnet8"],
    "methods": ["sam"],
    "data": {"name": "digits"},
    "space": {"rho": {"loguniform": [0.01, 0.5]}, "lr": {"loguniform": [0.001, 0.1]}},
    "search": {"num_trials": 12},
    "train": {"epochs": 3},
}
EVIL = "<img src=x onerror=alert(1)>"


def report(ledger, trial_id, epoch, value, decision=ON, ends_as=None):
    row = {"val_accuracy": value, "val_loss": 1 - value, "train_loss": 0.5, "node": "here", "worker_pid": 7}
    row |= {"gradient_evaluations": 34 * epoch, "train_s": 2.0 * epoch, "wall_s": 2.5 * epoch}
    ledger.report(trial_id, epoch, row, decision, ends_as)


def write_trials(ledger, first=0, number=6):
    """Trials of three epochs: every third is stopped at its first, the last one of all still trains."""
    for n in range(first, first + number):
        trial = f"resnet8-sam-{n:04d}"
        params = {"rho": 0.01 * (n + 1), "lr": 0.002 * (n + 1)}
        start(
            ledger, trial, number=n, params=params, max_epochs=3, study="resnet8-sam", architecture="resnet8"
        )
        if n % 3 == 2:
            weak = Decision("stop", 1, 0.55, 3, "0.4 is below the cutoff 0.55")
            report(ledger, trial, 1, 0.4, weak, "pruned")
            continue
        for epoch in range(1, 4):
            done = Decision("complete") if epoch == 3 else ON
            report(
                ledger, trial, epoch, 0.5 + 0.1 * epoch + 0.01 * n, done, "completed" if epoch == 3 else None
            )
