"""A search whose trials start from trunks, for real: killed and resumed, extended with a lost trunk, and confirmed."""

import shutil

import pandas as pd
import pytest
import torch
from command_line_searches import call, kill_after, reports

from tune_jobs.ledger.writer import Ledger
from tune_jobs.results.read import read_results

pytestmark = pytest.mark.slow

SETS = (
    "data={name: digits, max_images: 200, val_fraction: 0.2}", "architectures=[resnet8]", "methods=[zsharp, base]",
    "train={epochs: 5, batch_size: 32, warmup_epochs: 1}", "init.trunk={fraction: 0.6, params: {lr: 0.01}}",
    "search={num_trials: 2, seeds: 2, sampler: random, keep_checkpoints: 4}", "asha.enabled=false",
    "resources={device: cpu, max_concurrent: 1}",
)  # fmt: skip
RUN = ("run", "digits", *(word for change in SETS for word in ("--set", change)), "--out")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trunks")
    code, printed = call(folder, *RUN, "search")
    assert code == 0, printed
    return folder / "search"


def test_a_search_that_was_killed_ends_as_the_uninterrupted_one(whole, tmp_path):
    search = tmp_path / "search"
    for least in (2, 4, 9):  # in a trunk, in a trial, and with both of a seed done
        kill_after(least, search, tmp_path, *RUN, "search")
    code, printed = call(tmp_path, "resume", "search")
    assert code == 0, printed
    assert reports(search) == reports(whole)
    assert len(reports(search)) == 2 * 3 + 4 * 2
    assert {file.name for file in (search / "checkpoints").iterdir()} == {
        f"resnet8-{study}-000{number}.pt" for study in ("trunk", "zsharp", "base") for number in (0, 1)
    }


def test_more_trials_start_from_the_same_trunk_although_its_checkpoint_was_lost(tmp_path):
    run = [word.replace("seeds: 2, ", "") for word in RUN]
    code, printed = call(tmp_path, *run, "search")
    assert code == 0, printed
    trunk = tmp_path / "search" / "checkpoints" / "resnet8-trunk-0000.pt"
    before = torch.load(trunk, weights_only=True)["state"]["model"]
    trunk.write_bytes(trunk.read_bytes()[:5000])
    code, printed = call(tmp_path, "resume", "search", "--set", "search.num_trials=3")
    assert code == 0, printed
    after = torch.load(trunk, weights_only=True)["state"]["model"]
    assert all(torch.equal(before[name], after[name]) for name in before)
    results = read_results(tmp_path / "search")
    assert len(results.trunks) == 1
    assert set(results.trials["status"]) == {"completed"}
    assert len(results.trials) == 6


def test_a_confirmation_trains_a_trunk_for_each_fresh_seed(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "search")
    for budget in ("epochs", "gradients"):
        code, printed = call(tmp_path, "confirm", "search", "--seeds", "2", "--budget", budget)
        assert code == 0, printed
    rows = pd.read_parquet(tmp_path / "search" / "parquet" / "confirmations.parquet")
    assert set(rows["status"]) == {"completed"}
    assert sorted(rows["seed"].unique()) == [2, 3]
    steps = 6
    spent = rows.groupby(["budget", "method"])[["epochs", "gradient_evaluations"]].agg(set)
    assert spent.loc[("epochs", "base")].tolist() == [{5}, {5 * steps}]
    assert spent.loc[("epochs", "zsharp")].tolist() == [{5}, {(3 + 2 * 2) * steps}]
    assert spent.loc[("gradients", "base")].tolist() == [{7}, {7 * steps}]
    assert not any("confirm" in file.name for file in (tmp_path / "search" / "checkpoints").iterdir())
    with Ledger.open(tmp_path / "search", read_only=True) as ledger:
        assert len(ledger.confirmations()) == 8
