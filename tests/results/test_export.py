"""What the ledger holds arrives in Parquet, readable elsewhere, and nothing else is taken for it."""

import json
import math
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ledgers import start

from tune_jobs import provenance as provenance_module
from tune_jobs.errors import LedgerError, ResultsError
from tune_jobs.job.metric import Metric
from tune_jobs.ledger.rows import METRICS, Decision
from tune_jobs.ledger.writer import Ledger
from tune_jobs.provenance import git_state, provenance
from tune_jobs.report.data import collect
from tune_jobs.results.compare import compare
from tune_jobs.results.read import read_all, read_results
from tune_jobs.results.schema import SCHEMA_VERSION, confirmations_schema, epochs_schema, trials_schema
from tune_jobs.results.tables import records
from tune_jobs.results.write import export

JOB = {"name": "tiny", "space": {"lr": {"loguniform": [1e-4, 0.1]}}, "note": "Ümlaut"}
FACTS = {
    "package_versions": {"torch": "2.12.1"},
    "python_version": "3.12.1",
    "git_commit": "0123abcd",
    "git_dirty": False,
    "hardware": {"cpu_model": "x", "gpus": ["H200"]},
    "data": {"num_train": 50_000},
}


def words(text):
    return text.split()


# As section 4 of the design lists them; then the extras.
TRIALS = words(
    "job study trial_id dataset architecture method variant seed status stop_reason epochs_trained max_epochs "
    "val_accuracy best_val_accuracy val_loss train_loss param.q_p param.rho param.lr param.momentum "
    "gradient_evaluations train_s wall_s images_per_s peak_memory_bytes num_parameters device started_at "
    "finished_at error number node gpu_ids worker_pid retries ended_after train_accuracy origin trunk fork_epoch "
    "finalist_of"
)
EPOCHS = words(
    "job study trial_id epoch train_loss train_accuracy val_loss val_accuracy lr grad_norm perturbation_norm "
    "kept_fraction epoch_s decision rung cutoff reported_at reason num_values seq"
)


@pytest.fixture
def search(tmp_path):
    """A search with one trial of each kind of end, its ledger closed."""
    with Ledger.create(tmp_path / "search", JOB, FACTS) as ledger:
        start(ledger, "full")
        start(ledger, "dead", number=1, variant=None)
        start(
            ledger, "nan", number=2, study="mlp.zsharp", method="zsharp", params={"q_p": 0.9, "momentum": 0.5}
        )
        start(ledger, "runs", number=3)
        start(ledger, "silent", number=4)
        for epoch, accuracy in ((1, 0.5), (2, 0.75), (3, 0.625)):
            measured = {
                name: {int: 100 * epoch, float: epoch / 8, str: f"x{epoch}"}[kind]
                for name, kind in METRICS.items()
            }
            measured |= {"val_accuracy": accuracy, "beyond_the_schema": 1}
            decision = Decision("continue", 2, 0.7, 5, "0.75 >= 0.7") if epoch == 2 else Decision("continue")
            ledger.report("full", epoch, measured, decision)
            if epoch == 1:
                ledger.report("nan", 1, {"train_loss": math.nan, "val_accuracy": 0.25}, Decision("diverge"))
                ledger.report("runs", 1, {"val_accuracy": None}, Decision("continue"))
        ledger.finish_trial("full", "completed", "full fidelity")
        ledger.finish_trial("dead", "failed", "raised", error="Traceback:\n  line 1\nValueError: no data\n\n")
        ledger.finish_trial("nan", "diverged", "loss not finite")
    return tmp_path / "search"


def by_trial(table):
    return {row["trial_id"]: row for row in table.to_pylist()}


