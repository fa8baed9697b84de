"""Tasks, loops and models of a user's own: killed and resumed, moved, changed, and sent to a cluster."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line_searches import call, kill_after, reports
from PIL import Image
from ray_head import RayHead
from sklearn.datasets import load_digits

from tune_jobs.ledger.writer import Ledger
from tune_jobs.results.read import read_results

pytestmark = pytest.mark.slow

CODE = Path(__file__).parent.parent / "fixtures" / "own_code"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    shutil.copytree(CODE, folder / "code", ignore=shutil.ignore_patterns("__pycache__"))
    pixels, labels = load_digits(return_X_y=True)
    for number, (row, label) in enumerate(zip(pixels[:300], labels, strict=False)):
        file = folder / "images" / ("test" if number % 5 == 0 else "train") / str(label) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((row.reshape(8, 8) * 15).astype("uint8")).save(file)
    return folder


_RARE = [pytest.param(name, marks=pytest.mark.faults) for name in ("loop.yaml", "models.yaml")]


@pytest.fixture(scope="module", params=["job.yaml", *_RARE])
def whole(request, folder):
    """An uninterrupted search, with the name of its job file."""
    search = folder / f"whole-{request.param}"
    code, printed = call(folder, "run", folder / "code" / request.param, "--out", search)
    assert code == 0, printed
    return search, request.param


@pytest.mark.faults
def test_killed_three_times_and_resumed_it_is_the_same(whole, folder):
    expected, job = whole
    search = folder / f"killed-{job}"
    for least in (1, 9, 20):
        kill_after(least, search, folder, "run", folder / "code" / job, "--out", search)
    code, printed = call(folder, "resume", search)
    assert code == 0, printed
    assert reports(search) == reports(expected)
    assert read_results(search).trials["status"].value_counts().to_dict() == (
        read_results(expected).trials["status"].value_counts().to_dict()
    )


def test_confirmed_and_told(whole, folder):
    search, job = whole
    code, printed = call(folder, "confirm", search, "--seeds", "2")
    assert code == 0, printed
    page = folder / "page.html"
    code, told = call(folder, "compare", search, "--html", page)
    assert code == 0, told
    if job == "models.yaml":
        assert set(read_results(search).trials["architecture"]) == {
            "nets:mixer",
            "timm/vit_tiny_patch16_224",
            "resnet8",
        }
        return
    assert "test_loss" in printed
    assert "acc" not in printed
    assert "lower is better" in page.read_text()


def test_changed_code_is_refused_and_a_moved_search_brings_its_own(folder):
    moved = folder / "elsewhere"
    shutil.copytree(folder / "code", moved / "code")
    code, printed = call(
        folder, "run", moved / "code" / "job.yaml", "--out", moved / "s", "--set", "search.num_trials=1"
    )
    assert code == 0, printed
    with (moved / "code" / "line_data.py").open("a") as file:
        file.write("# changed\n")
    code, printed = call(folder, "resume", moved / "s", "--set", "search.num_trials=2")
    assert code == 2
    assert "line_data.py" in printed
    shutil.rmtree(moved / "code")
    code, printed = call(folder, "resume", moved / "s", "--set", "search.num_trials=2")
    assert code == 0, printed


def test_a_failing_task_fails_its_trials_with_the_users_own_traceback(folder):
    late = folder / "late"
    late.mkdir()
    (late / "late.py").write_text(
        "from noisy_line import Line\nclass Late(Line):\n    def batches(self, epoch):\n"
        "        if epoch == 1:\n            raise KeyError('mine')\n        return super().batches(epoch)\n"
    )
    text = (folder / "code" / "job.yaml").read_text().replace("noisy_line:Line", "late:Late")
    (late / "job.yaml").write_text(text + "code: [., ../code]\nfailures: {max_retries: 0}\n")
    code, printed = call(
        folder, "run", late / "job.yaml", "--out", late / "s", "--set", "search.num_trials=1"
    )
    assert code == 1, printed
    with Ledger.open(late / "s", read_only=True) as ledger:
        (error, *_) = [trial["error"] for trial in ledger.trials()]
    assert error.splitlines()[-1] == "KeyError: 'mine'"
    assert error.count("File ") == 1
    assert "late.py" in error


@pytest.mark.cluster
@pytest.mark.parametrize("job", ["job.yaml", "models.yaml"])
def test_a_cluster_of_two_nodes_gets_the_code(job, folder):
    head = RayHead(num_cpus=1)
    try:
        head.add_worker(1)
        (empty := folder / f"empty-{job}").mkdir()
        out = head.folder / "search"
        where = ("--address", head.address)
        sets = ["--set", "resources.max_concurrent=2", "--set", "search.num_trials=3"]
        if job == "models.yaml":
            sets += ["--set", f"data.root={folder / 'images'}"]
        code, printed = call(
            empty, "submit", folder / "code" / job, *where, "--out", out, *sets, "--follow",
            RAY_AUTH_TOKEN=head.token,
        )  # fmt: skip
        assert code == 0, printed
        trials = read_results(out).trials
        assert len(trials) == (6 if job == "job.yaml" else 9)
        assert set(trials["status"]) <= {"completed", "pruned"}
        assert trials["node"].nunique() == 2
        assert (out / "code" / "0" / ("noisy_line.py" if job == "job.yaml" else "nets.py")).is_file()
    finally:
        head.stop()


SCRIPT = """
import sys
import tune_jobs
from noisy_line import Line, train

class Mine(Line):
    pass

JOB = {
    "name": "line", "methods": ["base"], "metric": "val_loss", "mode": "min", "space": {"lr": 0.01},
    "train": {"epochs": 2, "batch_size": 10, "warmup_epochs": 0}, "search": {"num_trials": 1},
    "resources": {"device": "cpu"},
}

if __name__ == "__main__":
    for own in ({"task": Mine}, {"task": Line}, {"train": train}):
        out = "-".join(["s", *own, *(made.__name__ for made in own.values())])
        print(own, tune_jobs.run(JOB, out, **own).counts)
        again = {} if Line in own.values() or train in own.values() else own
        print(own, tune_jobs.resume(out, **again).counts)
    try:
        tune_jobs.resume("s-task-Mine")
    except tune_jobs.JobError as error:
        print("refused:", error)
    print(len(tune_jobs.confirm("s-task-Mine", 1, task=Mine)), "confirmed")
"""


def test_a_script_passes_its_own_class_and_its_modules(folder):
    script = folder / "code" / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script], cwd=folder, env=os.environ | {"HOME": str(folder)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("{'completed': 1}") == 6
    assert "refused: task: '__main__:Mine'" in done.stdout
    assert "1 confirmed" in done.stdout
