"""`compare --where ... --sort ...` keeps and orders rows, and says what is wrong with a condition."""

import pandas as pd
import pytest

from tune_jobs.errors import JobError
from tune_jobs.results.select import select

TABLE = pd.DataFrame(
    {
        "method": ["base", "sam", "zsharp", "sam"],
        "val_accuracy": [0.5, 0.7, 0.9, 0.8],
        "param.lr": [0.1, 0.01, None, 0.001],
        "num_trials": pd.array([4, 4, None, 8], dtype="Int64"),
    }
)


@pytest.mark.parametrize(
    ("where", "sort", "rows"),
    [
        (None, None, [0, 1, 2, 3]),
        ('method != "base"', None, [1, 2, 3]),
        ("`param.lr` < 0.05 and val_accuracy > 0.75", None, [3]),
        ("num_trials >= 4", None, [0, 1, 3]),
        (None, "method,-val_accuracy", [0, 3, 1, 2]),
        ('method in ["sam", "zsharp"]', "-param.lr", [1, 3, 2]),
    ],
)
def test_rows(where, sort, rows):
    selected = select(TABLE, where, sort)
    assert selected["val_accuracy"].tolist() == TABLE["val_accuracy"].iloc[rows].tolist()


@pytest.mark.parametrize(
    ("where", "sort", "path"),
    [
        ("methd == 'sam'", None, "--where"),
        ("method ==", None, "--where"),
        ("val_accuracy + 1", None, "--where"),
        ("val_accuracy > 2", None, "--where"),
        ("method > 3", None, "--where"),
        (None, "val_acc", "--sort"),
        (None, "", "--sort"),
    ],
)
def test_mistakes(where, sort, path):
    with pytest.raises(JobError) as error:
        select(TABLE, where, sort)
    assert [problem.path for problem in error.value.problems] == [path]