def test_every_trial_is_a_row_whatever_its_end(search):
    files = export(search)
    assert files == [search / "parquet" / f"{name}.parquet" for name in ("trials", "epochs", "confirmations")]
    table = pq.read_table(files[0])
    assert table.column_names == TRIALS
    rows = by_trial(table)
    assert list(rows) == ["full", "dead", "nan", "runs", "silent"]
    assert [row["status"] for row in rows.values()] == ["completed", "failed", "diverged", None, None]
    assert [row["epochs_trained"] for row in rows.values()] == [3, 0, 1, 1, 0]
    assert {row["job"] for row in rows.values()} == {"tiny"}

    full, dead, nan = rows["full"], rows["dead"], rows["nan"]
    said = {"val_accuracy": 0.625, "best_val_accuracy": 0.75, "val_loss": 0.375, "train_loss": 0.375}
    said |= dict.fromkeys(("gradient_evaluations", "peak_memory_bytes", "num_parameters"), 300)
    said |= dict.fromkeys(("device", "node", "gpu_ids"), "x3") | {"wall_s": 0.375}
    said |= {"param.q_p": None, "param.rho": 0.05, "param.lr": 0.1, "param.momentum": None}
    assert full.items() >= said.items()
    assert timedelta(0) <= full["finished_at"] - full["started_at"] < timedelta(minutes=1)
    assert full["started_at"].utcoffset() == timedelta(0)
    silent = words("variant val_accuracy best_val_accuracy val_loss gradient_evaluations device train_s")
    said = {"error": "ValueError: no data", "stop_reason": "raised"} | dict.fromkeys(silent)
    assert dead.items() >= said.items()
    said = {"train_loss": None, "best_val_accuracy": 0.25, "error": None}
    assert nan.items() >= (said | {"param.q_p": 0.9, "param.momentum": 0.5, "param.lr": None}).items()
    assert (rows["runs"]["best_val_accuracy"], rows["runs"]["finished_at"]) == (None, None)


def test_every_report_is_a_row_in_ledger_order(search):
    export(search)
    table = pq.read_table(search / "parquet" / "epochs.parquet")
    assert table.column_names == EPOCHS
    rows = table.to_pylist()
    assert [(row["trial_id"], row["epoch"], row["seq"]) for row in rows] == [
        ("full", 1, 1), ("nan", 1, 2), ("runs", 1, 3), ("full", 2, 4), ("full", 3, 5),
    ]  # fmt: skip
    assert [row["decision"] for row in rows] == ["continue", "diverge", "continue", "continue", "continue"]
    assert [row["study"] for row in rows] == ["mlp.sam", "mlp.zsharp", "mlp.sam", "mlp.sam", "mlp.sam"]
    assert rows[3].items() >= {"rung": 2, "cutoff": 0.7, "num_values": 5, "reason": "0.75 >= 0.7"}.items()
    assert rows[3].items() >= {"lr": 0.25, "kept_fraction": 0.25, "val_accuracy": 0.75}.items()
    assert (rows[0]["rung"], rows[0]["cutoff"], rows[0]["num_values"]) == (None, None, None)
    assert rows[1]["train_loss"] is None
    times = [row["reported_at"] for row in rows]
    assert times == sorted(times)


def test_names_are_text_and_whole_numbers_numbers(tmp_path):
    """Also where a name stands beside numbers, and in confirmations; a parameter may be called like a column."""
    many = (
        {"optimizer": "sgd", "flip": True, "depth": 3, "auto": 1, "seed": "a"},
        {"auto": "auto", "flip": False},
    )
    with Ledger.create(tmp_path, JOB, {}) as ledger:
        for number, params in enumerate(many):
            start(ledger, f"t{number}", number=number, params=params, origin=f"from {number}")
        ledger.confirm("a", {"seed": 4, **{f"param.{name}": value for name, value in many[0].items()}})
    with Ledger.open(tmp_path, read_only=True) as ledger:
        assert [trial["params"] for trial in ledger.trials()] == list(many)
        assert [type(value) for value in ledger.trials()[0]["params"].values()] == [str, bool, int, int, str]
    export(tmp_path)
    results = read_results(tmp_path)
    rows = [{name: row[f"param.{name}"] for name in many[0]} for row in records(results.trials)]
    assert rows[0] == {"optimizer": "sgd", "flip": "true", "depth": 3.0, "auto": "1", "seed": "a"}
    assert rows[1] == {"optimizer": None, "flip": "false", "depth": None, "auto": "auto", "seed": None}
    assert results.trials["origin"].tolist() == ["from 0", "from 1"]
    (confirmed,) = records(results.confirmations)
    assert {name: confirmed[f"param.{name}"] for name in many[0]} == rows[0]
    assert confirmed["seed"] == 4


