"""What a job asks of its data: each refusal, where it lies and what is valid."""

from types import SimpleNamespace

import pytest

from tune_jobs import storage
from tune_jobs.errors import JobError, ResultsError
from tune_jobs.job.data_checks import check_data, split_sizes
from tune_jobs.job.load import load_job
from tune_jobs.ledger.writer import Ledger
from tune_jobs.results.write import export
from tune_jobs.search.folder import SearchFolder, check_folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def refusal(*sets, preset="digits"):
    with pytest.raises(JobError) as refused:
        check_data(load_job(preset, sets))
    return [str(problem) for problem in refused.value.problems]


def test_what_fits_is_described():
    info = check_data(load_job("digits"))
    assert (info.image_shape, info.num_train, info.num_classes) == ((1, 8, 8), 1438, 10)


def test_validation_images_of_their_own_need_no_share(tmp_path):
    (tmp_path / "own_pixels.py").write_text(
        "import numpy as np\n"
        "def load(root, seed=0):\n"
        "    pixels = np.arange(64, dtype='uint8').reshape(4, 4, 4)\n"
        "    return [(pixels, [0, 1, 0, 1])] * 3\n"
    )
    sets = [
        "data.name=own_pixels:load",
        "data.arguments={seed: 3}",
        f"data.root={tmp_path}",
        f"code=[{tmp_path}]",
    ]
    job = load_job("digits", [*sets, "data.image_size=8", "train.batch_size=4"])
    info = check_data(job)
    assert (info.image_shape, info.num_train, info.num_val) == ((1, 8, 8), 4, 4)
    assert split_sizes(job, info) == (4, 4)
    searched = load_job("digits", [*sets, "space.data.image_size={choice: [4, 12, 8]}", "train.batch_size=4"])
    assert check_data(searched).image_shape == (1, 12, 12)  # the largest
    unfit = refusal(*sets, "space.data.image_size={choice: [6, 8]}", "train.batch_size=4")
    assert "1 x 6 x 6" in unfit[0]
    told = refusal(*sets, "data.arguments.sed=3")
    assert "data" in told[0]
    assert "did you mean seed?" in told[0]


@pytest.mark.parametrize(
    "sets",
    [
        ["data.max_images=1438"],
        ["data.max_images=100", "train.batch_size=80"],  # a fifth is held out
        ["train.batch_size=1150"],
        ["data.val_fraction=0.0004"],  # one image
    ],
)
def test_the_last_that_fits(sets):
    check_data(load_job("digits", sets))


@pytest.mark.parametrize(
    ("sets", "path", "words"),
    [
        (["data.max_images=1439"], "data.max_images: 1439", "at most 1438"),
        (["train.batch_size=1151"], "train.batch_size: 1151", "at most 1150"),
        (["data.max_images=100", "train.batch_size=81"], "train.batch_size: 81", "at most 80"),
        (["data.val_fraction=0.0003"], "data.val_fraction: 0.0003", "leaves 0 of 1438"),
        (["data.val_fraction=0.9997", "train.batch_size=1"], "data.val_fraction: 0.9997", "1438 of 1438"),
    ],
)
def test_too_few_images(sets, path, words):
    assert any(problem.startswith(path) and words in problem for problem in refusal(*sets))


def test_architectures_that_cannot_take_the_images():
    problems = refusal("architectures=[vgg16_bn, resnet8, vit_7_8_8_384]")
    assert [problem.partition(" is not valid")[0] for problem in problems] == ["architectures[0]: 'vgg16_bn'"]
    assert "1 x 8 x 8" in problems[0]
    assert "at least 32 pixels" in problems[0]


def test_all_problems_at_once():
    problems = refusal("architectures=[vgg16_bn]", "data.max_images=2000", "train.batch_size=1900")
    where = [problem.partition(":")[0] for problem in problems]
    assert where == ["architectures[0]", "data.max_images", "train.batch_size"]


def test_files_that_are_missing_or_damaged(tmp_path):
    where = f"data.root={tmp_path / 'none'}"
    (problem,) = refusal(where, preset="cifar10")
    assert problem.startswith(f"data: {tmp_path / 'none'}: no such folder")
    assert "no such folder" in problem
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"garbage")
    (problem,) = refusal(f"data.root={tmp_path}", preset="cifar10")
    assert "cifar-10-batches-py" in problem
    (problem,) = refusal("data.root=null", preset="cifar10")
    assert problem.startswith("data: 'cifar10' is not valid: ")
    assert list(folder.iterdir()) == [folder / "data_batch_1"]


def test_a_search_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JobError, match="nothing can be written"):
        check_folder(load_job("digits"), SearchFolder(tmp_path / "file" / "search"))
    assert check_folder(load_job("digits"), SearchFolder(tmp_path / "new" / "search")) is False


def test_a_full_disk_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    Ledger.create(tmp_path / "old", {"name": "x"}, {}).close()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda folder: SimpleNamespace(free=4096))
    with pytest.raises(JobError, match=r"--out.*full"):
        check_folder(load_job("digits"), SearchFolder(tmp_path / "new"))
    with pytest.raises(ResultsError, match=r"old.*full"):
        export(tmp_path / "old")
    assert sorted(tmp_path.rglob("*")) == before
