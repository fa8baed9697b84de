"""The report and the comparison of a search over whole numbers, names and conditions."""

import pytest
from simulated_search import Driver, Trials, small_job

from tune_jobs.report.data import load
from tune_jobs.report.importance import importance, warnings
from tune_jobs.report.params import optima_section, params_section
from tune_jobs.report.write import write_report
from tune_jobs.results import compare
from tune_jobs.results.write import export

pytestmark = pytest.mark.usefixtures("no_images")

SPACE = (
    "space.lr=0.003",
    "space.train.batch_size={choice: [32, 4096]}",
    "space.train.base_optimizer={choice: [sgd, adamw, adam]}",
    "space.train.augment.flip={choice: [true, false]}",
    "space.momentum={uniform: [0.5, 0.99], when: {train.base_optimizer: sgd}}",
    "space.train.augment.cutout={int: [0, 4]}",
)


class Best(Trials):
    """The smallest cutout with SGD is best."""

    def value(self, trial_id, params, epoch):
        worse = 0.1 * params["train.augment.cutout"] + 0.2 * (params["train.base_optimizer"] != "sgd")
        return round(0.9 - worse - 0.5**epoch / 2, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds") / "search"
    job = small_job(
        "methods=[base]",
        "search={num_trials: 24, sampler: random, first_points: []}",
        "asha.enabled=false",
        *SPACE,
    )
    Driver(job, folder, Best()).run().close()
    export(folder)
    return folder


def pictures(parts):
    for part in parts:
        if isinstance(part, list):
            yield from pictures(part)
        elif hasattr(part, "figure"):
            yield part


def test_importance_takes_names_and_whole_numbers_and_leaves_out_what_not_all_trials_have(folder):
    report = load([folder])
    (label,) = report.labels
    shares = importance(report, "resnet8", label).shares
    names = ("batch_size", "base_optimizer", "augment.flip", "augment.cutout")
    assert set(shares) == {f"train.{name}" for name in names}
    assert shares["train.augment.cutout"] > shares["train.base_optimizer"] > shares["train.augment.flip"]
    words = " ".join(warnings(report, "resnet8"))
    assert f"to search {', '.join(['momentum', *sorted(shares)])};" in words
    assert "train.augment.cutout, 0" not in words, "no less than 0 is valid"


def test_pictures_show_all_names_that_could_be_drawn(folder):
    report = load([folder])
    drawn = {
        p.name: p for section in (params_section, optima_section) for p in pictures(section(report).parts)
    }
    axis = drawn["slice-resnet8-train-base-optimizer"].figure.layout.xaxis
    assert (axis.type, axis.categoryarray) == ("category", ("sgd", "adamw", "adam"))
    assert drawn["slice-resnet8-train-augment-flip"].figure.layout.xaxis.categoryarray == ("true", "false")
    assert drawn["optima-train-batch-size"].figure.layout.xaxis.type == "linear"
    num_sgd = int((report.trials["param.train.base_optimizer"] == "sgd").sum())
    (points,) = [
        trace for trace in drawn["slice-resnet8-momentum"].figure.data if trace.customdata is not None
    ]
    assert 0 < num_sgd == len(points.x) < 24
    assert "Not all trials have momentum." in drawn["importance-resnet8"].caption
    assert "train.batch_size 4096" in " ".join(points.customdata)
    assert "slice-resnet8-lr" not in drawn
    assert "optima-lr" not in drawn, "it is fixed"


def test_tables_have_values_as_a_job_file_has_them(folder, tmp_path):
    table = compare.compare([folder])
    row = table.iloc[0]
    shown = f"train.base_optimizer sgd, train.batch_size {row['param.train.batch_size']:.0f}"
    flip = row["param.train.augment.flip"]
    assert flip in ("true", "false")
    for written in (compare.to_markdown(table), compare.to_latex(table).replace(r"\_", "_")):
        assert f"train.augment.cutout 0, train.augment.flip {flip}, {shown}" in written
    assert f",{flip},sgd," in compare.to_csv(table)
    assert f'"param.train.augment.flip": "{flip}"' in compare.to_json(table)
    write_report([folder], tmp_path / "page.html")
    methods = (tmp_path / "page_files" / "methods.csv").read_text(encoding="utf-8")
    assert f",{flip},sgd," in methods