def test_schema_holds_what_the_ledger_checks():
    arrow = {float: pa.float64(), int: pa.int64(), str: pa.string()}
    trials, epochs = trials_schema(), epochs_schema()
    for name, kind in METRICS.items():
        where = [schema.field(name).type for schema in (trials, epochs) if name in schema.names]
        assert where, name
        assert set(where) == {arrow[kind]}


def test_opens_in_polars_and_duckdb(search):
    trials, epochs, confirmations = export(search)
    polars = pl.read_parquet(trials)
    assert polars.columns == TRIALS
    assert polars["best_val_accuracy"].to_list() == [0.75, None, 0.25, None, None]
    assert pl.read_parquet(confirmations).is_empty()

    best = duckdb.sql(
        f"""SELECT trial_id, max(e.val_accuracy), any_value(t.best_val_accuracy), any_value(t."param.rho")
        FROM '{epochs}' e JOIN '{trials}' t USING (trial_id) GROUP BY trial_id ORDER BY trial_id"""
    ).fetchall()
    assert best == [("full", 0.75, 0.75, 0.05), ("nan", 0.25, 0.25, None), ("runs", None, None, 0.05)]
    pairs = duckdb.sql(f"SELECT key, value FROM parquet_kv_metadata('{trials}')").fetchall()
    assert dict(pairs)[b"git_commit"] == b"0123abcd"


def test_files_say_where_they_come_from(search):
    for file in export(search):
        metadata = pq.read_metadata(file).metadata
        assert int(metadata[b"schema_version"]) == SCHEMA_VERSION
        assert json.loads(metadata[b"job"]) == JOB
        assert json.loads(metadata[b"package_versions"]) == FACTS["package_versions"]
        assert json.loads(metadata[b"hardware"]) == FACTS["hardware"]
        assert (metadata[b"git_commit"], metadata[b"git_dirty"]) == (b"0123abcd", b"false")
        assert b"weights_checksum" not in metadata
    history = {"job": JOB, "job_history": [[0, JOB]], "schema_version": SCHEMA_VERSION}
    assert read_results(search).metadata == FACTS | history
    with Ledger.open(search) as ledger:
        ledger.record_event("start", {"weights_checksum": "0ab1"})
    assert [pq.read_metadata(file).metadata[b"weights_checksum"] for file in export(search)] == [b"0ab1"] * 3


def test_what_is_not_known_is_not_claimed(tmp_path):
    Ledger.create(tmp_path, JOB, {}).close()
    export(tmp_path)
    results = read_results(tmp_path)
    known = {"job": JOB, "job_history": [[0, JOB]], "schema_version": SCHEMA_VERSION}
    assert results.metadata == dict.fromkeys(FACTS) | known
    assert (len(results.trials), len(results.epochs)) == (0, 0)


def test_read_results_gives_back_the_tables(search):
    export(search)
    odd = search.rename(search.with_name("seed=7"))  # only looks like a partition
    results = read_results(odd)
    assert list(results.trials.columns) == TRIALS
    assert list(results.epochs.columns) == EPOCHS
    assert results.trials["gradient_evaluations"].dtype == "Int64"  # a null does not make counts into floats
    assert results.trials["gradient_evaluations"].tolist()[0] == 300


