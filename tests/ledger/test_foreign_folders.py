"""A search folder from a stranger: links, pipes and bombs in it are refused by name, and nothing elsewhere changes."""

import json
import os
import shutil
import sqlite3
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tune_jobs.errors import LedgerError, ResultsError
from tune_jobs.ledger.writer import Ledger
from tune_jobs.results.log_lines import last_lines
from tune_jobs.results.read import read_results

SEARCH = Path(__file__).parents[1] / "fixtures/search_of_0_1"


@pytest.fixture
def folder(tmp_path):
    """A finished search, beside a folder that is not its own."""
    shutil.copytree(SEARCH, tmp_path / "search")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/mine.txt").write_text("mine")
    return tmp_path / "search"


def link(path):
    """Puts a link to what is elsewhere into the place of a file or folder of the search."""
    path.parent.mkdir(exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(path.parents[len(path.parts) - 1 - path.parts.index("search")] / "elsewhere")


def pipe(path):
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)


def sparse(path):
    with path.open("wb") as file:
        file.truncate(10**11)


@pytest.mark.skipif(os.name == "nt", reason="POSIX files")
@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (link, "checkpoints"),
        (link, "parquet"),
        (link, "tensorboard"),
        (link, "logs"),
        (link, "job.yaml"),
        (link, "parquet/trials.parquet"),
        (link, "checkpoints/resnet8-sam-0000.pt"),
        (pipe, "ledger.sqlite-wal"),
        (pipe, "ledger.sqlite-journal"),
        (pipe, "checkpoints/resnet8-sam-0000.pt"),
        (pipe, "logs/resnet8-sam-0000.log"),
        (sparse, "ledger.sqlite-wal"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_leads_elsewhere_or_never_ends_is_refused(folder, make, name, read_only):
    make(folder / name)
    with pytest.raises(LedgerError, match=str(folder / name)):
        Ledger.open(folder, read_only=read_only)
    assert [path.name for path in (folder.parent / "elsewhere").iterdir()] == ["mine.txt"]


def test_the_folder_itself_may_be_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    with Ledger.open(tmp_path / "link", read_only=True) as ledger:
        assert ledger.trials()


def test_a_trigger_with_a_name_like_those_of_sqlite_is_refused(folder):
    with sqlite3.connect(folder / "ledger.sqlite") as connection:
        connection.execute(
            "CREATE TRIGGER sqlitex AFTER INSERT ON reports BEGIN DELETE FROM reports WHERE seq = 1; END"
        )
    with pytest.raises(LedgerError, match="sqlitex"):
        Ledger.open(folder, read_only=True)


def test_log_lines_are_those_of_a_file(folder):
    logs = folder / "logs"
    logs.mkdir()
    (logs / "one.log").write_text("first\nlast\n")
    (logs / "linked.log").symlink_to(folder.parent / "elsewhere/mine.txt")
    os.mkfifo(logs / "pipe.log")
    assert [last_lines(folder, name, 1) for name in ("one", "linked", "pipe")] == [["last"], [], []]


def test_a_small_file_that_unpacks_to_very_much_is_refused(folder):
    file = folder / "parquet/trials.parquet"
    table = pq.read_table(file)
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 300_000, pa.int32()), ["x" * 20_000])
    many = {
        field.name: text if field.name == "error" else pa.nulls(300_000, field.type) for field in table.schema
    }
    pq.write_table(pa.table(many), file, store_schema=False)
    assert file.stat().st_size < 500_000
    with pytest.raises(ResultsError, match="GiB"):
        read_results(folder)


@pytest.mark.parametrize(
    ("key", "path", "value"),
    [
        ("provenance", "python_version", 3),
        ("provenance", "hardware", {"num_cpus": {}}),
        ("provenance", "hardware", {"cpu_model": {}}),
        ("job", "resources", True),
        ("job", "search", "x"),
        ("job", "data", {"max_images": "many"}),
    ],
)
def test_facts_of_another_type_are_refused_by_name(folder, key, path, value):
    with sqlite3.connect(folder / "ledger.sqlite") as connection:
        (text,) = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        changed = json.dumps(json.loads(text) | {path: value})
        connection.execute("UPDATE meta SET value = ? WHERE key = ?", (changed, key))
    with pytest.raises(LedgerError, match=rf"{key}\.{path}"), Ledger.open(folder, read_only=True) as ledger:
        ledger.jobs()
        assert ledger.provenance
