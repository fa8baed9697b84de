"""Changes of a job by `--set`: where they lead, and what is said about those that lead nowhere."""

import pytest
from job_files import JOB, changed, problems_of

from tune_jobs.job.load import load_job


def test_sets_are_applied_in_order_before_anything_is_checked(write):
    job = load_job(
        write(changed("train.epochs", "ten")),
        (
            "methods=[sam,zsharp]",
            "space.rho={uniform: [0.01, 0.2]}",
            "train.epochs=30",
            "train.epochs=3",
            "search.first_points=[]",
            "train.augment.flip=false",
            "resources.device=cpu",
            "space.label_smoothing=0.1",
            "space.train.batch_size={choice: [32, 64]}",
            "space.train.augment.flip=true",
            "space.model.depth={int: [1, 3]}",
            "model.width=8",
            "data.max_images=",
        ),
    )
    assert job.methods == ("sam", "zsharp")
    assert job.space["rho"].uniform == (0.01, 0.2)
    assert job.train.epochs == 3
    assert job.search.first_points == ()
    assert job.train.augment.flip is False
    assert job.train.augment.cutout == 2, "the rest of a section stays"
    assert job.space["label_smoothing"] == 0.1
    assert job.space["train.batch_size"].choice == (32, 64)
    assert job.space["train.augment.flip"] is True
    assert job.space["model.depth"].int == (1, 3)
    assert job.model == {"width": 8}
    assert job.data.max_images is None


def test_sets_may_name_a_section_that_the_file_lacks(write):
    source = write({key: value for key, value in JOB.items() if key not in ("train", "asha")})
    job = load_job(source, ("train.epochs=5", "train.augment.cutout=3"))
    assert (job.train.epochs, job.train.augment.cutout) == (5, 3)


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        ("trian.epochs=3", "--set trian.epochs", "did you mean train? valid: name, data"),
        ("train.epoch=3", "--set train.epoch", "did you mean epochs? valid: epochs"),
        ("train.augment.flop=3", "--set train.augment.flop", "did you mean flip?"),
        ("space.roh=3", "--set space.roh", "unknown parameter 'roh'; did you mean rho? valid: q_p, rho"),
        ("space.train.batch_sise=3", "--set space.train.batch_sise", "did you mean train.batch_size?"),
        ("space.train=3", "--set space.train", "as train.NAME"),
        ("space.train.epochs=3", "--set space.train.epochs", "cannot be searched"),
        ("space.depth=3", "--set space.depth", "arguments of the model as model.NAME"),
        ("space.rho.uniform=[1, 2]", "--set space.rho.uniform", "space.rho=..."),
        ("methods.0=sam", "--set methods.0", "methods=..."),
        ("epochs", "--set", "expected path=value"),
        ("=3", "--set", "expected path=value"),
        ("train.epochs=[", "--set train.epochs, line 1", "not YAML"),
        ('name="\\UFFFFFFFF"', "--set name", "not YAML"),
        ('name="\\U00110000"', "--set name", "not YAML"),
        ("train.epochs=!!int 3", "--set train.epochs, line 1", "tag"),
        ("train.epochs=ten", "train.epochs", "whole number"),
        ("train=", "train", "keys among epochs"),
    ],
)
def test_sets_that_lead_nowhere(text: str, path: str, words: str):
    problems = problems_of("digits", (text,))
    assert list(problems) == [path]
    assert words in problems[path][1]


def test_problems_of_sets_and_of_the_file_come_together(write):
    problems = problems_of(write(changed("methods", ["zsarp"])), ("train.epoch=3", "train.epochs=0"))
    assert list(problems) == ["--set train.epoch", "methods[0]", "train.epochs"]