@pytest.mark.parametrize("name", [b"line\nbreak", b"not UTF-8 \xff", "\N{GRINNING FACE}".encode(), b"--help"])
def test_a_folder_of_any_name_is_exported_and_compared(search, tmp_path, name):
    folder = tmp_path / os.fsdecode(name)
    try:
        search.rename(folder)
    except OSError:
        pytest.skip("this file system takes no such name")
    export(folder)
    assert set(compare([folder])["folder"]) == {os.fsencode(folder).decode(errors="backslashreplace")}
    assert collect(read_all([folder])).trials["folder"].nunique() == 1


def test_export_again_shows_what_happened_since(search):
    export(search)
    with Ledger.open(search) as ledger:
        ledger.report("runs", 2, {"val_accuracy": 0.875}, Decision("stop"))
        assert export(search)  # while the search holds the ledger
        ledger.finish_trial("runs", "pruned", "below")
        export(search)
    rows = by_trial(pq.read_table(search / "parquet" / "trials.parquet"))
    said = {"status": "pruned", "epochs_trained": 2, "best_val_accuracy": 0.875}
    assert rows["runs"].items() >= said.items()
    assert sorted(path.name for path in (search / "parquet").iterdir()) == [
        "confirmations.parquet", "epochs.parquet", "trials.parquet",
    ]  # fmt: skip


def test_a_failed_export_leaves_the_files_as_they_were(search):
    files = export(search)
    before = [file.read_bytes() for file in files]
    with Ledger.open(search) as ledger:
        for epoch in range(2, 100):
            ledger.report("runs", epoch, {"device": "x" * 200}, Decision("continue"))
    data = bytearray(ledger.file.read_bytes())
    data[-8192:] = b"\xff" * 8192  # pages of reports
    ledger.file.write_bytes(data)
    with pytest.raises(LedgerError, match="malformed"):
        export(search)
    assert [file.read_bytes() for file in files] == before
    assert len(list((search / "parquet").iterdir())) == 3


def test_confirmations_are_those_of_the_ledger(search):
    schema = confirmations_schema(["momentum"], ["trace"])
    assert " ".join(schema.names) == (
        "job study architecture method seed test_accuracy val_accuracy test_loss sharpness.trace "
        "param.q_p param.rho param.lr param.momentum dataset variant trial_id place budget status epochs "
        "gradient_evaluations train_loss train_s device started_at finished_at error "
        "measured_on search_value role"
    )
    row = {"job": "tiny", "seed": 4, "test_accuracy": 0.5, "sharpness.trace": 2.0, "param.momentum": 0.9}
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    with Ledger.open(search) as ledger:
        ledger.confirm("a", row | {"started_at": moment.isoformat()})
    kept = pq.read_table(export(search)[2])
    assert kept.schema.names == schema.names
    assert kept.to_pylist() == [dict.fromkeys(schema.names) | row | {"started_at": moment}]
    assert kept.schema.metadata[b"git_commit"] == b"0123abcd"
    assert len(read_results(search).confirmations) == 1


def test_export_needs_a_ledger(tmp_path):
    with pytest.raises(LedgerError, match="no such file"):
        export(tmp_path)
    assert list(tmp_path.iterdir()) == []


def rewrite(file, change):
    table = pq.read_table(file)
    pq.write_table(change(table), file)


@pytest.mark.parametrize("name", ["trials", "epochs", "confirmations"])
@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (Path.unlink, "no such file"),
        (lambda file: file.write_text("job,study"), "expected a Parquet file"),
        (lambda file: file.write_bytes(file.read_bytes()[:-9]), "expected a Parquet file"),
        (lambda file: rewrite(file, lambda t: t.replace_schema_metadata(None)), "not written by tune-jobs"),
        (
            lambda file: rewrite(file, lambda t: t.replace_schema_metadata({"schema_version": "2"})),
            "at most 1; update",
        ),
        (lambda file: rewrite(file, lambda t: t.drop_columns(["study"])), "study"),
    ],
)
def test_read_results_refuses_what_is_not_ours(search, damage, match, name):
    export(search)
    file = search / "parquet" / f"{name}.parquet"
    damage(file)
    with pytest.raises(ResultsError, match=match) as caught:
        read_results(search)
    assert str(file) in str(caught.value)


