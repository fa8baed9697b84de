"""A search resumed with more epochs trains its best trials on from their checkpoints, and is judged by one rule."""

import pandas as pd
import pytest

from tune_jobs.errors import JobError
from tune_jobs.job.load import load_job
from tune_jobs.ledger.writer import Ledger
from tune_jobs.search.run import resume, run
from tune_jobs.stopping.asha import Rule
from tune_jobs.stopping.replay import replay

pytestmark = pytest.mark.usefixtures("ray_with_four_gpus")
SETS = [
    "architectures=[resnet8]", "methods=[sam]", "data.max_images=200", "search.num_trials=4", "train.epochs=2",
    "train.schedule=constant", "train.warmup_epochs=0", "train.batch_size=32", "asha.grace_epochs=1",
    "asha.protect_top=4", "search.keep_checkpoints=2", "resources={device: cpu, max_concurrent: 1}",
]  # fmt: skip


def test_completed_trials_that_were_kept_go_on(tmp_path):
    folder = tmp_path / "search"
    assert run(load_job("digits", SETS), folder).counts == {"completed": 4}
    before = pd.read_parquet(folder / "parquet" / "trials.parquet").set_index("trial_id")
    kept = {file.stem for file in (folder / "checkpoints").iterdir()}
    assert len(kept) == 2
    assert before.loc[sorted(kept), "val_accuracy"].min() >= before.drop(index=kept)["val_accuracy"].max()
    with pytest.raises(JobError, match="expected at least 2"):
        resume(folder, ["train.epochs=1"])

    resume(folder, ["train.epochs=4", "search.num_trials=5"])
    after = pd.read_parquet(folder / "parquet" / "trials.parquet").set_index("trial_id")
    assert len(after) == 5
    assert set(after.index[after["epochs_trained"] == 4]) >= kept
    left = sorted(set(before.index) - kept)
    assert (after.loc[left, "epochs_trained"] == 2).all()
    assert (after.loc[left, "finished_at"] == before.loc[left, "finished_at"]).all()
    assert (after.loc[before.index, "param.lr"] == before["param.lr"]).all()
    with Ledger.open(folder, read_only=True) as ledger:
        rules = [(at, Rule.of_job(job)) for at, job in ledger.jobs()]
        assert replay(rules, ledger.trials(), ledger.reports()) == []
        assert len(rules) == 2
        for trial_id in kept:
            reports = ledger.reports(trial_id)
            assert [report["epoch"] for report in reports] == [1, 2, 3, 4]
            evaluations = [report["gradient_evaluations"] for report in reports]
            assert evaluations == [evaluations[0] * epoch for epoch in (1, 2, 3, 4)], "it went on, not again"
            assert reports[1]["lr"] == reports[3]["lr"]