def test_files_of_two_moments_are_refused(search):
    export(search)
    rewrite(search / "parquet" / "trials.parquet", lambda t: t.slice(1))
    with pytest.raises(ResultsError, match=r"epochs\.parquet"):
        read_results(search)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema_version", "1" * 5000),
        ("job", "5"),
        ("job", "[" * 100_000),
        ("job_history", '[[0, {"asha": {"reduction_factor": 1}}]]'),  # its milestones would have no end
        ("hardware", "[1]"),
    ],
)
def test_metadata_of_another_shape_are_refused(search, key, value):
    export(search)
    file = search / "parquet" / "trials.parquet"
    rewrite(file, lambda t: t.replace_schema_metadata(t.schema.metadata | {key.encode(): value.encode()}))
    with pytest.raises(ResultsError, match=r"trials\.parquet"):
        read_results(search)


def test_provenance_of_this_process():
    facts = provenance(["H200"])
    assert json.loads(json.dumps(facts)) == facts
    assert facts["package_versions"]["pyarrow"] == pa.__version__
    assert facts["hardware"]["gpus"] == ["H200"]
    assert 1 <= facts["hardware"]["num_cpus"] <= os.cpu_count()
    assert facts["hardware"]["memory_bytes"] > 2**28
    assert (facts["git_commit"], facts["git_dirty"]) == git_state(Path(provenance_module.__file__))


def test_git_state_is_that_of_a_tracked_source_tree(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    for package in ("one", "two", "installed"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    source = tmp_path / "one" / "__init__.py"
    assert git_state(source) == (None, None)  # no repository
    git("init", "--quiet")
    (tmp_path / ".gitignore").write_text("installed/\n")
    assert git_state(source) == (None, None)  # no commit
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    commit = git("rev-parse", "HEAD")
    assert git_state(source) == (commit, False)
    assert git_state(tmp_path / "installed" / "__init__.py") == (None, None)  # below a checkout, not of it

    (tmp_path / "results.txt").touch()
    assert git_state(source) == (commit, False)  # what lies beside the packages is no source
    (tmp_path / "two" / "new.py").touch()
    assert git_state(source) == (commit, True)
    (tmp_path / "two" / "new.py").unlink()
    source.write_text("changed = True\n")
    assert git_state(source) == (commit, True)

    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))  # as inside another repository's hook
    assert git_state(source) == (commit, True)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(source) == (None, None)  # no git


def test_what_a_task_measures_has_columns_of_its_own_at_the_end(tmp_path):
    with Ledger.create(tmp_path, JOB | {"metric": "val_mae", "mode": "min"}, FACTS) as ledger:
        start(ledger, "a")
        start(ledger, "b", number=1)
        ledger.report("a", 1, {"metrics": {"val_mae": 2.0, "val_r2": 0.5}}, Decision("continue"))
        ledger.report("a", 2, {"metrics": {"val_mae": 1.0, "val_r2": math.nan}}, Decision("continue"))
        ledger.report("b", 1, {"val_loss": 3.0}, Decision("continue"))
        ledger.confirm("a/epochs/2/1", {"study": "mlp.sam", "seed": 1, "metric.test_mae": 1.5})
    export(tmp_path)
    results = read_results(tmp_path)
    assert results.metric == Metric("val_mae", "min")
    assert list(results.trials)[-2:] == list(results.epochs)[-2:] == ["metric.val_mae", "metric.val_r2"]
    assert results.epochs["metric.val_mae"].tolist()[:2] == [2.0, 1.0]
    assert results.trials["metric.val_mae"].isna().tolist() == [False, True]
    assert results.trials.loc[0, "metric.val_mae"] == 1.0
    assert results.epochs["metric.val_r2"].isna().tolist() == [False, True, True]
    assert results.confirmations["metric.test_mae"].tolist() == [1.5]
